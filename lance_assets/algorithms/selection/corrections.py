"""Which completions of a data set a model's own ones replace: the step Auto-Correct of CLEAR.

Source: CLEAR (Chen and Mueller, arXiv 2403.12776). A model that was trained on the filtered set completes every prompt,
and a judge says which of both completions is better. The own one replaces the set's where the judge prefers it with
enough confidence.

Differences:

1. The confidence in a verdict is the share of several verdicts that agree with it; the paper's is BSDetector's.
2. Half of the verdicts are asked with the completions in the other order, and a completion that is not preferred in
   both orders replaces nothing.
3. A verdict that cannot be read is left out of the share, and an order without any leaves the set's completion.
4. `compare_scores` takes two reviews for a verdict, for judges that cannot compare.
"""

from collections.abc import Sequence
from statistics import fmean


def read_votes(votes: Sequence[Sequence[float | None]]) -> float | None:
    """The confidence that the own completion is the better one.

    Args:
        votes: those of each order: 1 for the own completion, 0 for the set's, 0.5 for neither; None where a vote could
            not be read.

    Returns:
        The mean over the orders of each one's mean, 0..1; None where an order has no vote that could be read.

    >>> read_votes([[1.0, 1.0, 0.0], [1.0, None]])
    0.8333333333333333
    """
    known = [[vote for vote in order if vote is not None] for order in votes]
    return fmean(map(fmean, known)) if known and all(known) else None


def is_preferred(votes: Sequence[Sequence[float | None]], *, min_confidence: float) -> bool:
    """Whether the own completion replaces the set's: preferred in every order, and in all by at least the confidence.

    >>> is_preferred([[1.0, 1.0], [0.5, 0.5]], min_confidence=0.7)
    False
    """
    confidence = read_votes(votes)
    if confidence is None or confidence < min_confidence:
        return False
    return all(fmean([vote for vote in order if vote is not None]) > 0.5 for order in votes)


def compare_scores(own: Sequence[float | None], given: Sequence[float | None]) -> list[float | None]:
    """A vote of each pair of scores: 1 where the own completion scores higher, 0.5 where both score the same.

    Args:
        own: the scores of the own completion, None where one could not be read.
        given: as many, of the set's.

    Raises:
        ValueError: they are not as many.

    >>> compare_scores([9.0, 5.0, None], [4.0, 5.0, 2.0])
    [1.0, 0.5, None]
    """
    if len(own) != len(given):
        raise ValueError(f"both completions need as many scores, got {len(own)} and {len(given)}")
    return [
        None if mine is None or theirs is None else 0.5 if mine == theirs else float(mine > theirs)
        for mine, theirs in zip(own, given, strict=True)
    ]
