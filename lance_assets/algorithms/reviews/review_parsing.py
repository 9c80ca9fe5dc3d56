r"""Read the score out of a review, or say why there is none.

Source: LANCE's review prompt asks for a rationale of at most 100 words and then `score: <total>`, 0 to 10; its code
(Control-derek/LANCE, `review_instances_vllm.py`) reads `score: (\d+(\.\d+)?)`.

Differences from the authors' code:

1. The last score statement counts; theirs takes the first, so that "score: 1 for clarity ... score: 9" became 1. Of
   several statements that each name a part ("question score: 4") none is the score.
2. Markdown, brackets, full-width signs, `=`, no space or several, "8/10", "8 out of 10", "8,5", "7 1/2", "4 + 5 = 9",
   English number words and the words for a score in other languages (`score_words`) are read. "score of 8" and "score
   is 8" are read where no labelled statement ("score: 8", "final score is 8") stands and nothing before denies it, and
   "8/10" without the word only where it ends the text or is given ("I'd give it 8/10"), or a number alone.
3. A range, several numbers, or a scale other than 10 is `ambiguous`; theirs takes the first number.
4. A number that a token limit may have cut in two ("score: 1" of 10) is `cut_off`.
5. A review without a score is `Unscored`; theirs becomes 0 where all three fail.
6. What a model thinks before it writes (`<think>`) is no part of the review.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from lance_assets.algorithms.reviews.score_statements import find_statement, is_ambiguous
from lance_assets.algorithms.reviews.score_words import normalise_review, read_number, strip_thinking
from lance_assets.records import FinishReason

UNSCORED_REASONS = {
    "error": "the sample failed in the engine",
    "empty": "nothing was written",
    "cut_off": "the token limit came before the score, or perhaps inside it",
    "no_score": "no score statement: a refusal, a rationale alone, or a placeholder",
    "out_of_range": "the score lies outside the scale",
    "ambiguous": "a range, several different numbers, or a scale other than the one asked for",
    "no_tail": "an expected score was asked for, and the engine told no probabilities where the score stands",
    "low_mass": "an expected score was asked for, and scores hold less than half of the probability there",
}
"""Why a review has no score; the last two only where the expected score is asked for (`expected_score`)."""

_MAY_GO_ON = re.compile(r"[\s.,/–—-]*\Z")
_ENDS_OPEN = re.compile(r"(?:[^\W_]|[\s.,/–—-])\Z")


@dataclass(frozen=True)
class Unscored:
    """A review that gives no score."""

    reason: str
    """One of `UNSCORED_REASONS`."""
    raw_text: str
    """The review as written."""


@dataclass(frozen=True)
class ReadScore:
    """A review's score and where it stands."""

    value: float
    """In the range asked for."""
    written: str
    """The number as written, as "8", "8.5" or "eight"."""
    num_later: int
    """Runs of digits after its first one, as 2 for "8.5/10"."""


@dataclass(frozen=True)
class ReviewResult:
    """The reviews of one row, read."""

    scores: list[float | None]
    """The score of each review; None where it is unscored."""
    unscored_reasons: list[str | None]
    """One of `UNSCORED_REASONS` for each review without a score; None where it has one."""
    review_score: float | None
    """Mean of the scores; None when no review has one."""


def read_score(
    text: str, *, finish_reason: FinishReason = "stop", lowest: float = 0.0, highest: float = 10.0
) -> ReadScore | Unscored:
    """Read a review's score and where it stands; see `parse_review`."""
    if finish_reason == "error":
        return Unscored("error", text)
    if not text.strip():
        return Unscored("empty", text)
    plain = normalise_review(strip_thinking(text))
    statement = find_statement(plain)
    if statement is None:
        return Unscored("cut_off" if finish_reason == "length" else "no_score", text)
    may_go_on = _MAY_GO_ON.match(plain, statement.value.end("number")) and _ENDS_OPEN.search(text[-1:])
    if finish_reason == "length" and may_go_on:
        return Unscored("cut_off", text)
    if is_ambiguous(statement, plain, highest=highest):
        return Unscored("ambiguous", text)
    score, written = read_number(statement.value["number"]), statement.value["number"]
    if not lowest <= score <= highest:
        return Unscored("out_of_range", text)
    num_runs = len(re.findall(r"[0-9]+", plain[statement.value.start("number") :]))
    return ReadScore(score, written, max(0, num_runs - 1))


def parse_review(
    text: str, *, finish_reason: FinishReason = "stop", lowest: float = 0.0, highest: float = 10.0
) -> float | Unscored:
    """Read a review's score.

    Args:
        text: the review as the model wrote it.
        finish_reason: how the sample ended.
        lowest: the smallest score allowed.
        highest: the largest, and the only scale accepted after "/" and "out of".

    Returns:
        The score in [lowest, highest], or why there is none.

    >>> parse_review("Clear and correct. **Score:** 8/10")
    8.0
    >>> parse_review("Between good and very good. score: 7-8").reason
    'ambiguous'
    """
    result = read_score(text, finish_reason=finish_reason, lowest=lowest, highest=highest)
    return result if isinstance(result, Unscored) else result.value


def combine_reviews(reviews: Sequence[float | Unscored]) -> ReviewResult:
    """The reviews of one row together.

    >>> combine_reviews([9.0, Unscored("no_score", "Fine."), 6.0])
    ReviewResult(scores=[9.0, None, 6.0], unscored_reasons=[None, 'no_score', None], review_score=7.5)
    """
    scores = [None if isinstance(review, Unscored) else review for review in reviews]
    known = [score for score in scores if score is not None]
    reasons = [review.reason if isinstance(review, Unscored) else None for review in reviews]
    return ReviewResult(scores, reasons, fmean(known) if known else None)


def score_reviews(
    texts: Sequence[str], finish_reasons: Sequence[FinishReason], *, lowest: float = 0.0, highest: float = 10.0
) -> ReviewResult:
    """Read all reviews of one row.

    Args:
        texts: the reviews.
        finish_reasons: how each sample ended.
        lowest: the smallest score allowed.
        highest: the largest.

    Raises:
        ValueError: the lengths differ.

    >>> score_reviews(["score: 9", "Fine.", "score: 6"], ["stop", "stop", "stop"])
    ReviewResult(scores=[9.0, None, 6.0], unscored_reasons=[None, 'no_score', None], review_score=7.5)
    """
    return combine_reviews(
        [
            parse_review(text, finish_reason=reason, lowest=lowest, highest=highest)
            for text, reason in zip(texts, finish_reasons, strict=True)
        ]
    )
