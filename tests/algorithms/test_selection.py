from itertools import combinations

import numpy as np
import pytest

from lance_assets.algorithms.selection.draws import select_facility_location, select_longest, select_random


def test_random_is_seeded_and_leaves_out_what_is_selected() -> None:
    one = select_random(50, 10, selected=range(20), rng_seed=3)
    assert one.tolist() == select_random(50, 10, selected=range(20), rng_seed=3).tolist()
    assert one.tolist() != select_random(50, 10, selected=range(20), rng_seed=4).tolist()
    assert len(set(one.tolist())) == 10
    assert one.min() >= 20


def test_longest_takes_the_first_of_equal_length() -> None:
    assert select_longest(["bb", "aaa", "cc", "dd", ""], 3, selected=[1]).tolist() == [0, 2, 3]


def cover(cosines: np.ndarray, chosen: tuple[int, ...]) -> float:
    return float(((1 + cosines[:, list(chosen)]) / 2).max(axis=1).sum())


def test_facility_location_is_near_the_best_set() -> None:
    """Greedy reaches 1 - 1/e of the best; on a dozen rows it is far nearer."""
    rows = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = rows @ rows.T
    chosen = select_facility_location(rows, 3)
    best = max(cover(cosines, others) for others in combinations(range(12), 3))
    assert len(set(chosen.tolist())) == 3
    assert cover(cosines, tuple(chosen)) >= 0.95 * best
    more = select_facility_location(rows, 2, selected=chosen[:1])
    assert chosen[0] not in more
    assert select_facility_location(rows, 0).tolist() == []


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"k must be in \[0, 2\] .* got 3"):
        select_random(4, 3, selected=[0, 1], rng_seed=0)
    with pytest.raises(ValueError, match="got 9"):
        select_longest(["a"], 1, selected=[9])
    with pytest.raises(ValueError, match="row 1 is not"):
        select_facility_location(np.float32([[1, 0], [np.nan, 0]]), 1)
    with pytest.raises(ValueError, match="20000 rows at most, got 20001"):
        select_facility_location(np.zeros((20_001, 1), dtype=np.float32), 1)
