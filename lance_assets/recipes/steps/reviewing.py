r"""How a recipe lets its reviewer score completions: a rubric, the requests, and what is read from the samples.

A recipe with another scale is another `Rubric`. Where an engine can constrain what is sampled, the rubric's grammar
makes every review end in a score that `parse_review` reads; where it cannot, the parser is tolerant and says why there
is no score.

`score_from` chooses what counts as a review's score: "text" is the score as written, "expected" the mean over the
probabilities of the scores at that place (`compute_expected_score`). A review without an expected score is then
unscored: the two are never mixed, since expected scores are drawn to the middle of the scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lance_assets.algorithms.reviews.review_parsing import (
    ExpectedScore,
    Unscored,
    combine_reviews,
    compute_expected_score,
    parse_review,
)
from lance_assets.prompts import render_prompt
from lance_assets.recipes.asking import RoundIdentity, build_requests
from lance_assets.recipes.steps.rows import Generation, RowReviews, Shown
from lance_assets.records import Ask, FinishReason, Request, Sample, SamplingSettings

ScoreFrom = Literal["text", "expected"]
"""What counts as a review's score."""

TAIL_TOKENS = 8
"""Last tokens of a review whose alternatives are asked for: enough for "**score: 10/10**"."""
_RATIONALE = r"[^<\s](.|\n)*(\n|[.!?)] )"
"""Free text that does not open with a tag, up to a line end or the end of a sentence."""
_ENDING = r"\*{0,3}\.?\*{0,3}[ \n]{0,3}"
"""What may follow what counts."""


def build_grammar(label: str, value: str) -> str:
    """A regular expression for free text that ends in `label: value`, perhaps bold.

    Args:
        label: a regular expression, as "[Vv]erdict".
        value: the same, with its own brackets where it has alternatives.
    """
    return rf"{_RATIONALE}\*{{0,3}}{label}:\*{{0,3}} \*{{0,3}}{value}{_ENDING}"


def build_score_grammar(*, lowest: int, highest: int) -> str:
    r"""A regular expression for a rationale and then `score: n`, n on the scale with at most one decimal.

    Everything else in it is what models put around the score: a capital S, bold, the scale after it, a full stop. A
    rationale may say anything, earlier scores included, since the last statement counts. So no word of a good review is
    forbidden; what is constrained is where a review may end. One that would end without a score, such as a refusal,
    goes on until it has one or is cut off.

    Raises:
        ValueError: the scale does not lie within 0 to 10.
    """
    if not 0 <= lowest < highest <= 10:
        raise ValueError(f"a rubric's scale must lie within 0 to 10, got {lowest} to {highest}")
    number = rf"({highest}(\.0)?|[{lowest}-{highest - 1}](\.[0-9])?)"
    return build_grammar("[Ss]core", rf"{number}(/{highest})?")


@dataclass(frozen=True)
class Rubric:
    """What a reviewer is asked and on which scale it answers."""

    step: str
    """The prompt template, as "lance/review"; given `prompt`, `completion` and the scale's `highest`."""
    lowest: int
    """The smallest score."""
    highest: int
    """The largest, 10 at most."""

    @property
    def grammar(self) -> str:
        """The regular expression of a whole review."""
        return build_score_grammar(lowest=self.lowest, highest=self.highest)


def build_review_sampling(sampling: SamplingSettings, rubric: Rubric, *, score_from: ScoreFrom) -> SamplingSettings:
    """How reviews are sampled: by the rubric's grammar, and with the last tokens' probabilities where they count."""
    return replace(sampling, grammar=rubric.grammar, tail_tokens=TAIL_TOKENS if score_from == "expected" else 0)


def build_review_requests(
    identity: RoundIdentity, stage: str, rows: Sequence[Shown], *, rubric: Rubric, num_reviews: int
) -> list[Request]:
    """Requests for all reviews of each row, row by row, asked with the templates of the role `reviewer`."""
    reviewer, scale = identity.of_role("reviewer"), {"highest": str(rubric.highest)}
    asked = [
        (
            row.row_id,
            render_prompt(reviewer.prompt_profile, rubric.step, prompt=row.prompt, completion=row.completion, **scale),
        )
        for row in rows
    ]
    return build_requests(reviewer, stage, asked, num_reviews)


def review_rows(
    identity: RoundIdentity,
    ask: Ask,
    rows: Sequence[Shown],
    *,
    rubric: Rubric,
    num_reviews: int,
    score_from: ScoreFrom = "text",
) -> list[RowReviews]:
    """The reviews of each row, in order, by the stage `review`.

    Args:
        identity: the round.
        ask: asks the reviewer; the recipe's stage `review` says how it samples (`build_review_sampling`).
        rows: what is reviewed.
        rubric: what is asked, and the scale.
        num_reviews: reviews of each row, 0 or more.
        score_from: what counts as a review's score.
    """
    requests = build_review_requests(identity, "review", rows, rubric=rubric, num_reviews=num_reviews)
    samples = ask("review", requests)
    reviews = [read_review(sample, rubric=rubric, score_from=score_from) for sample in samples]
    texts = [sample.text for sample in samples]
    own = [slice(place * num_reviews, (place + 1) * num_reviews) for place in range(len(rows))]
    return [RowReviews(tuple(texts[part]), combine_reviews(reviews[part])) for part in own]


def read_review(sample: Sample, *, rubric: Rubric, score_from: ScoreFrom) -> float | Unscored:
    """A review's score, or why there is none."""
    scale = {"lowest": float(rubric.lowest), "highest": float(rubric.highest)}
    if score_from == "text":
        return parse_review(sample.text, finish_reason=sample.finish_reason, **scale)
    expected = compute_expected_score(sample, **scale)
    return expected.value if isinstance(expected, ExpectedScore) else expected


def record_expected(generation: Generation, sample: Sample, *, rubric: Rubric, score_from: ScoreFrom) -> Generation:
    """A review's generation with what its text alone does not hold: the expected score, or why there is none."""
    if score_from == "text":
        return generation
    review = read_review(sample, rubric=rubric, score_from=score_from)
    if isinstance(review, Unscored):
        return replace(generation, unscored_reason=review.reason)
    return replace(generation, expected_score=review)


def read_recorded(
    raw_text: str,
    finish_reason: FinishReason,
    expected_score: float | None,
    unscored_reason: str | None,
    *,
    rubric: Rubric,
    score_from: ScoreFrom,
) -> float | Unscored:
    """The score that `read_review` gave, read again from a row of raw_generations.

    Raises:
        ValueError: expected scores are wanted, and the row was recorded without.
    """
    if score_from == "text":
        return parse_review(
            raw_text, finish_reason=finish_reason, lowest=float(rubric.lowest), highest=float(rubric.highest)
        )
    if expected_score is not None:
        return expected_score
    if unscored_reason is None:
        raise ValueError(
            "score_from is expected, and raw_generations holds no expected scores: materialize raw_generations again"
        )
    return Unscored(unscored_reason, raw_text)
