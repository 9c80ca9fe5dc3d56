import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, logit

from lance_assets.algorithms.measures.statistics import compute_paired_difference, compute_wilson_interval
from lance_assets.algorithms.measures.win_rates import (
    compute_length_controlled_rate,
    compute_win_rate,
    measure_dispersion,
    measure_longer_rate,
    scale_differences,
)

OUTCOME = st.sampled_from([0.0, 0.5, 1.0])
ITEMS = st.lists(st.tuples(OUTCOME, st.integers(-400, 400)), min_size=1, max_size=60)


def simulate(
    rng: np.random.Generator, *, num_items: int, quality: float, length: float, longer_by: float
) -> tuple[list[float], list[float]]:
    """Outcomes and length differences of a judge with these log-odds for quality and for the length term."""
    differences = rng.normal(longer_by, 1.0, num_items) * 200
    odds = quality + length * np.tanh(differences / differences.std(ddof=1))
    return (rng.random(num_items) < expit(odds)).astype(float).tolist(), differences.tolist()


def test_worked_by_hand_without_differences() -> None:
    """Three of four won at equal lengths, and half of the pseudo-item: (3 + 0.5) / (4 + 1) = 0.7.

    The information of the constant is 5 * 0.7 * 0.3 = 1.05, and the interval logistic(log(7 / 3) +- 1.96 / sqrt(1.05)).
    """
    controlled = compute_length_controlled_rate([1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0])
    assert controlled.rate == pytest.approx(0.7)
    assert controlled.length_effect == pytest.approx(0.0)
    half = 1.959964 / math.sqrt(1.05)
    assert (controlled.low, controlled.high) == pytest.approx((expit(logit(0.7) - half), expit(logit(0.7) + half)))
    assert controlled.parts.mean() == pytest.approx(0.7)


def test_worked_by_hand_with_ties() -> None:
    """A win, a loss and two ties: squares of 0.25 + 0.25 and 0.25 for one item more; the ties split would add as much.

    So four items spread as 4 / 0.6 would that are won or lost, and the interval is Wilson's for these.
    """
    outcomes = [1.0, 0.0, 0.5, 0.5]
    assert measure_dispersion(np.array(outcomes), np.full(4, 0.5)) == pytest.approx(0.75 / 1.25)
    raw, n, z = compute_win_rate(outcomes), 4 / 0.6, 1.959964
    half = z / (1 + z * z / n) * math.sqrt(0.25 / n + z * z / (4 * n * n))
    assert (raw.rate, raw.low, raw.high) == pytest.approx((0.5, 0.5 - half, 0.5 + half))
    controlled = compute_length_controlled_rate(outcomes, [0.0] * 4)
    half = z * math.sqrt(0.6 / (5 * 0.25))
    assert (controlled.low, controlled.high) == pytest.approx((expit(-half), expit(half)))


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=60))
def test_without_ties_the_raw_interval_is_wilsons(outcomes: list[float]) -> None:
    raw = compute_win_rate(outcomes)
    assert (raw.low, raw.high) == pytest.approx(compute_wilson_interval(int(sum(outcomes)), len(outcomes)))


def test_worked_by_hand_with_a_length_that_cannot_be_told_from_the_constant() -> None:
    """One item won by a longer completion: constant and term are the same column, so the prior gives each a half.

    With w for both, the gradient is (1 - p(2w)) + (0.5 - p(w)) = 0, which w = 0.7563 solves: p(2w) = 0.8195 and
    p(w) = 0.6805.
    """
    controlled = compute_length_controlled_rate([1.0], [80.0])
    assert controlled.length_effect == pytest.approx(0.7563, abs=1e-4)
    assert controlled.rate == pytest.approx(0.6805, abs=1e-4)
    assert controlled.low < 0.06
    assert controlled.high > 0.98


