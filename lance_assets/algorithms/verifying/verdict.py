"""What a verifier says of a completion, and how that is mixed with a model's review score.

A verdict has a share of 0 to 1: 1 for right, 0 for wrong, between them where a rule counts parts. A completion that
cannot be verified has no share and a reason why not; it is never wrong for that. The mixed score lies on the reviewer's
scale: with weight w it is w times the verdict's place and 1 - w times the review score. A row that lacks one of the two
is unscored, since scores with and without a verdict lie on different scales, unless reviews may stand alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

RIGHT = 1.0
"""The share of a completion that keeps all that was asked."""
MARK = "verifier: "
"""What a verdict begins with where it stands among the reviews of a row."""


@dataclass(frozen=True)
class Verdict:
    """What a verifier says of one completion."""

    share: float | None
    """How much of what was asked holds, 0 to 1; None where the completion could not be verified."""
    reason: str
    """In words: which answer was read and what gold is, which test failed, which rule broke, or why there is none."""
    unverified: str | None = None
    """Why there is no share, as one or two words joined by underscores; None where there is one."""

    def __post_init__(self) -> None:
        assert (self.share is None) != (self.unverified is None), f"a verdict has a share or a reason: {self}"

    @property
    def is_right(self) -> bool | None:
        """Whether all that was asked holds; None where that is not known."""
        return None if self.share is None else self.share == RIGHT


@dataclass(frozen=True)
class Completed:
    """What a verifier is given of a row."""

    row_id: str
    """Its id."""
    prompt: str
    """What was asked."""
    completion: str
    """What is verified."""
    answer: str | None
    """The gold answer, the tests or the rules of its prompt; None where there are none."""


@dataclass(frozen=True)
class RowVerifier:
    """A round's verifier, as a recipe's step is given it."""

    judge: Callable[[Sequence[tuple[str, str, str]]], list[Verdict]]
    """(row id, prompt, completion) of some rows to a verdict each, in order."""
    weight: float
    """The verdict's share of a mixed score, above 0 and at most 1; 1 asks no model."""
    takes_review_alone: bool = False
    """Whether the review score stands alone where there is no verdict."""

    @property
    def is_alone(self) -> bool:
        """Whether the verdict is the only score, so that no model is asked to review."""
        return self.weight == 1.0


def mix_score(
    review_score: float | None,
    verdict: Verdict,
    *,
    weight: float,
    takes_review_alone: bool = False,
    lowest: float,
    highest: float,
) -> float | None:
    """The score of a row by its review and its verdict; None where it has none.

    Args:
        review_score: the mean of the model's reviews, on the scale; None where there is none.
        verdict: the verifier's.
        weight: the verdict's part, above 0 and at most 1.
        takes_review_alone: whether the review score stands alone where there is no verdict.
        lowest: the lowest score of the scale.
        highest: its highest.

    >>> right = Verdict(1.0, "read 4, and gold is 4")
    >>> mix_score(6.0, right, weight=0.5, lowest=0, highest=10), mix_score(None, right, weight=1, lowest=0, highest=10)
    (8.0, 10.0)
    """
    if not 0 < weight <= 1:
        raise ValueError(f"weight must lie above 0 and be at most 1, got {weight}")
    if verdict.share is None:
        return review_score if takes_review_alone and weight < 1 else None
    place = lowest + verdict.share * (highest - lowest)
    if weight == 1:
        return place
    return None if review_score is None else weight * place + (1 - weight) * review_score


def write_verdict(verdict: Verdict) -> str:
    """The verdict as it stands among a row's reviews.

    >>> write_verdict(Verdict(0.0, "read 5, and gold is 4"))
    'verifier: wrong: read 5, and gold is 4'
    """
    said = {None: "unverified", 1.0: "right", 0.0: "wrong"}
    return f"{MARK}{said.get(verdict.share, f'{verdict.share or 0:.0%}')}: {verdict.reason}"
