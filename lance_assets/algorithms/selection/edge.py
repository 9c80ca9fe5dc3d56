"""Which questions lie at the edge of what a model can do: those that about half of its own answers agree on.

Source: R-Zero (arXiv 2508.05004), sections 3.2 and 3.3. Of a question that a model answered m times, the commonest
answer is its pseudo-label, and the share of the m that give it is p. A proposer earns 1 - 2 |p - 1/2| for a question,
less a penalty for what many others of the batch say too, and at least 0. A question is trained on where
|p - 1/2| <= delta.

An answer that cannot be read is an answer that agrees with none: it counts among the m, and never in p. The recipe's
docstring (`recipes/r_zero`) says where the authors' code does otherwise.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lance_assets.algorithms.reviews.answer_matching import normalise_answer

_ROUNDING = 1e-9
"""0.7 - 0.5 is 0.19999999999999996."""

EDGE_REASONS = {
    "no_answer": "no answer to it could be read",
    "too_hard": "too few of its answers agree: p is below 1/2 - delta",
    "too_easy": "too many of its answers agree: p is above 1/2 + delta",
}
"""Why a question is not trained on, in the order in which it is checked."""


@dataclass(frozen=True)
class Vote:
    """What the answers to one question agree on."""

    answer: str | None
    """The commonest answer as its first sample wrote it; None where no answer could be read."""
    share: float
    """p, the share of all samples that give it, 0 to 1."""
    agrees: tuple[bool, ...]
    """Whether each sample gives it, in order."""


def vote(answers: Sequence[str | None]) -> Vote:
    """The commonest of a question's answers; of equally common ones the one that was given first.

    Args:
        answers: of each sample the final answer as written, None where none could be read; at least one sample.

    Raises:
        ValueError: there is no sample.

    >>> vote(["4", "5", "4.0", None])
    Vote(answer='4', share=0.5, agrees=(True, False, True, False))
    """
    if not answers:
        raise ValueError("a question has no answers to vote on; ask for at least one")
    normal = [None if answer is None else normalise_answer(answer) for answer in answers]
    counts = Counter(one for one in normal if one is not None)
    if not counts:
        return Vote(None, 0.0, (False,) * len(answers))
    commonest, number = counts.most_common(1)[0]
    agrees = tuple(one is not None and one == commonest for one in normal)
    return Vote(answers[agrees.index(True)], number / len(answers), agrees)


def find_edge_fault(found: Vote, *, delta: float) -> str | None:
    """Why a question is not at the edge, one of `EDGE_REASONS`; None where it is.

    Args:
        found: what its answers agree on.
        delta: 0 to 0.5; at 0.5 every question with an answer is at the edge.

    >>> find_edge_fault(Vote("4", 0.75, (True, True, True, False)), delta=0.25)
    >>> find_edge_fault(Vote("4", 1.0, (True,)), delta=0.25)
    'too_easy'
    """
    if found.answer is None:
        return "no_answer"
    if abs(found.share - 0.5) <= delta + _ROUNDING:
        return None
    return "too_hard" if found.share < 0.5 else "too_easy"


def reward_question(share: float, *, repeated: float, weight: float) -> float:
    """What a proposer earns for a question, 0 to 1.

    Args:
        share: p, the share of the answers that agree; 0 where none could be read.
        repeated: the share of the batch that says the same, 0 to 1.
        weight: of the penalty (lambda), 0 or more.

    >>> reward_question(0.5, repeated=0.0, weight=1.0), reward_question(1.0, repeated=0.25, weight=1.0)
    (1.0, 0.0)
    """
    return max(0.0, 1 - 2 * abs(share - 0.5) - weight * repeated)
