"""How far a model's review scores agree with what a verifier knows: AUC, and balanced accuracy at a bar.

AUC is that of `measures/gold_accuracy.py`, with the variance of rows that share a prompt. Balanced accuracy is the mean
of the shares of right rows above the bar and of wrong rows not above it, so that a reviewer who praises everything has
0.5 however many rows are right. Its interval joins Wilson's of both shares by MOVER (Donner and Zou 2012): the
distances from each share to its ends are added as variances are. A share rests on as many rows as it has prompts.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import sqrt

from lance_assets.algorithms.measures.gold_accuracy import GoldAccuracy, measure_gold_accuracy
from lance_assets.algorithms.measures.signals import Rate
from lance_assets.algorithms.measures.statistics import compute_wilson_interval


@dataclass(frozen=True)
class ReviewAgreement:
    """How review scores stand to verdicts."""

    accuracy: GoldAccuracy
    """Rows that have both, and the AUC."""
    balanced: Rate
    """Balanced accuracy at the bar; unknown where no row is right, or none is wrong."""
    bar: float
    """A review score above it says right."""


def measure_review_agreement(
    scores: Sequence[float | None], is_right: Sequence[bool | None], prompts: Sequence[Hashable], *, bar: float
) -> ReviewAgreement:
    """How far review scores and verdicts agree; rows that lack one of the two do not count.

    Args:
        scores: [num_rows], the model's alone.
        is_right: [num_rows], the verifier's.
        prompts: [num_rows], what rows that depend on each other share.
        bar: a score above it says right.

    Three of four right rows above the bar and one of two wrong ones not above it:

    >>> found = measure_review_agreement([9, 8, 7, 1, 9, 2], [True] * 4 + [False] * 2, "abcdef", bar=5)
    >>> found.balanced.value
    0.625
    """
    known = [
        (score > bar, right, prompt)
        for score, right, prompt in zip(scores, is_right, prompts, strict=True)
        if score is not None and right is not None
    ]
    accuracy = measure_gold_accuracy(scores, is_right, prompts)
    shares = []
    for wanted in (True, False):
        own = [(above == wanted, prompt) for above, right, prompt in known if right == wanted]
        if not own:
            return ReviewAgreement(accuracy, Rate(None, 0.0, 1.0), bar)
        share, number = sum(hit for hit, _ in own) / len(own), len({prompt for _, prompt in own})
        # Wilson's interval takes shares of any number of items.
        low, high = compute_wilson_interval(share * number, number)
        shares.append((share, share - low, high - share))
    value = (shares[0][0] + shares[1][0]) / 2
    below, above = (sqrt(shares[0][side] ** 2 + shares[1][side] ** 2) / 2 for side in (1, 2))
    return ReviewAgreement(accuracy, Rate(value, max(0.0, value - below), min(1.0, value + above)), bar)
