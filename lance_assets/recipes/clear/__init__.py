"""CLEAR: a model corrects the set that it is trained on, where a judge is sure of it (arXiv 2403.12776).

One round, with the round's model M, which the round before trained:

    propose     M completes every prompt of the seeds' file, greedily
    signal      a judge compares each completion with the set's, several times in both orders
    correct     the own completion replaces the set's where the judge prefers it with enough confidence
    train       SFT of the base model on the corrected set

Round r0000 is SFT on the seeds. With `seeds.confidence` these are the ones that the base model trusts, which is the
paper's Auto-Filter; any recipe may have it. A seed that it left out is completed all the same, and comes back where its
completion is replaced. There is no code of the authors.

Differences, beside those of `algorithms.selection.confidence` and `algorithms.selection.corrections`:

1.  The confidence in a verdict is the share of `num_votes` verdicts in each order that agree with it; the paper takes
    BSDetector's score of the verdict, which also asks the judge twice whether it is sure.
2.  `compares_by: score` has each completion reviewed by itself and compares the scores, for judges that cannot.
3.  A completion that is the set's own but for case and spaces, that was cut, or that the experiment's filters drop
    replaces nothing.
4.  The judge is the role `reviewer`, by default the round's own model, which the set has trained; the paper's is the
    untrained base model, which `roles: {reviewer: {model: ...}}` names.

Unknown, and chosen here: the confidence above which a completion is replaced (0.8), the base model of each training
(the pretrained one), the number of verdicts (3 in each order).
"""

from collections.abc import Sequence

import polars as pl

from lance_assets.algorithms.filters.contract import Filter
from lance_assets.algorithms.filters.rules import Complete, EvaluationOverlap, SameAsSeed
from lance_assets.algorithms.reviews.review_parsing import ReviewResult
from lance_assets.algorithms.selection.corrections import compare_scores, is_preferred, read_votes
from lance_assets.prompts import PromptStep
from lance_assets.recipes.asking import build_requests
from lance_assets.recipes.clear.forecast import FORECAST
from lance_assets.recipes.clear.settings import ClearSettings
from lance_assets.recipes.contract import Recipe, RoundInputs, Stage
from lance_assets.recipes.steps.judging import (
    build_verdict_ending_sampling,
    build_verdict_sampling,
    follow_verdicts,
    force_verdicts,
    read_verdict,
)
from lance_assets.recipes.steps.reviewing import (
    build_ending_sampling,
    build_review_sampling,
    follow_settings,
    review_rows,
)
from lance_assets.recipes.steps.rows import (
    CleanedRow,
    Example,
    RowReviews,
    Seed,
    build_reviewed_row,
    build_table,
    complete_prompts,
    read_kept,
    read_rows,
)
from lance_assets.recipes.steps.sets import build_no_pairs, reviewed_as_sft_rows, start_sft_set
from lance_assets.records import RAW_GENERATIONS, REVIEWED_SET, SFT_SET, SamplingSettings

Votes = list[list[float | None]]
"""Of one completion the votes of each order."""


Inputs = RoundInputs[ClearSettings]


