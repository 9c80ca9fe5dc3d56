import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from lance_assets.algorithms.measures.statistics import (
    compute_independent_difference,
    compute_paired_difference,
    compute_wilson_interval,
)

PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60)


@given(st.integers(0, 200), st.integers(1, 200), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_equals_scipy(num_correct: int, num_items: int, confidence: float) -> None:
    num_correct = min(num_correct, num_items)
    expected = binomtest(num_correct, num_items).proportion_ci(confidence, method="wilson")
    assert compute_wilson_interval(num_correct, num_items, confidence) == pytest.approx(tuple(expected), abs=1e-12)


def test_wilson_edges() -> None:
    assert compute_wilson_interval(0, 0) == (0.0, 1.0)
    assert compute_wilson_interval(0, 10)[0] == 0.0
    assert compute_wilson_interval(10, 10)[1] == 1.0
    with pytest.raises(ValueError, match=r"num_correct must be in \[0, num_items=3\], got 4"):
        compute_wilson_interval(4, 3)
    with pytest.raises(ValueError, match="confidence"):
        compute_wilson_interval(1, 3, confidence=1.0)


@given(PAIRS)
def test_paired_difference_equals_the_formula(pairs: list[tuple[bool, bool]]) -> None:
    before, after = zip(*pairs, strict=True)
    changes = np.array(after, dtype=float) - np.array(before, dtype=float)
    half = norm.ppf(0.975) * changes.std(ddof=1) / np.sqrt(len(changes))
    mean, low, high = compute_paired_difference(before, after)
    assert mean == pytest.approx(changes.mean())
    assert (low, high) == pytest.approx((max(-1, changes.mean() - half), min(1, changes.mean() + half)))


def test_pairing_is_sharper_than_two_accuracies() -> None:
    """100 items, 10 lost and none won: -0.10 +- 0.059 is a regression, though 0.60 and 0.50 overlap unpaired."""
    before, after = [True] * 60 + [False] * 40, [True] * 50 + [False] * 50
    mean, low, high = compute_paired_difference(before, after)
    assert (mean, round(low, 3), round(high, 3)) == (-0.1, -0.159, -0.041)
    assert compute_wilson_interval(50, 100)[1] > compute_wilson_interval(60, 100)[0]


def test_too_few_items_say_nothing() -> None:
    assert compute_paired_difference([], []) == (0.0, -1.0, 1.0)
    assert compute_paired_difference([True], [False]) == (-1.0, -1.0, 1.0)
    with pytest.raises(ValueError, match="same items, got 2 and 1"):
        compute_paired_difference([True, False], [True])


def test_independent_scores_without_an_interval_differ_by_nobody_knows_how_much() -> None:
    assert compute_independent_difference((0.5, None, None), (0.75, 0.5, 1.0)) == (0.25, -math.inf, math.inf)
    assert compute_independent_difference((0.5, 0.5, 0.5), (0.75, 0.5, 1.0)) == (0.25, 0.0, 0.5)
