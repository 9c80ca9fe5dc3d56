"""What a judge's items say: win rates with their intervals, how many could not be read, and how far length decides."""

from collections.abc import Mapping

import polars as pl

from lance_assets.algorithms.measures.headline import CONTROLLED, JUDGE
from lance_assets.algorithms.measures.win_rates import (
    WinRate,
    compute_length_controlled_rate,
    compute_win_rate,
    measure_longer_rate,
)
from lance_assets.algorithms.reviews.pairwise import summarise_verdicts
from lance_assets.records import EVAL_REPORT
from lance_assets.rounds.report import Report, count_values, round_measure
from lance_assets.rounds.shown.samples import sample_rows
from resources.evaluation.harness_report import EvaluationError

BENCHMARK = JUDGE
"""What eval_report calls it."""

REASONS = ("own_first_reason", "opponent_first_reason", "unscored_reason", "opponent_unscored_reason")
"""Columns that say why a text of the judge could not be read."""

TEXTS = ("own_first_text", "opponent_first_text", "review", "opponent_review")
"""Those texts, in the same order."""


def measure_differences(items: pl.DataFrame) -> list[float]:
    """By how many characters each completion is longer than the opponent's."""
    longer = pl.col("completion").str.len_chars().cast(pl.Float64) - pl.col("opponent_completion").str.len_chars()
    return items.select(longer).to_series().to_list()


def rate_items(items: pl.DataFrame) -> dict[str, WinRate]:
    """The win rates of one model by their metric, over the items that could be read, at least one.

    Args:
        items: schema `JUDGE_ITEMS`, of one model.
    """
    read = items.filter(pl.col("preference").is_not_null())
    preferences, differences = read["preference"].to_list(), measure_differences(read)
    return {
        CONTROLLED: compute_length_controlled_rate(preferences, differences),
        "win_rate": compute_win_rate(preferences),
    }


def find_parts(items: pl.DataFrame, metric: str = CONTROLLED) -> dict[str, float]:
    """By prompt each item's part in a win rate, for the items of one model that could be read."""
    read = items.filter(pl.col("preference").is_not_null())
    return dict(zip(read["prompt"], rate_items(read)[metric].parts.tolist(), strict=True)) if len(read) else {}


def check_read(items: pl.DataFrame, *, max_unread_rate: float, forces_endings: bool = True) -> None:
    """Enough of a model's items could be read.

    Args:
        items: of one model, schema `JUDGE_ITEMS`.
        max_unread_rate: the bar.
        forces_endings: whether a verdict that was cut was made to end; that is the first remedy where it was not.

    Raises:
        EvaluationError: the share of unread items is above the bar, or all are unread.
    """
    unread = items.filter(outcome="unread")
    if len(unread) < len(items) and len(unread) <= max_unread_rate * len(items):
        return
    counted = unread.select(REASONS).unpivot()["value"].drop_nulls().value_counts(sort=True)
    reasons = ", ".join(f"{reason} {count}" for reason, count in counted.iter_rows())
    row = unread.row(0, named=True)
    written = next(row[text] for text, reason in zip(TEXTS, REASONS, strict=True) if row[reason] is not None)
    remedy = "" if forces_endings else "set evaluation.judge.force_ending to true, "
    raise EvaluationError(
        f"the judge cannot be read on {len(unread)} of {len(items)} items of the {row['model']} ({reasons}; the first: "
        f"{written[-200:]!r}), and evaluation.judge.max_unread_rate is {max_unread_rate}; {remedy}take a model "
        "that can judge, raise max_judge_tokens, or judge by the other of verdict and score"
    )


def summarise_judge_items(items: pl.DataFrame) -> pl.DataFrame:
    """The win rates of each model, schema `EVAL_REPORT`, the length-controlled one first.

    Args:
        items: schema `JUDGE_ITEMS`; of each model at least one item that could be read.
    """
    rows: list[Mapping[str, object]] = []
    for (model,), mine in items.group_by("model", maintain_order=True):
        names = {"model": model, "benchmark": BENCHMARK, "task": "all", "num_items": mine["preference"].count()}
        rows += [
            names
            | {"metric": metric, "score": rate.rate, "ci_low": rate.low, "ci_high": rate.high, "higher_is_better": True}
            for metric, rate in rate_items(mine).items()
        ]
    return pl.DataFrame(rows, schema=EVAL_REPORT)


def measure_length_ratio(items: pl.DataFrame) -> float | None:
    """Mean characters of the completions over those of the opponent's; None where these are all empty."""
    own, other = (sum(map(len, items[name])) for name in ("completion", "opponent_completion"))
    return own / other if other else None


def describe_judging(items: pl.DataFrame) -> Report:
    """What a person sees of the judge and of the lengths, as metadata; nothing for no items.

    Args:
        items: schema `JUDGE_ITEMS`, of one model.
    """
    if items.is_empty():
        return {}
    read = items.filter(pl.col("preference").is_not_null())
    report: Report = {
        "judge/num_items": len(items),
        "judge/num_unread": items["preference"].null_count(),
        "judge/length_ratio": round_measure(measure_length_ratio(items)),
        "judge/longer_preferred_rate": round_measure(
            measure_longer_rate(read["preference"].to_list(), measure_differences(read))
        ),
        # One item has a length and an outcome, and no effect of the one on the other.
        "judge/length_effect": round_measure(rate_items(read)[CONTROLLED].length_effect if len(read) > 1 else None),
        "judge/outcomes": count_values(items["outcome"], of="outcome"),
        "judge/preview": sample_rows(
            items.with_columns(row_id="prompt"),
            ("outcome", "prompt", "completion", "opponent_completion", "judge_score", "opponent_judge_score"),
            over=("outcome",),
            salt="judge",
        ),
    }
    shown_together = items.filter(pl.col("own_first_text").is_not_null())
    if len(shown_together):
        verdicts = summarise_verdicts(shown_together.select("own_first_verdict", "opponent_first_verdict").rows())
        report |= {
            "judge/flip_rate": round_measure(verdicts.flip_rate),
            "judge/first_shown_rate": round_measure(verdicts.first_rate),
        }
    return report