def build_seed_set(
    inputs: Inputs, file_seeds: pl.DataFrame, earlier_reviewed: dict[str, pl.DataFrame]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Every seed of the file with its latest completion, and how many were replaced."""
    replaced: dict[str, str] = {}
    for key in sorted(earlier_reviewed):
        taken = take_corrections(earlier_reviewed[key])
        replaced |= dict(taken.select("seed_id", "completion").iter_rows())
    latest = [
        replaced.get(row_id, completion) for row_id, completion in file_seeds.select("row_id", "completion").rows()
    ]
    seeds = file_seeds.with_columns(completion=pl.Series(latest, dtype=pl.String))
    return seeds, {"num_pool": len(file_seeds), "num_replaced": len(replaced)}


def generate(inputs: Inputs, seeds: pl.DataFrame, trained: pl.DataFrame) -> pl.DataFrame:
    """M's own completion of every seed's prompt, schema `RAW_GENERATIONS`."""
    rows = complete_prompts(inputs.identity, inputs.ask, read_rows(Seed, seeds), stage="own_completion")
    return build_table(rows, RAW_GENERATIONS)


def list_filters(settings: ClearSettings) -> list[Filter]:
    """Drop what could replace nothing."""
    return [Complete(), EvaluationOverlap(), SameAsSeed()]


def review(inputs: Inputs, cleaned: pl.DataFrame, seeds: pl.DataFrame, raw_generations: pl.DataFrame) -> pl.DataFrame:
    """The judge's confidence that each own completion is better; one that replaces nothing has a drop reason.

    Schema `REVIEWED_SET`: the scores are the votes, those of the first order before those of the second.
    """
    settings, kept = inputs.settings, read_kept(cleaned)
    given = {seed.row_id: seed for seed in read_rows(Seed, seeds)}
    pairs = [(row, given[row.seed_id]) for row in kept]
    judged = _judge_by_verdict(inputs, pairs) if settings.compares_by == "verdict" else _judge_by_score(inputs, pairs)
    rows, reasons = [], []
    for row, (texts, votes) in zip(kept, judged, strict=True):
        flat = [vote for order in votes for vote in order]
        unread = ["unread" if vote is None else None for vote in flat]
        rows.append(build_reviewed_row(row, RowReviews(tuple(texts), ReviewResult(flat, unread, read_votes(votes)))))
        preferred = is_preferred(votes, min_confidence=settings.min_confidence)
        reasons.append(None if preferred else "not_preferred")
    return build_table(rows, REVIEWED_SET).with_columns(drop_reason=pl.Series(reasons, dtype=pl.String))


def _judge_by_verdict(inputs: Inputs, pairs: Sequence[tuple[CleanedRow, Seed]]) -> list[tuple[list[str], Votes]]:
    """What was written, and the votes of each order: first with the own completion as A, then as B."""
    settings, judge = inputs.settings, inputs.identity.of_role("reviewer")
    asked = []
    for row, seed in pairs:
        for order, first, second in (
            ("own_first", row.completion, seed.completion),
            ("given_first", seed.completion, row.completion),
        ):
            texts = {"completion_a": first, "completion_b": second}
            asked.append(
                (f"{row.row_id}:{order}", judge.templates.render("clear/judge_pair", prompt=row.prompt, **texts))
            )
    requests = build_requests(judge, "judge_pair", asked, settings.num_votes)
    samples = inputs.ask("judge_pair", requests)
    if settings.force_ending:
        samples = force_verdicts(inputs.ask, "judge_pair", requests, samples)
    found, number = [], settings.num_votes
    for place in range(len(pairs)):
        own = samples[2 * number * place : 2 * number * (place + 1)]
        verdicts = [read_verdict(sample)[0] for sample in own]
        values = ({"A": 1.0, "B": 0.0, "tie": 0.5}, {"A": 0.0, "B": 1.0, "tie": 0.5})
        votes = [
            [None if verdict is None else values[order][verdict] for verdict in verdicts[order * number :][:number]]
            for order in (0, 1)
        ]
        found.append(([sample.text for sample in own], votes))
    return found


def _judge_by_score(inputs: Inputs, pairs: Sequence[tuple[CleanedRow, Seed]]) -> list[tuple[list[str], Votes]]:
    """What was written, and the votes of the pairs of reviews, which know no order."""
    settings = inputs.settings
    rows = [
        Example(f"{row.row_id}:{side}", row.prompt, completion)
        for row, seed in pairs
        for side, completion in (("own", row.completion), ("given", seed.completion))
    ]
    reviews = review_rows(
        inputs.identity,
        inputs.ask,
        rows,
        rubric=settings.rubric,
        num_reviews=settings.num_votes,
        force_ending=settings.force_ending,
    )
    found = []
    for own, given in zip(reviews[::2], reviews[1::2], strict=True):
        votes = compare_scores(own.result.scores, given.result.scores)
        # A vote is of two reviews, so both of them are shown with it.
        texts = [f"{mine}\n---\n{theirs}" for mine, theirs in zip(own.texts, given.texts, strict=True)]
        found.append((texts, [votes]))
    return found


def take_corrections(reviewed: pl.DataFrame) -> pl.DataFrame:
    """The rows of a reviewed set that replace a completion."""
    return reviewed.filter(pl.col("drop_reason").is_null() & pl.col("review_score").is_not_null())


def describe_reviews(inputs: Inputs, reviewed: pl.DataFrame) -> dict[str, float | int]:
    """How many completions were compared, and how many replace the set's."""
    return {"correction/num_compared": len(reviewed), "correction/num_replaced": len(take_corrections(reviewed))}


def build_sft_set(inputs: Inputs, reviewed: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """The set with its corrections: the rows of the round before, but for the prompts that have a new completion.

    A seed that `seeds.confidence` left out is in it once its completion is replaced. Schema `SFT_SET`.
    """
    taken = take_corrections(reviewed)
    new = reviewed_as_sft_rows(taken, round_key=inputs.round_key)
    is_replaced = pl.col("prompt").is_in(taken["prompt"].implode()) & (pl.col("source") != "eft")
    return pl.concat([new, earlier.filter(~is_replaced)]).cast(SFT_SET)


def list_prompts(settings: ClearSettings) -> tuple[PromptStep, ...]:
    """What the judge is asked with."""
    by_verdict = settings.compares_by == "verdict"
    pair, one = ("prompt", "completion_a", "completion_b"), ("prompt", "completion")
    return (
        PromptStep("judge_pair", ("reviewed_set",), pair, is_asked=by_verdict),
        PromptStep("review", ("reviewed_set",), one, given=settings.rubric.scale, is_asked=not by_verdict),
    )


def sample_verdicts(settings: ClearSettings) -> SamplingSettings:
    """How verdicts are sampled."""
    return build_verdict_sampling(settings.sampling)


def sample_verdict_endings(settings: ClearSettings) -> SamplingSettings:
    """How the endings of comparisons are forced."""
    return build_verdict_ending_sampling()


def sample_reviews(settings: ClearSettings) -> SamplingSettings:
    """How completions are reviewed."""
    return build_review_sampling(settings.sampling, settings.rubric, score_from="text")


def sample_endings(settings: ClearSettings) -> SamplingSettings:
    """How the endings of reviews are forced."""
    return build_ending_sampling(settings.rubric)


RECIPE: Recipe[ClearSettings] = Recipe(
    name="clear",
    settings=ClearSettings,
    stages=(
        Stage("own_completion", asked_in="raw_generations"),
        Stage(
            "judge_pair",
            role="reviewer",
            sampling=sample_verdicts,
            follow_up=lambda settings: follow_verdicts("judge_pair", force_ending=settings.force_ending),
            asked_in="reviewed_set",
        ),
        Stage("judge_pair_ending", role="reviewer", sampling=sample_verdict_endings, asked_in="reviewed_set"),
        Stage(
            "review",
            role="reviewer",
            sampling=sample_reviews,
            follow_up=follow_settings("review"),
            asked_in="reviewed_set",
        ),
        Stage("review_ending", role="reviewer", sampling=sample_endings, asked_in="reviewed_set"),
    ),
    settings_of_step={
        "reviewed_set": (
            *("compares_by", "num_votes", "min_confidence", "lowest_score", "highest_score", "force_ending"),
        ),
        "sft_set": ("trains_on", "sft_on_seeds"),
        "preference_pairs": ("losses",),
        "checkpoint": ("starts_from",),
    },
    build_seed_set=build_seed_set,
    start_sft_set=start_sft_set,
    generate=generate,
    list_filters=list_filters,
    review=review,
    build_sft_set=build_sft_set,
    build_pairs=build_no_pairs,
    describe_reviews=describe_reviews,
    list_prompts=list_prompts,
    completes_left_out_seeds=True,
    ignores_verifier="takes a correction where a judge prefers it to the completion",
    forecast=FORECAST,
)
