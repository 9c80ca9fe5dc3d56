"""What is printed of the signals of a model: a table, and figures for the last line."""

from lance_assets.algorithms.measures.signals import Discrimination, Rate, SignalMeasures
from lance_assets.algorithms.reviews.signal_pairs import PAIR_KINDS


def show_rate(rate: Rate) -> str:
    """A rate with its interval.

    >>> show_rate(Rate(0.5, 0.25, 0.75)), show_rate(Rate(None, 0.0, 1.0))
    ('0.50 [0.25, 0.75]', '-')
    """
    return "-" if rate.value is None else f"{rate.value:.2f} [{rate.low:.2f}, {rate.high:.2f}]"


def show_number(value: float | None, form: str = ".2f") -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else format(value, form)


def tabulate(measured: dict[str, SignalMeasures]) -> str:
    """The signals as a Markdown table, a row each."""
    kinds = [kind for kind in PAIR_KINDS if any(kind in own.by_kind for own in measured.values())]
    columns = ["signal", *kinds, "AUC [95%]", "accuracy [95%]", "tied", "unscored", "distinct", "deviation", "length"]
    lines = ["| " + " | ".join(columns) + " |", "| --- |" + " ---: |" * (len(columns) - 1)]
    for name, own in measured.items():
        by_kind = [show_number(own.by_kind[kind].auc.value if kind in own.by_kind else None) for kind in kinds]
        cells = [
            *by_kind,
            show_rate(own.overall.auc),
            show_rate(own.overall.accuracy),
            show_number(own.overall.tied_rate),
            show_number(own.unscored_rate),
            str(own.num_distinct),
            show_number(own.deviation, ".3g"),
            show_number(own.length_bias),
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def describe_discrimination(found: Discrimination) -> dict[str, float | int | None]:
    """A kind's figures for the last line."""
    return {
        "auc": found.auc.value,
        "auc_low": found.auc.low,
        "auc_high": found.auc.high,
        "accuracy": found.accuracy.value,
        "num_pairs": found.num_pairs,
        "num_scored": found.num_scored,
    }


def describe_signal(measured: SignalMeasures) -> dict[str, object]:
    """A signal's figures for the last line."""
    overall = measured.overall
    return describe_discrimination(overall) | {
        "accuracy_low": overall.accuracy.low,
        "accuracy_high": overall.accuracy.high,
        "tied_rate": overall.tied_rate,
        "unscored_rate": measured.unscored_rate,
        "num_distinct": measured.num_distinct,
        "deviation": measured.deviation,
        "length_bias": measured.length_bias,
        "by_kind": {kind: describe_discrimination(own) for kind, own in measured.by_kind.items()},
    }


def describe_reviewer(measured: SignalMeasures | None) -> dict[str, float | None]:
    """What is told of written reviews; all null where they were not measured."""
    return {
        "reviewer_auc": measured.overall.auc.value if measured else None,
        "reviewer_accuracy": measured.overall.accuracy.value if measured else None,
        "unscored_rate": measured.unscored_rate if measured else None,
    }
