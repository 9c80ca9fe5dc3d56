"""How often a model's completion is preferred to an opponent's, raw and with the lengths of the two controlled for.

Judges prefer longer completions, so a model wins more by writing more. Source: Dubois et al. 2024, "Length-Controlled
AlpacaEval" (arXiv 2404.04475), and its code (tatsu-lab/alpaca_eval, `metrics/glm_winrate.py`, commit 1020da2): the
preference is regressed on a constant and on tanh(length difference / its standard deviation), and the
length-controlled rate is what the regression says of a difference of zero, logistic(constant).

Differences from the authors' code:

1. No term for how hard an instruction is: its weights are fitted over the annotations of many models.
2. They add the annotations of two verbose baselines and an L1 penalty chosen by cross-validation. Here two tied
   pseudo-items are part of the regression, one at the constant alone and one at the length term alone: log-F(1,1)
   priors (Greenland and Mansournia 2015, Statistics in Medicine 34, 3133-3143). So the rate is finite and one where all
   items are won, or where the length decides them all; n won items of n give (n + 0.5) / (n + 1).
3. Preferences are 1, 0.5 and 0 in place of a judge's probabilities. A tie enters as half an item won and half lost.
4. Where all differences are equal their standard deviation is 0, and the term is their sign, its limit. Length and
   constant then cannot be distinguished, and the prior alone divides the effect between them: the interval is wide.
5. The interval is normal on the log-odds of the rate (delta method), from the inverse information of the regression and
   the dispersion that ties leave (quasi-binomial: McCullagh and Nelder 1989, section 4.5), 1 where there are none. One
   more item, won or lost, keeps it above 0 where all tie.

Two models are compared on the same items by their parts in the rates: a rate is the mean of one part for each item (to
the first order in the outcomes: its influence function), so that the differences of parts spread as the rates' does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lance_assets.algorithms.measures.statistics import compute_wilson_interval

MAX_STEPS = 100
"""Of Newton's method, which takes about 8; more than this is an error of ours."""


@dataclass(frozen=True)
class WinRate:
    """A win rate over items."""

    rate: float
    """In [0, 1]; 0.5 is as good as the opponent."""
    low: float
    """95% interval."""
    high: float
    """Its upper end."""
    length_effect: float
    """Log-odds that the length term adds at a far longer completion; 0 for a raw rate."""
    parts: NDArray[np.float64]
    """float64 [num_items]: each item's part, of which the rate is the mean; for a raw rate the outcomes."""


def _check(outcomes: Sequence[float]) -> NDArray[np.float64]:
    values = np.asarray(outcomes, dtype=np.float64)
    if not len(values):
        raise ValueError("a win rate needs at least one judged item, got none")
    if not ((values >= 0) & (values <= 1)).all():
        wrong = next(value for value in outcomes if not 0 <= value <= 1)
        raise ValueError(f"an outcome must be in [0, 1], 1 for a win and 0.5 for a tie, got {wrong}")
    return values


def compute_win_rate(outcomes: Sequence[float]) -> WinRate:
    """The raw win rate, the mean outcome, with Wilson's interval for as many items as would spread so without ties.

    Args:
        outcomes: [num_items], 1 for a win, 0.5 for a tie, 0 for a loss; at least one.

    Raises:
        ValueError: no outcomes, or one outside [0, 1].

    >>> raw = compute_win_rate([1.0, 1.0, 0.5, 0.0])
    >>> raw.rate, round(raw.low, 3), round(raw.high, 3)
    (0.625, 0.249, 0.894)
    """
    values = _check(outcomes)
    rate = float(values.mean())
    num_items = len(values) / measure_dispersion(values, np.full(len(values), rate))
    return WinRate(rate, *compute_wilson_interval(rate * num_items, num_items), 0.0, values)


def measure_dispersion(outcomes: NDArray[np.float64], fitted: NDArray[np.float64]) -> float:
    """The spread of outcomes about what is fitted over what it would be with half of each tie won and half lost.

    Args:
        outcomes: float64 [num_items] in [0, 1].
        fitted: float64 [num_items] in [0, 1].

    Returns:
        In (0, 1], 1 without ties.

    >>> measure_dispersion(np.array([1.0, 0.0, 0.5, 0.5]), np.full(4, 0.5))
    0.6
    """
    spread = ((outcomes - fitted) ** 2).sum() + 0.25
    return float(spread / (spread + (outcomes * (1 - outcomes)).sum()))


