"""What the rounds' checkpoints can still do of every task, as continual learning counts it: figures of eval_report."""

from collections.abc import Sequence

import polars as pl

from lance_assets.algorithms.measures.arms import BACKBONE
from lance_assets.algorithms.measures.retention import Continual, Interval, measure_continual
from lance_assets.rounds.headline import read_retained, read_retained_items
from lance_assets.rounds.report import Fact, Measures, Report
from lance_assets.rounds.round import Round
from lance_assets.worlds import ALL_TASKS


def find_continual(this_round: Round, keys: list[str]) -> list[Continual]:
    """What each round can do of all tasks so far, by OP, BWT and the change since the backbone."""
    return measure_continual(
        read_retained(this_round, keys),
        lambda key, row: read_retained_items(this_round, key, row),
        order=this_round.plan.settings.evaluation.task_order,
        untouched=BACKBONE,
    )


def tabulate_continual(found: list[Continual]) -> dict[str, Fact]:
    """A line for each round, and the last round's figures; nothing where no score is of a task."""
    if not found:
        return {}
    names = {"OP": "performance", "BWT": "transfer", "since the backbone": "general"}
    lines: list[dict[str, float | str | None]] = [
        {
            "round": one.round_key,
            "tasks": str(one.num_tasks),
            **{title: say_interval(getattr(one, name)) for title, name in names.items()},
        }
        for one in found
    ]
    last = {f"continual/{name}": getattr(found[-1], name) for name in names.values()}
    own = {name: say_interval(value) for name, value in last.items() if value is not None}
    return {"continual": Measures(lines), **own}


def say_interval(value: Interval | None) -> str:
    """A mean with its interval, or a dash."""
    return "-" if value is None else f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]"


def find_lost_transfer(this_round: Round) -> tuple[Report, list[str]]:
    """The round's backward transfer as a fact, and a sentence where it surely breaks the bar; nothing without any."""
    found = find_continual(this_round, [*this_round.earlier_keys, this_round.key])
    transfer = found[-1].transfer if found and found[-1].round_key == this_round.key else None
    bar = this_round.plan.settings.checks.min_backward_transfer
    if transfer is None:
        return {}, []
    facts: Report = {"backward_transfer": say_interval(transfer)}
    if bar is None:
        return facts, []
    said = f"the backward transfer is {say_interval(transfer)}, below checks.min_backward_transfer={bar:g}"
    return facts | {"min_backward_transfer": bar}, [said] if transfer[2] < bar else []


def require_tasks(scores: pl.DataFrame, order: Sequence[str]) -> None:
    """Check that every task of the order has a score.

    Args:
        scores: schema `EVAL_REPORT`.
        order: `evaluation.task_order`.

    Raises:
        ValueError: one has none.
    """
    known = {*scores["task"], *scores["benchmark"]} - {ALL_TASKS}
    if unknown := [task for task in order if task not in known]:
        raise ValueError(
            f"evaluation.task_order names {unknown[0]!r}, and no score has that task; name some of "
            f"{', '.join(sorted(known))}"
        )