@given(ITEMS)
def test_the_fit_is_the_optimum_that_scipy_finds(items: list[tuple[float, int]]) -> None:
    outcomes, differences = (list(column) for column in zip(*items, strict=True))
    terms = scale_differences(differences)

    def lose(weights: np.ndarray) -> float:
        odds = np.concatenate([weights[0] + weights[1] * terms, weights])
        targets = np.concatenate([outcomes, [0.5, 0.5]])
        return float((np.logaddexp(0, odds) - targets * odds).sum())

    best = minimize(lose, np.zeros(2), method="BFGS", options={"gtol": 1e-9})
    controlled = compute_length_controlled_rate(outcomes, differences)
    mine = np.array([logit(controlled.rate), controlled.length_effect])
    assert lose(mine) <= best.fun + 1e-9
    assert mine == pytest.approx(best.x, abs=1e-3)


@given(ITEMS)
def test_rates_are_probabilities_inside_their_intervals_and_the_mean_of_their_parts(
    items: list[tuple[float, int]],
) -> None:
    outcomes, differences = (list(column) for column in zip(*items, strict=True))
    for rate in (compute_win_rate(outcomes), compute_length_controlled_rate(outcomes, differences)):
        assert 0 <= rate.low <= rate.rate <= rate.high <= 1
        assert len(rate.parts) == len(items)
        assert rate.parts.mean() == pytest.approx(rate.rate)


@given(ITEMS)
def test_the_opponents_rate_is_the_rest(items: list[tuple[float, int]]) -> None:
    outcomes, differences = (list(column) for column in zip(*items, strict=True))
    mine = compute_length_controlled_rate(outcomes, differences)
    theirs = compute_length_controlled_rate([1 - outcome for outcome in outcomes], [-gap for gap in differences])
    assert (theirs.rate, theirs.low, theirs.high) == pytest.approx((1 - mine.rate, 1 - mine.high, 1 - mine.low))
    assert theirs.length_effect == pytest.approx(mine.length_effect, abs=1e-6)
    assert compute_win_rate([1 - outcome for outcome in outcomes]).rate == pytest.approx(1 - sum(outcomes) / len(items))


@given(ITEMS, st.sampled_from([0.001, 0.2, 5.0, 1000.0]))
def test_the_unit_of_lengths_and_the_order_of_items_do_not_matter(items: list[tuple[float, int]], unit: float) -> None:
    outcomes, differences = (list(column) for column in zip(*items, strict=True))
    controlled = compute_length_controlled_rate(outcomes, differences)
    others = compute_length_controlled_rate(outcomes[::-1], [unit * gap for gap in reversed(differences)])
    assert (others.rate, others.low, others.high) == pytest.approx(
        (controlled.rate, controlled.low, controlled.high), abs=1e-7
    )


@given(st.lists(OUTCOME, min_size=1, max_size=60))
def test_at_equal_lengths_it_is_the_raw_rate_and_one_tied_item(outcomes: list[float]) -> None:
    controlled = compute_length_controlled_rate(outcomes, [0.0] * len(outcomes))
    assert controlled.rate == pytest.approx((sum(outcomes) + 0.5) / (len(outcomes) + 1))


@pytest.mark.parametrize("num_items", [1, 48, 805])
def test_all_won_is_finite_and_has_an_interval(num_items: int) -> None:
    differences = [float(place % 7 - 3) for place in range(num_items)]
    controlled = compute_length_controlled_rate([1.0] * num_items, differences)
    assert 0.5 < controlled.rate < 1
    assert controlled.low < controlled.rate < controlled.high
    assert compute_win_rate([1.0] * num_items).rate == 1.0
    assert compute_win_rate([1.0] * num_items).low < 1.0


def test_where_length_decides_every_item_the_controlled_rate_is_a_half() -> None:
    """The checkpoint is longer in three of four; the judge takes the longer one each time."""
    differences = [50.0, 90.0, 130.0] * 20 + [-50.0] * 20
    outcomes = [float(gap > 0) for gap in differences]
    controlled = compute_length_controlled_rate(outcomes, differences)
    assert compute_win_rate(outcomes).rate == 0.75
    assert controlled.low < 0.5 < controlled.high
    assert controlled.length_effect > 3
    assert measure_longer_rate(outcomes, differences) == 1.0


