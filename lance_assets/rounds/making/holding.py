"""scores_tell, the check that a round's review scores are worth choosing by: they differ, and are not upside down.

Where right and wrong are known (`rounds/gold.py`), every round measures its own reviews: r0000's `review_signal` is of
pairs made by rule and of another model.
"""

import polars as pl

from lance_assets.algorithms.measures.gold_accuracy import GoldAccuracy
from lance_assets.algorithms.measures.sameness import Sameness, find_commonest
from lance_assets.rounds.gold import find_right, measure_reviews
from lance_assets.rounds.making.measuring import describe_rate, list_remedies
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.report import Judged, Report, Rows, round_measure
from lance_assets.rounds.round import Round
from lance_assets.settings.checks import CheckSettings

MIN_SCORED = 20
"""Fewest scored rows whose scores are expected to differ: a handful of good rows may well have one score."""


def describe_gold(accuracy: GoldAccuracy) -> Report:
    """The figures that a person sees of a round's reviews against gold."""
    auc = accuracy.auc
    return {
        "gold/num_right": accuracy.num_right,
        "gold/num_wrong": accuracy.num_wrong,
        "gold/auc": round_measure(auc.value),
        **({} if auc.value is None else {"gold/auc_interval": f"{auc.low:.4f} to {auc.high:.4f}"}),
    }


def say_accuracy(accuracy: GoldAccuracy, bar: float | None) -> str:
    """What is known of a round's reviews, in a sentence."""
    counts = f"{accuracy.num_right} right and {accuracy.num_wrong} wrong rows with a score"
    if accuracy.auc.value is None:
        if not accuracy.num_right and not accuracy.num_wrong:
            return (
                "Of no scored row is it known whether it is right, so these reviews are held against nothing: no seed "
                "of its prompt has a gold answer (seeds.answer_field), and no world reads it (evaluation.world)."
            )
        return f"Right and wrong rows are needed to hold reviews against gold, and there are {counts}."
    said = f"The AUC of the scores is {describe_rate(accuracy.auc)} over {counts}."
    if bar is not None and not accuracy.can_be_below(bar):
        return (
            f"{said} These are too few to tell: right or wrong rows are of {accuracy.num_independent} prompts, and of "
            f"so few not even an AUC of 0 lies surely below {bar:g}."
        )
    return said


def scores_tell(this_round: Round) -> Judged:
    """Whether a round's review scores differ and, where right and wrong are known, are not below the bar."""
    plan, table = this_round.plan, this_round.read("reviewed_set")
    scored = table.filter(pl.col("review_score").is_not_null())
    if scored.is_empty():
        said = "r0000 reviews nothing." if this_round.is_start else "No row of this round has a review score."
        return Judged(passed=True, description=said)
    return judge_scores(plan, scored, find_right(this_round, scored), measure_reviews(this_round, scored))


def judge_scores(plan: Plan, scored: pl.DataFrame, is_right: list[bool | None], accuracy: GoldAccuracy) -> Judged:
    """What the check says.

    Args:
        plan: whose bars hold.
        scored: the rows with a score, schema `REVIEWED_SET`.
        is_right: of each of them, None where it is not known.
        accuracy: what was measured of them.
    """
    bars, commonest = plan.settings.checks, find_commonest(scored["review_score"])
    bar = bars.min_gold_auc
    is_equal = commonest.total >= MIN_SCORED and commonest.rate > bars.max_equal_score_rate
    is_below = bar is not None and accuracy.is_below(bar)
    wrong = scored.filter(~pl.Series(is_right, dtype=pl.Boolean)).sort("review_score", descending=True)
    told = [say_accuracy(accuracy, bar)]
    if is_equal:
        told.insert(0, say_equal(plan, scored, commonest))
    if bar is not None and is_below:
        told.insert(0, say_below(plan, accuracy, bar, wrong))
    facts: Report = {
        **describe_gold(accuracy),
        "num_unknown": len(scored) - accuracy.num_right - accuracy.num_wrong,
        "commonest_score": commonest.examples[0],
        "equal_score_rate": round(commonest.rate, 4),
        "max_equal_score_rate": bars.max_equal_score_rate,
        **({} if bar is None else {"min_gold_auc": bar}),
        "wrong_rows": Rows(wrong, ("prompt", "completion", "review_score", "answer")),
    }
    return Judged(
        passed=not (is_equal or is_below),
        # A verdict of good or bad may well be the same of all rows, which chooses nothing and spoils nothing.
        is_error=is_below or (plan.settings.parameters.has_scale and not has_verdicts_alone(plan)),
        facts=facts,
        description=" ".join(told if is_equal or is_below else [*told, say_bars(commonest, bars)]),
    )


def has_verdicts_alone(plan: Plan) -> bool:
    """Whether every score is a verifier's verdict, of which there are two."""
    return plan.settings.verifier is not None and plan.settings.verifier.is_alone


def say_bars(commonest: Sameness, bars: CheckSettings) -> str:
    """Of how many rows the commonest score is, and what both bars are, in a sentence."""
    auc = "" if bars.min_gold_auc is None else f", and an AUC may not lie wholly below {bars.min_gold_auc:g}"
    return (
        f"{commonest.rate:.0%} of {commonest.total} scored rows have the commonest score; at most "
        f"{bars.max_equal_score_rate:.0%} may{auc}."
    )


def say_equal(plan: Plan, scored: pl.DataFrame, commonest: Sameness) -> str:
    """That nearly all scores are one, with a review of it and what helps."""
    reviews = scored.filter(pl.col("review_score") == float(commonest.examples[0]))["reviews"].explode()
    shown = f"Such a review is: {reviews[0]!r}. " if len(reviews) and reviews[0] else ""
    return (
        f"{commonest.rate:.0%} of the {commonest.total} scored rows have one score, {commonest.examples[0]}, more than "
        f"checks.max_equal_score_rate={plan.settings.checks.max_equal_score_rate:g}: such scores choose nothing, since "
        f"every row passes a threshold or none does. {shown}Try one of: {'; '.join(list_remedies(plan))}."
    )


def say_below(plan: Plan, accuracy: GoldAccuracy, bar: float, wrong: pl.DataFrame) -> str:
    """That wrong rows have the higher scores, with the wrong row that has the highest, and what helps."""
    worst = wrong.row(0, named=True)
    return (
        f"The reviewer scores wrong completions higher than right ones: the AUC {describe_rate(accuracy.auc)} lies "
        f"wholly below checks.min_gold_auc={bar:g}, so that training would teach the mistakes. Wrong "
        f"and scored {worst['review_score']:g} is {worst['completion'][:160]!r} to {worst['prompt'][-160:]!r}. Try one "
        f"of: {'; '.join(list_remedies(plan))}."
    )
