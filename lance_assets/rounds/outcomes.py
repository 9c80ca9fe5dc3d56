"""How finished rounds came out, read from their tables."""

import polars as pl

from lance_assets.algorithms.measures.progress import RoundOutcome, find_best_round
from lance_assets.algorithms.measures.statistics import compute_independent_difference, compute_paired_difference
from lance_assets.rounds.judging.report import BENCHMARK, CONTROLLED, find_parts
from lance_assets.rounds.round import Round


def read_headline(report: pl.DataFrame, *, model: str = "checkpoint") -> dict | None:
    """The row of a report that rounds are compared by; None where the model has none.

    Greedy accuracy on the world, else the harness's first score, else the length-controlled win rate.
    """
    rows = report.filter((pl.col("model") == model) & (pl.col("task") == "all") & pl.col("stratum").is_null())
    is_judged = pl.col("benchmark") == BENCHMARK
    for wanted in (pl.col("metric") == "greedy", ~is_judged, is_judged & (pl.col("metric") == CONTROLLED)):
        found = rows.filter(wanted)
        if len(found):
            return found.row(0, named=True)
    return None


def read_parts(this_round: Round, headline: dict) -> dict[str, float]:
    """By prompt each item's part in a headline score, which is their mean; none of the harness's are kept."""
    if headline["benchmark"] == BENCHMARK:
        return find_parts(this_round.read("judge_items").filter(model=headline["model"]))
    items = this_round.read("eval_items").filter(model=headline["model"], metric=headline["metric"])
    return dict(items.select("prompt", pl.col("is_correct").cast(pl.Float64)).iter_rows())


def compare_with(this_round: Round, other_key: str) -> tuple[float, float, float]:
    """This round's headline against another round's: mean difference and its 95% interval.

    Paired over the same prompts where both rounds kept their items, otherwise from the two intervals; without an
    interval nothing is known of the noise, and the interval is endless.
    """
    other = this_round.at(other_key)
    after, before = (read_headline(one.read("eval_report")) for one in (this_round, other))
    assert after is not None, "a written eval_report has a headline"
    assert before is not None, "a written eval_report has a headline"
    if (after["benchmark"], after["metric"]) == (before["benchmark"], before["metric"]):
        mine, theirs = read_parts(this_round, after), read_parts(other, before)
        if both := [prompt for prompt in theirs if prompt in mine]:
            return compute_paired_difference([theirs[prompt] for prompt in both], [mine[prompt] for prompt in both])
    return compute_independent_difference(*((one["score"], one["ci_low"], one["ci_high"]) for one in (before, after)))


def read_outcomes(this_round: Round, keys: list[str]) -> list[RoundOutcome]:
    """The outcomes of those rounds among `keys` whose eval_report stands, in order."""
    outcomes: list[RoundOutcome] = []
    for key in keys:
        if not this_round.platform.tables.exists(this_round.plan.name, key, "eval_report"):
            continue
        headline = read_headline(this_round.read("eval_report", key))
        assert headline is not None, "a written eval_report has a headline"
        best = find_best_round({outcome.round_key: outcome.score for outcome in outcomes})
        at_key = this_round.at(key)
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