def scale_differences(differences: Sequence[float]) -> NDArray[np.float64]:
    """The length term of each item, float64 [num_items] in [-1, 1]: tanh(difference / standard deviation).

    >>> scale_differences([2.0, 2.0]).tolist(), scale_differences([-1.0, 1.0]).round(3).tolist()
    ([1.0, 1.0], [-0.609, 0.609])
    """
    values = np.asarray(differences, dtype=np.float64)
    spread = values.std(ddof=1) if len(values) > 1 else 0.0
    return np.tanh(values / spread) if spread > 0 else np.sign(values)


def _compute_rate(odds: Any) -> Any:
    """The logistic function, of one number or of an array."""
    # SciPy takes longer to import than the definitions of an experiment to load, and most never come here.
    from scipy.special import expit

    return expit(odds)


def _find_information(design: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    fitted = _compute_rate(design @ weights)
    information: NDArray[np.float64] = (design * (fitted * (1 - fitted))[:, None]).T @ design
    return information


def _fit(design: NDArray[np.float64], outcomes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of the logistic regression, float64 [2], by Newton's method with halved steps; strictly concave."""

    def lose(weights: NDArray[np.float64]) -> float:
        odds = design @ weights
        return float(np.logaddexp(0, odds).sum() - outcomes @ odds)

    weights = np.zeros(2)
    for _ in range(MAX_STEPS):
        gradient = design.T @ (outcomes - _compute_rate(design @ weights))
        step = np.linalg.solve(_find_information(design, weights), gradient)
        while lose(weights + step) > lose(weights) + 1e-9:
            step = step / 2
        weights = weights + step
        if np.abs(step).max() < 1e-10:
            return weights
    raise AssertionError(f"no fit in {MAX_STEPS} steps, at {weights}")


def compute_length_controlled_rate(outcomes: Sequence[float], differences: Sequence[float]) -> WinRate:
    """The win rate as it would be if both completions of every item were equally long.

    Args:
        outcomes: [num_items], 1 for a win, 0.5 for a tie, 0 for a loss; at least one.
        differences: [num_items], the completion's length less the opponent's, in any unit.

    Raises:
        ValueError: no outcomes, one outside [0, 1], or not as many differences.

    The judge takes the longer one, and each is longer twice:

    >>> controlled = compute_length_controlled_rate([1.0, 1.0, 0.0, 0.0], [9.0, 7.0, -9.0, -7.0])
    >>> round(controlled.rate, 3), controlled.length_effect > 1
    (0.5, True)
    """
    values = _check(outcomes)
    if len(values) != len(differences):
        raise ValueError(f"every outcome needs a length difference, got {len(values)} and {len(differences)}")
    items = np.column_stack([np.ones(len(values)), scale_differences(differences)])
    design = np.vstack([items, np.eye(2)])
    weights = _fit(design, np.append(values, [0.5, 0.5]))
    fitted, covariance = _compute_rate(items @ weights), np.linalg.inv(_find_information(design, weights))
    half = NormalDist().inv_cdf(0.975) * math.sqrt(covariance[0, 0] * measure_dispersion(values, fitted))
    rate, low, high = (float(_compute_rate(weights[0] + shift)) for shift in (0.0, -half, half))
    influences = len(values) * rate * (1 - rate) * (items @ covariance[0]) * (values - fitted)
    return WinRate(rate, low, high, float(weights[1]), rate + influences - influences.mean())


def measure_longer_rate(outcomes: Sequence[float], differences: Sequence[float]) -> float | None:
    """How often the longer completion is preferred, ties half; items of equal length are left out, None without others.

    >>> measure_longer_rate([1.0, 0.0, 0.5, 1.0], [5.0, -3.0, 2.0, 0.0])
    0.8333333333333334
    """
    longer = [
        outcome if difference > 0 else 1 - outcome
        for outcome, difference in zip(outcomes, differences, strict=True)
        if difference
    ]
    return sum(longer) / len(longer) if longer else None
