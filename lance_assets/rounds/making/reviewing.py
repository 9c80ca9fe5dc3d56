"""reviewed_set: seeds and kept completions with all their reviews."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import polars as pl

from lance_assets.algorithms.reviews.forced_endings import is_forced
from lance_assets.algorithms.reviews.review_bias import measure_review_bias
from lance_assets.algorithms.similarity.words import count_words
from lance_assets.rounds.gold import measure_reviews
from lance_assets.rounds.making.holding import describe_gold
from lance_assets.rounds.making.holding import scores_tell as scores_tell  # the check of this noun
from lance_assets.rounds.report import (
    SUMMARY,
    Histogram,
    Judged,
    Made,
    Measures,
    Report,
    count_values,
    round_measure,
)
from lance_assets.rounds.round import Round
from lance_assets.rounds.shown.bars import list_bars
from lance_assets.rounds.shown.samples import sample_rows
from lance_assets.rounds.shown.sentences import say_reviewed
from lance_assets.rounds.verified.showing import describe_verdicts, drop_verdicts
from lance_assets.rounds.verified.verifying import add_verdicts, open_row_verifier


def make_reviewed_set(this_round: Round) -> Made:
    """Let the round's model review every kept completion; nothing in r0000."""
    plan = this_round.plan
    if this_round.is_start:
        return Made(this_round.empty("reviewed_set"))
    seeds, raw = this_round.read("seed_set"), this_round.read("raw_generations")
    with (
        this_round.asking("reviewed_set", this_round.start_path()) as ask,
        open_row_verifier(plan, seeds=seeds, sampled=raw) as verifier,
    ):
        table = plan.recipe.review(
            this_round.build_inputs(ask=ask, read_states=this_round.read_states, verifier=verifier),
            this_round.read("cleaned_set"),
            seeds,
            raw,
        )
        if verifier is not None:
            table = add_verdicts(table, verifier, plan.settings.parameters)
    return Made(table)


def report_reviewed_set(this_round: Round) -> Report:
    """What was scored and what was not, some rows, and what the reviews say of the reviewer."""
    table = this_round.read("reviewed_set")
    earlier = read_earlier_scores(this_round)
    facts: Report = {
        SUMMARY: say_reviewed(table, is_start=this_round.is_start),
        "dagster/row_count": len(table),
        **describe_rows(table, key=this_round.key),
        "scores": Histogram(
            group_scores(table),
            title=f"Review scores, {this_round.key}",
            x_label="review score (points)",
            thresholds=list_bars(this_round.plan.settings.parameters),
            **earlier,
        ),
    }
    facts |= dict(this_round.plan.recipe.describe_reviews(this_round.build_inputs(), table))
    facts |= describe_gold(measure_reviews(this_round, table)) if table["review_score"].count() else {}
    verifier = this_round.plan.settings.verifier
    if verifier is not None and not this_round.is_start:
        facts |= describe_verdicts(table, this_round.plan.settings.parameters, weight=verifier.weight)
        # A verdict is no sample of a reviewer, and has no bias of its own.
        table = drop_verdicts(table)
    return facts | (describe_bias(table) if this_round.plan.settings.parameters.has_reviews else {})


def group_scores(table: pl.DataFrame) -> dict[str, list[float]]:
    """The review scores of each kind of row, schema `REVIEWED_SET`."""
    return {
        str(kind): rows["review_score"].drop_nulls().to_list()
        for (kind,), rows in table.sort("kind").group_by("kind", maintain_order=True)
    }


def read_earlier_scores(this_round: Round) -> dict[str, Any]:
    """The scores of the last round before with a reviewed set, as the fields of `Histogram`; none where none is."""
    keys = [key for key in this_round.earlier_keys if this_round.has("reviewed_set", key)]
    if not keys:
        return {}
    return {"before": group_scores(this_round.read("reviewed_set", keys[-1])), "round_before": keys[-1]}


def describe_rows(table: pl.DataFrame, *, key: str) -> Report:
    """What was scored, what was not and why, what is left out all the same, and some rows."""
    # One review has no spread.
    several = table.filter(pl.col("scores").list.drop_nulls().list.len() > 1)["scores"]
    spread = (several.list.max() - several.list.min()).mean() if len(several) else None
    polished = ["raw_completion"] if table["raw_completion"].count() else []
    return {
        "num_reviews": int(table["reviews"].list.len().sum()),
        "num_forced_endings": sum(map(is_forced, table["reviews"].explode().drop_nulls())),
        "num_unscored_rows": table["review_score"].null_count(),
        "unscored_review_reasons": count_values(table["unscored_reasons"].explode(), of="reason"),
        "drop_reasons": count_values(table["drop_reason"], of="reason"),
        "mean_spread": round_measure(spread if isinstance(spread, float) else None),
        "preview": sample_rows(
            table.with_columns(
                review=pl.col("reviews").list.first(),
                is_scored=pl.col("review_score").is_not_null(),
            ),
            ("row_id", "kind", "prompt", *polished, "completion", "review_score", "scores", "review", "drop_reason"),
            over=("kind", "review_score", "drop_reason", "is_scored"),
            salt=key,
            num_rows=10,
        ),
    }


