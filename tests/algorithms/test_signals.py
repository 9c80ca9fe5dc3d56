"""Measures of a signal: worked by hand, against SciPy, and under every symmetry that they must have."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from lance_assets.algorithms.measures.signals import ScoredPair, build_rate, compute_auc, measure_signal
from lance_assets.algorithms.measures.statistics import compute_wilson_interval

SCORES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=25)


def pair_up(scores: list[tuple[float | None, float | None]], kind: str = "gold") -> list[ScoredPair]:
    return [ScoredPair(kind, better, worse, 10, 10) for better, worse in scores]


def test_by_hand() -> None:
    """Better 3, 2, 1 against worse 2, 1, 0: of nine comparisons six are right, two tied and one wrong, so 7/9.

    The better scores win 3, 2.5 and 1.5 of three, the worse ones lose 1.5, 2.5 and 3. The parts of the three pairs
    are (3 + 1.5)/3, (2.5 + 2.5)/3 and (1.5 + 3)/3, which differ from 14/9 by -1/18, 1/9 and -1/18. Their squares sum to
    1/54, and over n (n - 1) = 6 that is 1/324.
    """
    auc, variance = compute_auc([3, 2, 1], [2, 1, 0])
    assert auc == pytest.approx(7 / 9)
    assert variance == pytest.approx(1 / 324)
    measured = measure_signal(pair_up([(3, 2), (2, 1), (1, 0)]))
    assert measured.overall.auc.value == pytest.approx(7 / 9)
    # Within each pair the better one is higher.
    assert measured.overall.accuracy.value == 1.0
    assert (measured.overall.accuracy.low, measured.overall.accuracy.high) == compute_wilson_interval(3, 3)
    assert measured.num_distinct == 4
    assert measured.deviation == pytest.approx(math.sqrt(1.5 - 0.25 - 1 / 3))


@given(SCORES)
@settings(deadline=None, max_examples=60)
def test_scipy_agrees_and_a_swap_turns_everything_over(scores: list[tuple[int, int]]) -> None:
    better, worse = zip(*scores, strict=True)
    auc, variance = compute_auc(better, worse)
    assert auc == pytest.approx(mannwhitneyu(better, worse).statistic / len(scores) ** 2)
    turned, same = compute_auc(worse, better)
    assert turned == pytest.approx(1 - auc)
    assert same == pytest.approx(variance)
    own, other = (measure_signal(pair_up(list(rows))).overall for rows in (scores, [(w, b) for b, w in scores]))
    assert other.auc.low == pytest.approx(1 - own.auc.high)
    assert other.accuracy.low == pytest.approx(1 - own.accuracy.high)
    assert other.tied_rate == own.tied_rate
    assert own.auc.low <= auc + 1e-12
    assert auc <= own.auc.high + 1e-12
    # A rank is all that counts.
    stretched = [(2.0**b - 9, 2.0**w - 9) for b, w in scores]
    assert measure_signal(pair_up(stretched)).overall.auc.value == pytest.approx(auc)


def test_the_interval_holds_what_it_is_an_interval_of() -> None:
    """95% intervals of 400 draws with pairs that share a prompt: at most a tenth may miss, and few are useless."""
    rng = np.random.default_rng(0)
    # Scores of two pairs differ by 1 in the mean with a variance of 4, so that one is higher with normal chance(1/2).
    truth = NormalDist().cdf(0.5)
    held, widths = 0, []
    for _ in range(400):
        shared = rng.normal(size=30)
        better, worse = shared + 1 + rng.normal(size=30), shared + rng.normal(size=30)
        rate = measure_signal(pair_up(list(zip(better, worse, strict=True)))).overall.auc
        held += rate.low <= truth <= rate.high
        widths.append(rate.high - rate.low)
    assert held >= 360
    assert np.mean(widths) < 0.36


def test_a_signal_that_says_the_same_of_all_is_at_chance() -> None:
    measured = measure_signal(pair_up([(5, 5)] * 12))
    overall = measured.overall
    assert (overall.auc.value, overall.accuracy.value, overall.tied_rate) == (0.5, 0.5, 1.0)
    assert not overall.auc.is_above_chance
    assert (measured.num_distinct, measured.deviation, measured.length_bias) == (1, 0.0, None)
    perfect = measure_signal(pair_up([(9, 1)] * 12)).overall
    assert perfect.auc.value == 1.0
    assert perfect.auc.low < 0.8
    assert perfect.auc.is_above_chance


def test_pairs_without_a_score_count_in_the_unscored_rate_alone() -> None:
    scored = pair_up([(3, 1), (2, 2), (1, 3)])
    measured = measure_signal([*scored, *pair_up([(None, 9), (None, None), (9, None)])])
    assert measured.unscored_rate == pytest.approx(4 / 12)
    assert measured.overall.num_pairs == 6
    assert measured.overall.num_scored == 3
    assert measured.overall.auc == measure_signal(scored).overall.auc
    nothing = measure_signal(pair_up([(None, None)]))
    assert (nothing.overall.auc.value, nothing.overall.auc.low, nothing.overall.auc.high) == (None, 0.0, 1.0)
    assert nothing.unscored_rate == 1.0
    assert measure_signal([]).unscored_rate is None
    assert measure_signal([]).overall.num_pairs == 0


def test_kinds_are_never_compared_with_each_other() -> None:
    """The gold pairs lie 100 higher: pooled, their worse completions would beat the better ones of the other kind."""
    low, high = pair_up([(2, 1), (3, 0)], "degraded"), pair_up([(102, 101), (103, 100)], "gold")
    measured = measure_signal([*low, *high])
    assert measured.overall.auc.value == 1.0
    assert list(measured.by_kind) == ["degraded", "gold"]
    # Each kind counts by its scored pairs: three at 1 and one at 0.
    mixed = measure_signal([*pair_up([(2, 1)] * 3), *pair_up([(1, 2)], "degraded")])
    assert mixed.overall.auc.value == pytest.approx(0.75)
    assert mixed.overall.accuracy.value == pytest.approx(0.75)


def test_length_bias_does_not_see_what_is_better() -> None:
    """Truncated completions are short and score low; among the better ones score and length run against each other."""
    lengths = [10, 20, 30, 40]
    pairs = [ScoredPair("truncated", 10 - n, -n, n, n // 2) for n in lengths]
    assert measure_signal(pairs).length_bias == pytest.approx(-1.0)
    assert measure_signal([ScoredPair("gold", n, n, n, n) for n in lengths]).length_bias == pytest.approx(1.0)


def test_a_comparison_is_measured_within_its_pairs() -> None:
    """Preferences 0.9 and 0.4 for the better one: pooled scores would give (0.9 > 0.1, 0.9 > 0.6, 0.4 > 0.1) 3/4."""
    pairs = pair_up([(0.9, 0.1), (0.4, 0.6)])
    assert measure_signal(pairs, is_comparison=True).overall.auc.value == 0.5
    assert measure_signal(pairs).overall.auc.value == 0.75


def test_bounds() -> None:
    with pytest.raises(ValueError, match="got 1 and 2"):
        compute_auc([1], [1, 2])
    with pytest.raises(ValueError, match="at least one, got 0 and 0"):
        compute_auc([], [])
    assert build_rate(0.0, 0.0, 4).low == 0.0
    # A variance that is too small for the number of pairs does not make the interval narrower than theirs.
    assert build_rate(0.5, 1e-9, 4) == build_rate(0.5, 0.0625, 4)
