"""How finished rounds came out, read from their tables."""

import math

import polars as pl

from lance_assets.algorithms.progress import RoundOutcome, find_best_round
from lance_assets.algorithms.statistics import compute_paired_difference
from lance_assets.assets.rounds import Round


def read_headline(report: pl.DataFrame, *, model: str = "checkpoint") -> dict | None:
    """The row of a report that rounds are compared by: greedy accuracy on the small world, else its first row."""
    rows = report.filter((pl.col("model") == model) & (pl.col("task") == "all") & pl.col("rung").is_null())
    greedy = rows.filter(pl.col("metric") == "greedy")
    chosen = greedy if len(greedy) else rows
    return chosen.row(0, named=True) if len(chosen) else None


def compare_with(this_round: Round, other_key: str) -> tuple[float, float, float]:
    """This round's headline against another round's: mean difference and its 95% interval.

    Paired over the same held-out prompts where both rounds kept their items, otherwise from the two intervals; without
    an interval nothing is known of the noise, and the interval is endless.
    """
    mine, theirs = (this_round.read("eval_items", key) for key in (this_round.key, other_key))
    columns = ["prompt", "is_correct"]
    greedy = (pl.col("model") == "checkpoint") & (pl.col("metric") == "greedy")
    both = theirs.filter(greedy).select(columns).join(mine.filter(greedy).select(columns), on="prompt", suffix="_after")
    if len(both):
        return compute_paired_difference(both["is_correct"].to_list(), both["is_correct_after"].to_list())
    after, before = (read_headline(this_round.read("eval_report", key)) for key in (this_round.key, other_key))
    assert after is not None, "a written eval_report has a headline"
    assert before is not None, "a written eval_report has a headline"
    difference = after["score"] - before["score"]
    if None in (after["ci_low"], before["ci_low"]):
        return difference, -math.inf, math.inf
    width = ((after["ci_high"] - after["ci_low"]) ** 2 + (before["ci_high"] - before["ci_low"]) ** 2) ** 0.5 / 2
    return difference, difference - width, difference + width


def read_outcomes(this_round: Round, keys: list[str]) -> list[RoundOutcome]:
    """The outcomes of those rounds among `keys` whose eval_report stands, in order."""
    outcomes: list[RoundOutcome] = []
    for key in keys:
        if not this_round.platform.tables.exists(this_round.plan.name, key, "eval_report"):
            continue
        headline = read_headline(this_round.read("eval_report", key))
        assert headline is not None, "a written eval_report has a headline"
        best = find_best_round({outcome.round_key: outcome.score for outcome in outcomes})
        at_key = Round(this_round.plan, this_round.platform, key, this_round.log)
        costs = this_round.read_costs(key).values()
        outcomes.append(
            RoundOutcome(
                round_key=key,
                score=headline["score"],
                is_regression=best is not None and compare_with(at_key, best)[2] < 0,
                num_tokens=sum(cost.completion_tokens for cost in costs),
                seconds=sum(cost.seconds for cost in costs),
            )
        )
    return outcomes


def format_score(row: dict) -> str:
    """A score with its interval, where it has one."""
    if row["ci_low"] is None:
        return f"{row['score']:.3f}"
    return f"{row['score']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