def test_a_simulated_judge_that_prefers_longer_completions_is_seen_through() -> None:
    """Equal quality, completions longer by a standard deviation: far above 0.5 raw, near 0.5 controlled."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        outcomes, differences = simulate(rng, num_items=800, quality=0.0, length=2.0, longer_by=1.0)
        raw, controlled = compute_win_rate(outcomes), compute_length_controlled_rate(outcomes, differences)
        assert raw.low > 0.62
        assert abs(controlled.rate - 0.5) < 0.1
        assert 1.2 < controlled.length_effect < 2.8


def test_a_better_model_that_writes_less_is_given_its_due() -> None:
    rng = np.random.default_rng(1)
    outcomes, differences = simulate(rng, num_items=2000, quality=1.0, length=3.0, longer_by=-1.0)
    assert compute_win_rate(outcomes).high < 0.5
    assert compute_length_controlled_rate(outcomes, differences).low > 0.65


@pytest.mark.parametrize("tied_rate", [0.0, 0.8])
@pytest.mark.parametrize(("num_items", "longer_by"), [(24, 0.0), (48, 1.0), (200, 1.0), (200, 2.0)])
def test_the_interval_covers_what_the_judge_thinks_at_equal_lengths(
    num_items: int, longer_by: float, tied_rate: float
) -> None:
    """Without ties, and with so many that they narrow the interval."""
    rng, inside = np.random.default_rng(2), 0
    for _ in range(300):
        differences = rng.normal(longer_by, 1.0, num_items)
        won = expit(0.5 + 1.5 * np.tanh(differences / differences.std(ddof=1)))
        tied, drawn = 2 * tied_rate * np.minimum(won, 1 - won), rng.random(num_items)
        outcomes = np.where(drawn < tied, 0.5, np.where(drawn < won + tied / 2, 1.0, 0.0))
        controlled = compute_length_controlled_rate(outcomes.tolist(), differences.tolist())
        inside += controlled.low <= expit(0.5) <= controlled.high
    assert inside / 300 > 0.92


def test_parts_give_the_spread_of_a_paired_difference() -> None:
    """Two models on the same items, half of whose outcomes are shared: the paired interval covers 95 in a hundred."""
    rng, inside, widths = np.random.default_rng(3), 0, []
    for _ in range(300):
        draws, gaps = rng.random((2, 400)), rng.normal(1.0, 1.0, (2, 400))
        draws[1, :200], gaps[1, :200] = draws[0, :200], gaps[0, :200]
        rates = [
            compute_length_controlled_rate((draw < expit(odds + np.tanh(gap))).astype(float).tolist(), gap.tolist())
            for draw, gap, odds in zip(draws, gaps, (0.0, 0.4), strict=True)
        ]
        mean, low, high = compute_paired_difference(rates[0].parts.tolist(), rates[1].parts.tolist())
        assert mean == pytest.approx(rates[1].rate - rates[0].rate)
        inside += low <= expit(0.4) - 0.5 <= high
        widths.append((high - low) / math.hypot(*(rate.high - rate.low for rate in rates)))
    assert 0.92 < inside / 300 < 0.98
    assert np.mean(widths) < 0.85, "pairing is sharper than two intervals"


def test_the_longer_rate_counts_ties_half_and_leaves_equal_lengths_out() -> None:
    assert measure_longer_rate([1.0, 0.0, 0.5], [1.0, -1.0, 3.0]) == pytest.approx(2.5 / 3)
    assert measure_longer_rate([1.0, 0.5], [0.0, 0.0]) is None
    assert measure_longer_rate([], []) is None


def test_what_is_no_outcome_is_refused() -> None:
    for compute in (compute_win_rate, lambda outcomes: compute_length_controlled_rate(outcomes, [0.0] * len(outcomes))):
        with pytest.raises(ValueError, match="at least one judged item, got none"):
            compute([])
        with pytest.raises(ValueError, match=r"must be in \[0, 1\].*got 2"):
            compute([1.0, 2.0])
        with pytest.raises(ValueError, match=r"must be in \[0, 1\].*got nan"):
            compute([1.0, math.nan])
    with pytest.raises(ValueError, match="every outcome needs a length difference, got 2 and 1"):
        compute_length_controlled_rate([1.0, 0.0], [3.0])
