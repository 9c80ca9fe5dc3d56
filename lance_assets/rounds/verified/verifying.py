"""A round's rows and what a verifier says of them: with the gold answers of the round's seeds.

A row's gold answer, tests or rules are those of the round's seed with the same prompt. A prompt that a model wrote has
none, and its rows are unverified, unless `without_gold: majority` takes the commonest answer of its samples.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import polars as pl

from lance_assets.algorithms.reviews.review_parsing import ReviewResult
from lance_assets.algorithms.verifying.answers import choose_majority
from lance_assets.algorithms.verifying.verdict import Completed, RowVerifier, Verdict
from lance_assets.recipes.axes import AxisSettings
from lance_assets.recipes.steps.rows import ReviewedRow, RowReviews, build_table, read_rows
from lance_assets.recipes.steps.verifying import add_verdict
from lance_assets.records import REVIEWED_SET
from lance_assets.rounds.deciding.decisions import find_scale
from lance_assets.rounds.plan import Plan
from resources.verifying.settings import VerifierSettings
from resources.verifying.verifier import Judge, open_verifier

COMMONEST = "the commonest answer of its samples stands for gold"


@contextmanager
def open_row_verifier(
    plan: Plan, *, seeds: pl.DataFrame, sampled: pl.DataFrame | None = None
) -> Iterator[RowVerifier | None]:
    """The experiment's verifier on a round's rows; None where it has none.

    Args:
        plan: the experiment.
        seeds: the round's, schema `SEED_SET`.
        sampled: all samples of the round, schema `RAW_GENERATIONS`; the commonest answers are taken of those that
            answer their prompt (`Recipe.list_answers`).

    Raises:
        SandboxError: programs cannot be run in a sandbox here.
    """
    if plan.settings.verifier is None:
        yield None
        return
    with build_row_verifier(plan, plan.settings.verifier, seeds, sampled) as verifier:
        yield verifier


@contextmanager
def build_row_verifier(
    plan: Plan, settings: VerifierSettings, seeds: pl.DataFrame, sampled: pl.DataFrame | None
) -> Iterator[RowVerifier]:
    """The verifier with what is known of the round's prompts."""
    mark = plan.settings.seeds.answer_after
    gold = {prompt: answer for prompt, answer in seeds.select("prompt", "answer").iter_rows() if answer}
    commonest: Mapping[str, str] = {}
    if settings.without_gold == "majority" and sampled is not None:
        commonest = choose_majority(
            [row for row in plan.recipe.list_answers(sampled).iter_rows() if row[0] not in gold],
            settings.read_answers(mark),
            min_agreement=settings.min_agreement,
            min_votes=settings.min_votes,
        )
    with open_verifier(settings, folder=plan.folder, answer_after=mark) as judge:
        yield RowVerifier(
            lambda rows: judge_rows(judge, rows, gold, commonest),
            settings.weight,
            settings.without_verdict == "review",
        )


def judge_rows(
    judge: Judge, rows: Sequence[tuple[str, str, str]], gold: Mapping[str, str], commonest: Mapping[str, str]
) -> list[Verdict]:
    """A verdict for each (row id, prompt, completion), in order."""
    known = {**commonest, **gold}
    asked = [Completed(*row, known[row[1]] if row[1] in known else None) for row in rows]
    verdicts = judge.judge(asked)
    return [
        replace(verdict, reason=f"{verdict.reason} ({COMMONEST})") if row.prompt in commonest else verdict
        for row, verdict in zip(asked, verdicts, strict=True)
    ]


def add_verdicts(reviewed: pl.DataFrame, verifier: RowVerifier, parameters: AxisSettings) -> pl.DataFrame:
    """A reviewed set with the verdict of each row as its last review, and the mixed score.

    Args:
        reviewed: what the recipe's `review` returned, schema `REVIEWED_SET`.
        verifier: judges, and says how it is mixed.
        parameters: the recipe's, which have the scale.

    Returns:
        The same rows in order. A seed that was not reviewed again keeps the score that it came with.
    """
    scale = find_scale(parameters)
    assert scale is not None, "an experiment with a verifier has reviews: checked when its file is loaded"
    rows = read_rows(ReviewedRow, reviewed)
    is_judged = [verifier.is_alone or row.kind != "seed" or len(row.reviews) > 0 for row in rows]
    judged = [row for row, wanted in zip(rows, is_judged, strict=True) if wanted]
    verdicts = iter(verifier.judge([(row.row_id, row.prompt, row.completion) for row in judged]))
    return build_table(
        [
            _join(row, next(verdicts), verifier, scale) if wanted else row
            for row, wanted in zip(rows, is_judged, strict=True)
        ],
        REVIEWED_SET,
    )


def _join(row: ReviewedRow, verdict: Verdict, verifier: RowVerifier, scale: tuple[float, float]) -> ReviewedRow:
    own = RowReviews(tuple(row.reviews), ReviewResult(list(row.scores), list(row.unscored_reasons), row.review_score))
    both = add_verdict(own, verdict, verifier, scale=scale)
    return replace(
        row,
        reviews=both.texts,
        scores=tuple(both.result.scores),
        unscored_reasons=tuple(both.result.unscored_reasons),
        review_score=both.result.review_score,
    )
