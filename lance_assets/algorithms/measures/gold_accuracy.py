"""Whether scores are higher for right completions than for wrong ones: AUC over rows of any prompts.

1. AUC is the probability that a right row has a higher score than a wrong one, a tie counted as half (Mann and Whitney
   1947). It gives right and wrong the same weight however many there are of each, and needs no threshold.
2. Rows of one prompt are alike, so the variance is that of Obuchowski (1997, Biometrics 53, 567-578) for clusters. Of
   clusters of one right and one wrong row it is that of `signals.compute_auc`.
3. The interval is Wilson's at as many items as have that variance (`signals.build_rate`), and at most as many as there
   are prompts with a right row, or prompts with a wrong one, whichever are fewer.

Hand-written, as `signals` is: `scipy.stats.mannwhitneyu` and scikit-learn's `roc_auc_score` have no interval.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from lance_assets.algorithms.measures.signals import Rate, build_rate
from lance_assets.algorithms.measures.statistics import compute_wilson_interval


@dataclass(frozen=True)
class GoldAccuracy:
    """How scores stand to what is known to be right or wrong."""

    num_right: int
    """Scored rows that are right."""
    num_wrong: int
    """Scored rows that are wrong."""
    num_independent: int
    """Prompts with a right row, or prompts with a wrong one, whichever are fewer: what the interval rests on."""
    auc: Rate
    """Of any right row against any wrong one; unknown where there is no right or no wrong row."""

    def is_below(self, bar: float) -> bool:
        """Whether the whole interval lies below a bar."""
        return self.auc.value is not None and self.auc.high < bar

    def can_be_below(self, bar: float) -> bool:
        """Whether so many rows could show it: of an AUC of 0 the whole interval would lie below the bar."""
        return compute_wilson_interval(0, self.num_independent)[1] < bar


def compute_clustered_auc(
    scores: Sequence[float], is_right: Sequence[bool], clusters: Sequence[Hashable]
) -> tuple[float, float]:
    """The AUC of scores and its variance. Cost: O(n log n).

    Args:
        scores: [num_rows], finite.
        is_right: [num_rows], at least one of each.
        clusters: [num_rows], what rows that depend on each other share, such as their prompt.

    Returns:
        (AUC in [0, 1], variance, 0 where one cluster holds all right rows, or all wrong ones).

    Raises:
        ValueError: the lengths differ, or no row is right, or none is wrong.

    Of the four comparisons 3 > 2, 3 > 1, 1 < 2 and 1 = 1 two and a half are right:

    >>> compute_clustered_auc([3.0, 1.0, 2.0, 1.0], [True, True, False, False], "abab")[0]
    0.625
    """
    if not len(scores) == len(is_right) == len(clusters):
        raise ValueError(
            f"each score needs a verdict and a cluster, got {len(scores)}, {len(is_right)}, {len(clusters)}"
        )
    values, right = np.asarray(scores, dtype=np.float64), np.asarray(is_right, dtype=bool)
    better, worse = values[right], values[~right]
    if not len(better) or not len(worse):
        raise ValueError(f"right and wrong rows are needed, got {len(better)} and {len(worse)}")
    of_better, of_worse = _rank(better, worse), 1 - _rank(worse, better)
    auc = float(of_better.mean())
    known = {cluster: place for place, cluster in enumerate(dict.fromkeys(clusters))}
    places = np.array([known[cluster] for cluster in clusters])
    sums = [
        np.bincount(places[rows], weights=parts - auc, minlength=len(known))
        for rows, parts in ((right, of_better), (~right, of_worse))
    ]
    num_better, num_worse = (len(np.unique(places[rows])) for rows in (right, ~right))
    if num_better < 2 or num_worse < 2:
        return auc, 0.0
    within = [
        number / (number - 1) * float((own**2).sum()) / count**2
        for number, own, count in ((num_better, sums[0], len(better)), (num_worse, sums[1], len(worse)))
    ]
    num_all = len(known)
    across = 2 * num_all / (num_all - 1) * float((sums[0] * sums[1]).sum()) / (len(better) * len(worse))
    return auc, max(0.0, sum(within) + across)


def _rank(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The share of the others that each value is above, a tie counted as half."""
    ordered = np.sort(others)
    below, up_to = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return (below + up_to) / (2 * len(others))


def measure_gold_accuracy(
    scores: Sequence[float | None], is_right: Sequence[bool | None], clusters: Sequence[Hashable]
) -> GoldAccuracy:
    """How well scores tell right from wrong; a row without a score, or of which nothing is known, does not count.

    Args:
        scores: [num_rows].
        is_right: [num_rows]; None where it is not known.
        clusters: [num_rows], the prompts.

    >>> measured = measure_gold_accuracy([9.0, 2.0, None, 5.0], [True, False, True, None], "abcd")
    >>> measured.auc.value, measured.num_right, measured.num_wrong
    (1.0, 1, 1)
    """
    known = [
        (score, right, cluster)
        for score, right, cluster in zip(scores, is_right, clusters, strict=True)
        if score is not None and right is not None
    ]
    num_right = sum(right for _, right, _ in known)
    num_wrong = len(known) - num_right
    fewest = min(len({cluster for _, right, cluster in known if right == wanted}) for wanted in (True, False))
    if not num_right or not num_wrong:
        return GoldAccuracy(num_right, num_wrong, fewest, Rate(None, 0.0, 1.0))
    auc, variance = compute_clustered_auc(*zip(*known, strict=True))
    return GoldAccuracy(num_right, num_wrong, fewest, build_rate(auc, variance, fewest))