def describe_bias(table: pl.DataFrame) -> Report:
    """Length bias, spread, and whether the order of sampling matters."""
    bias = measure_review_bias(
        scores=table["review_score"].to_list(),
        reviews=table["scores"].to_list(),
        lengths=[count_words(text) for text in table["completion"]],
        prompts=table["prompt"].to_list(),
    )
    by_number = [
        {
            "review": str(shift.sample_number + 1),
            "rows": str(shift.num_rows),
            "mean score": shift.mean_score,
            "minus the row's others": shift.shift,
            "95% interval": f"{shift.interval[0]:.3f} to {shift.interval[1]:.3f}",
            "exchangeable": "yes" if shift.is_exchangeable else "no",
        }
        # One row has no spread, and so no interval.
        for shift in bias.shifts
        if shift.num_rows > 1
    ]
    return {
        "bias/length": round_measure(bias.score_length_correlation),
        "bias/length_within_prompts": round_measure(bias.within_prompt_correlation),
        "bias/num_prompts": bias.num_prompts,
        "spread/mean_deviation": round_measure(bias.mean_deviation),
        "spread/max_deviation": round_measure(bias.max_deviation),
        "spread/wide_rate": round_measure(bias.wide_rate),
        "reviews_by_number": Measures(by_number),
    }


def unscored_rate(this_round: Round) -> Judged:
    """Whether the shares of unread reviews and of rows without any score are below the bar."""
    table, settings = this_round.read("reviewed_set"), this_round.plan.settings
    # A row without reviews must not count as a review that could not be read.
    scores = table["scores"].explode(empty_as_null=False)
    rates = {
        "unscored_rate": scores.null_count() / len(scores) if len(scores) else 0.0,
        "unscored_row_rate": table["review_score"].null_count() / len(table) if len(table) else 0.0,
    }
    bar, reviews_nothing = settings.checks.max_unscored_rate, not settings.parameters.has_reviews
    passed = reviews_nothing or max(rates.values()) <= bar
    forces = getattr(settings.parameters, "force_ending", True)
    said = None if passed else explain_unscored(table, rates, bar, forces_endings=forces)
    return Judged(
        passed=passed,
        description="This experiment reviews nothing, by its parameters." if reviews_nothing else said,
        facts={**rates, "bar": bar, "num_reviews": len(scores), "num_rows": len(table)},
        found=f"{rates['unscored_rate']:.1%} of {len(scores)} reviews and {rates['unscored_row_rate']:.1%} of "
        f"{len(table)} rows have no score; allowed are {bar:.0%}.",
    )


def explain_unscored(
    table: pl.DataFrame, rates: Mapping[str, float], bar: float, *, forces_endings: bool = True
) -> str:
    """Why too few reviews were scored, in words: the shares, the reasons, two examples and what helps.

    Args:
        table: schema `REVIEWED_SET`.
        rates: the shares of reviews and of rows without a score, 0..1.
        bar: the most that is allowed.
        forces_endings: whether a review without a score was made to end; what helps first where it was not.
    """
    reviews = table.select("reviews", "unscored_reasons").filter(pl.col("reviews").list.len() > 0)
    # Recorded reviews and reasons are lists of one length; a row that came with a score alone has neither.
    reviews = reviews.filter(pl.col("reviews").list.len() == pl.col("unscored_reasons").list.len())
    unread = reviews.explode("reviews", "unscored_reasons").drop_nulls("unscored_reasons")
    counts = Counter(unread["unscored_reasons"].to_list())
    reasons = ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
    examples = unread.unique("unscored_reasons", maintain_order=True)["reviews"].to_list()
    examples = (examples + [text for text in unread["reviews"].to_list() if text not in examples])[:2]
    shown = "; ".join(repr(shorten_text(text)) for text in examples)
    return (
        f"{100 * rates['unscored_rate']:.0f}% of the reviews and {100 * rates['unscored_row_rate']:.0f}% of the rows "
        f"have no score, more than the allowed {100 * bar:.0f}%. Reasons: {reasons or 'no review was asked'}. "
        f"{f'Such reviews are: {shown}. ' if shown else ''}"
        f"What helps: {'' if forces_endings else 'force_ending: true, '}another model as roles.reviewer, score_from: "
        "expected, more tokens by parameters.stages, an engine that constrains reviews, or EFT rows that teach the "
        "model to review; checks.max_unscored_rate moves the bar"
    )


def shorten_text(text: str, *, num_chars: int = 120) -> str:
    """A text's beginning and end, where it is longer than `num_chars`: a review's score stands at its end.

    >>> shorten_text("abcdefghij", num_chars=4)
    'ab ... ij'
    """
    half = num_chars // 2
    return text if len(text) <= num_chars else f"{text[:half]} ... {text[-half:]}"
