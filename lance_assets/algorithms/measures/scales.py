"""Where a number lies among others: a scale for signals that have no middle of their own.

A log-likelihood says nothing by itself, since every model and every kind of text has another one. Among the same
numbers of an experiment's own seeds it does: half of the seeds lie above the middle of the scale, and the middle half
of them in its middle half.

Hand-written: scikit-learn's `RobustScaler` has the same middle and spread and no bounds, its `QuantileTransformer` ends
at the seeds' lowest and highest value, so that all beyond them are equal, and the package does not install it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scale:
    """A strictly monotone rule from any number to a share of a scale."""

    middle: float
    """What lies in the middle: the median."""
    spread: float
    """How far from it three quarters of the scale lie, above 0: half of the distance between the quartiles."""

    def place(self, value: float) -> float:
        """The share of the scale, 0 to 1: one half in the middle, three quarters at one spread above it.

        >>> scale = Scale(-2.0, 0.5)
        >>> round(scale.place(-2.0), 2), round(scale.place(-1.5), 2), round(scale.place(-2.5), 2)
        (0.5, 0.75, 0.25)
        """
        return squash(math.log(3) * (value - self.middle) / self.spread)


def squash(value: float) -> float:
    """The logistic function, 0 to 1.

    >>> squash(0.0), round(squash(1.1), 2), round(squash(-1e4), 2)
    (0.5, 0.75, 0.0)
    """
    # On either side without a power that overflows.
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def fit_scale(values: Sequence[float]) -> Scale | None:
    """The scale of some numbers; None of no number.

    Args:
        values: of any length. Where the quartiles do not differ, as of one number, the spread is 1.

    >>> fit_scale([1.0, 2.0, 3.0, 4.0, 5.0])
    Scale(middle=3.0, spread=1.0)
    >>> fit_scale([-2.5]), fit_scale([])
    (Scale(middle=-2.5, spread=1.0), None)
    """
    if not len(values):
        return None
    low, middle, high = (float(value) for value in np.quantile(np.asarray(values, dtype=np.float64), (0.25, 0.5, 0.75)))
    return Scale(middle, (high - low) / 2 or 1.0)
