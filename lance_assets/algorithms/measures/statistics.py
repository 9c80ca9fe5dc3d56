"""Confidence intervals for accuracies, and whether one checkpoint is worse than another on the same items.

Sources: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference"; paired differences as in
Miller 2024, "Adding Error Bars to Evals" (arXiv 2411.00640), section 4.2.

The paired interval is the normal approximation of the mean difference. It is rough when fewer than about ten items
changed: where all items changed alike its width is zero.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float, float]
"""(mean, low, high); 95% unless it says otherwise."""


def find_quantile(confidence: float) -> float:
    """How many standard errors a normal interval reaches to each side.

    >>> round(find_quantile(0.95), 2)
    1.96
    """
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def compute_wilson_interval(num_correct: float, num_items: float, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of an accuracy.

    Args:
        num_correct: 0..num_items.
        num_items: 0 or more; no whole number where items count more or less than one.
        confidence: in (0, 1).

    Returns:
        (low, high), fractions in [0, 1]; (0, 1) where there are no items, since nothing is known.

    Raises:
        ValueError: a number is out of its range.

    >>> low, high = compute_wilson_interval(8, 10)
    >>> round(low, 3), round(high, 3)
    (0.49, 0.943)
    """
    if not 0 <= num_correct <= num_items:
        raise ValueError(f"num_correct must be in [0, num_items={num_items}], got {num_correct}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    if num_items == 0:
        return 0.0, 1.0
    z = find_quantile(confidence)
    rate, weight = num_correct / num_items, z * z / num_items
    centre = (rate + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(rate * (1 - rate) / num_items + weight / (4 * num_items))
    # at the ends the bound is exactly 0 or 1; the arithmetic leaves a rounding error there
    low = 0.0 if num_correct == 0 else max(0.0, centre - half)
    high = 1.0 if num_correct == num_items else min(1.0, centre + half)
    return low, high


def compute_paired_difference(
    before: Sequence[float] | NDArray[np.bool_],
    after: Sequence[float] | NDArray[np.bool_],
    confidence: float = 0.95,
    *,
    largest: float = 1.0,
) -> tuple[float, float, float]:
    """The change of an accuracy, or of another mean, on the same items, with its interval.

    Args:
        before: [num_items], whether each item was right, or its part in the score, of which the score is the mean.
        after: [num_items], the same items in the same order.
        confidence: in (0, 1).
        largest: the largest change that is possible: 1 for a mean in [0, 1], `math.inf` for a mean without bounds.

    Returns:
        (mean, low, high) of after minus before, in [-largest, largest]. With fewer than two items the interval is all
        of that, and the mean of no items is 0.

    Raises:
        ValueError: the lengths differ, or the confidence is out of range.

    >>> mean, low, high = compute_paired_difference([True, True, False, False], [True, False, True, True])
    >>> round(mean, 3), round(low, 3), round(high, 3)
    (0.25, -0.688, 1.0)
    """
    if len(before) != len(after):
        raise ValueError(f"before and after must be the same items, got {len(before)} and {len(after)}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    mean = float(differences.mean()) if len(differences) else 0.0
    if len(differences) < 2:
        return mean, -largest, largest
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    half = find_quantile(confidence) * error
    return mean, max(-largest, mean - half), min(largest, mean + half)


def compute_cautious_difference(
    before: Sequence[float], after: Sequence[float], confidence: float = 0.95
) -> tuple[float, float, float]:
    """The change of a mean on the same few items, with an interval that a handful of equal changes does not close.

    Half an item is added for each of the four ways in which two answers can be right and wrong (Agresti and Min 2005,
    "Simple improved confidence intervals for comparing matched proportions", Statistics in Medicine 24, 729-740). For
    values outside [0, 1] the interval is the normal one of the differences.

    Args:
        before: [num_items], each item's part in the mean.
        after: [num_items], the same items in the same order.
        confidence: in (0, 1).

    Returns:
        (mean, low, high) of after minus before. The mean is that of the items; the interval may not have it in its
        middle. With fewer than two items of unbounded values the interval is endless.

    Raises:
        ValueError: the lengths differ, or the confidence is out of range.

    Two of two items fell, which may be chance, and nine of nine did, which is none:

    >>> [round(end, 2) for end in compute_cautious_difference([1.0] * 2, [0.0] * 2)]
    [-1.0, -1.0, 0.19]
    >>> [round(end, 2) for end in compute_cautious_difference([1.0] * 9, [0.0] * 9)]
    [-1.0, -1.0, -0.53]
    """
    values = np.asarray([*before, *after], dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        return compute_paired_difference(before, after, confidence, largest=math.inf)
    mean, _, _ = compute_paired_difference(before, after, confidence)
    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    num_items = len(differences) + 2
    middle = float(differences.sum()) / num_items
    spread = (float((differences**2).sum()) + 1) / num_items - middle**2
    half = find_quantile(confidence) * math.sqrt(spread / num_items)
    return mean, max(-1.0, middle - half), min(1.0, middle + half)


def compute_independent_difference(
    before: tuple[float, float | None, float | None], after: tuple[float, float | None, float | None]
) -> tuple[float, float, float]:
    """The difference of two independent scores from their own intervals.

    Args:
        before: (score, low, high); None for ends that are not known.
        after: the same.

    Returns:
        (difference, low, high) of after minus before; without an interval nothing is known of the noise, and it is
        endless.

    >>> [round(end, 3) for end in compute_independent_difference((0.5, 0.4, 0.6), (0.6, 0.5, 0.7))]
    [0.1, -0.041, 0.241]
    """
    difference = after[0] - before[0]
    ends = (before[1], before[2], after[1], after[2])
    known = [end for end in ends if end is not None]
    if len(known) < len(ends):
        return difference, -math.inf, math.inf
    # Variances of independent scores add up, and so do the squares of the half-widths.
    half = math.hypot(known[1] - known[0], known[3] - known[2]) / 2
    return difference, difference - half, difference + half


def compute_mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """The mean of a few independent values, such as one difference for each seed, with Student's t interval.

    Args:
        values: at least one.
        confidence: in (0, 1).

    Returns:
        (mean, low, high); with one value nothing is known of the spread, and the interval is endless.

    Raises:
        ValueError: no values, or the confidence is out of range.

    >>> [round(number, 2) for number in compute_mean_interval([1.0, 2.0, 3.0])]
    [2.0, -0.48, 4.48]
    """
    if not len(values):
        raise ValueError("a mean needs at least one value, got none")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    mean = float(np.mean(values))
    if len(values) == 1:
        return mean, -math.inf, math.inf
    # SciPy takes longer to import than the definitions of an experiment to load, and most never come here.
    from scipy.special import stdtrit

    # With a few seeds the normal interval would be too narrow; Student's allows for the unknown spread.
    quantile = float(stdtrit(len(values) - 1, 0.5 + confidence / 2))
    half = quantile * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, mean - half, mean + half
