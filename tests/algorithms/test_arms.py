import polars as pl
import pytest
from scipy import stats

from lance_assets.algorithms.measures.arms import average_by_stratum, compare_rounds, find_fallen_strata, summarise_arms
from lance_assets.algorithms.measures.statistics import compute_mean_interval, compute_paired_difference
from lance_assets.records import STUDY_ROWS


def study(accuracies: dict[tuple[str, str], list[list[bool]]]) -> pl.DataFrame:
    """Rows from the items of each (arm, round), one list a seed; every problem is a rung of its own."""
    rows = [
        {
            "rng_seed": seed,
            "arm": arm,
            "round": key,
            "num_items": len(items),
            "greedy": sum(items) / len(items),
            "greedy_by_stratum": [float(item) for item in items],
            "greedy_items": items,
        }
        for (arm, key), seeds in accuracies.items()
        for seed, items in enumerate(seeds)
    ]
    return pl.DataFrame(rows, schema=STUDY_ROWS)


HALF, THREE, ALL = [True, False, True, False], [True, True, True, False], [True] * 4


def test_over_seeds_the_interval_is_students_over_their_differences() -> None:
    """Differences 0.25, 0.5 and 0.25: mean 1/3, standard error 0.0833, t(2) = 4.303."""
    rows = study({("lance", "r0000"): [HALF, HALF, THREE], ("lance", "r0004"): [THREE, ALL, ALL]})
    mean, low, high = compare_rounds(rows, ("lance", "r0000"), ("lance", "r0004"), metric="greedy")
    assert mean == pytest.approx(1 / 3)
    assert high - mean == pytest.approx(mean - low)
    assert high - mean == pytest.approx(4.302653 * 0.25 / 3, rel=1e-5)


def test_only_seeds_that_have_both_are_compared() -> None:
    rows = study({("lance", "r0001"): [HALF, HALF, HALF], ("seeds_only", "r0001"): [ALL, THREE]})
    mean, _, _ = compare_rounds(rows, ("seeds_only", "r0001"), ("lance", "r0001"), metric="greedy")
    assert mean == pytest.approx((0.5 + 0.25) / -2)


def test_with_one_seed_the_interval_is_over_the_problems() -> None:
    rows = study({("lance", "r0000"): [HALF], ("lance", "r0001"): [ALL]})
    assert compare_rounds(rows, ("lance", "r0000"), ("lance", "r0001"), metric="greedy") == compute_paired_difference(
        HALF, ALL
    )


def test_an_unfinished_round_is_named() -> None:
    rows = study({("lance", "r0000"): [HALF]})
    with pytest.raises(ValueError, match="lance r0000 and no_pairs r0004"):
        compare_rounds(rows, ("lance", "r0000"), ("no_pairs", "r0004"), metric="greedy")


def test_summary_has_one_row_for_each_arm_and_round() -> None:
    rows = study({("lance", "r0000"): [HALF, THREE], ("lance", "r0001"): [ALL]})
    two, one = summarise_arms(rows, metric="greedy").to_dicts()
    assert (two["num_seeds"], two["mean"]) == (2, pytest.approx(0.625))
    assert two["low"] < two["mean"] < two["high"]
    assert (one["num_seeds"], one["low"], one["high"]) == (1, 1.0, 1.0)


def test_rungs_are_averaged_and_the_fallen_ones_named() -> None:
    rows = study({("lance", "r0000"): [ALL, ALL], ("lance", "r0001"): [THREE, ALL]})
    assert average_by_stratum(rows, "lance", "r0001", metric="greedy") == [1.0, 1.0, 1.0, 0.5]
    assert average_by_stratum(rows, "lance", "r0007", metric="greedy") == []
    places = (("lance", "r0000"), ("lance", "r0001"))
    assert find_fallen_strata(rows, *places, metric="greedy", above=0.9, by=0.03) == [4]
    assert find_fallen_strata(rows, *places, metric="greedy", above=0.9, by=0.5) == []
    assert find_fallen_strata(rows, *places[::-1], metric="greedy", above=0.9, by=0.03) == []


@pytest.mark.parametrize("values", [[1.0, 2.0, 4.0], [0.1, 0.1, 0.1, 0.1], [-3.0, 5.0]])
def test_mean_interval_agrees_with_scipy(values: list[float]) -> None:
    mean, low, high = compute_mean_interval(values)
    error = stats.sem(values)
    expected = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=error) if error else (mean, mean)
    assert (low, high) == pytest.approx(expected)


def test_mean_interval_of_one_value_is_endless_and_of_none_an_error() -> None:
    assert compute_mean_interval([0.5]) == (0.5, float("-inf"), float("inf"))
    with pytest.raises(ValueError, match="got none"):
        compute_mean_interval([])
    with pytest.raises(ValueError, match="confidence"):
        compute_mean_interval([1.0, 2.0], confidence=1.0)
