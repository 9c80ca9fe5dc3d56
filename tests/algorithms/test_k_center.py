from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.kcenter import select_by_full_matrix
from lance_assets.algorithms.selection import k_center
from lance_assets.algorithms.selection.k_center import select_k_center

GRID = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=2, max_size=25)


def test_points_on_a_line() -> None:
    """From 0: 10 is farthest; then 5, which lies 5 from both ends; then 1 and 9 lie 1 away, the first index wins."""
    line = np.float32([[0], [1], [5], [9], [10]])
    chosen = select_k_center(line, np.array([0]), 3)
    assert chosen.picks.tolist() == [4, 2, 1]
    assert chosen.distances.tolist() == [10, 5, 1]


@given(GRID, st.integers(1, 3), st.integers(0, 20), st.sampled_from([1, 3, 4096]))
def test_the_authors_rule_with_many_ties(points: list, num_selected: int, k: int, num_candidates: int) -> None:
    """Whole numbers are exact in every arithmetic, so that ties are ties on both sides."""
    rows = np.array(points, dtype=np.float32)
    selected = np.arange(min(num_selected, len(rows) - 1))
    k = min(k, len(rows) - len(selected))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(k_center, "NUM_CANDIDATES", num_candidates)
        chosen = select_k_center(rows, selected, k)
    assert chosen.picks.tolist() == select_by_full_matrix(rows.astype(np.float64), selected, k).tolist()
    assert (np.diff(chosen.distances) <= 0).all()


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=4, max_size=8), st.integers(1, 3))
def test_within_twice_the_optimum(points: list, k: int) -> None:
    rows = np.array(points, dtype=np.float64)
    distances = np.linalg.norm(rows[:, None] - rows, axis=2)
    best = min(distances[[0, *others]].min(axis=0).max() for others in combinations(range(1, len(rows)), k))
    chosen = select_k_center(rows, np.array([0]), k).picks
    assert distances[[0, *chosen]].min(axis=0).max() <= 2 * best + 1e-9


@given(st.integers(0, 2**32 - 1))
def test_random_rows_in_blocks_and_from_disk(rng_seed: int) -> None:
    rows = np.random.default_rng(rng_seed).normal(size=(300, 12)).astype(np.float32)
    selected = np.array([7, 3, 200])
    wanted = select_by_full_matrix(rows.astype(np.float64), selected, 40).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(k_center, "_BLOCK_VALUES", 1)
        patch.setattr(k_center, "NUM_CANDIDATES", 5)
        patch.setattr(k_center, "_CENTRES_A_PASS", 3)
        assert select_k_center(rows, selected, 40).picks.tolist() == wanted
    order = np.random.default_rng(rng_seed).permutation(300)
    moved = select_k_center(rows[order], np.argsort(order)[selected], 40)
    assert order[moved.picks].tolist() == wanted


def test_a_memory_map_is_read_the_same(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(5000, 16)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    wanted = select_k_center(rows, np.arange(3), 200)
    assert select_k_center(mapped, np.arange(3), 200).picks.tolist() == wanted.picks.tolist()


def test_near_duplicates_of_chosen_rows_come_last() -> None:
    """Norms of 1,000 make float32 products of near-duplicates round below zero: the authors' square roots are NaN."""
    rng = np.random.default_rng(0)
    rows = (1000 + rng.normal(size=(200, 64))).astype(np.float32)
    copies = rows[:20] + rng.normal(scale=1e-4, size=(20, 64)).astype(np.float32)
    chosen = select_k_center(np.concatenate([rows, copies]), np.arange(20), 200)
    assert np.isfinite(chosen.distances).all()
    assert set(chosen.picks[-20:].tolist()) == set(range(200, 220))


def test_all_equal_rows_are_taken_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(k_center, "NUM_CANDIDATES", 2)
    monkeypatch.setattr(k_center, "MAX_CANDIDATES", 4)
    chosen = select_k_center(np.ones((30, 3), dtype=np.float32), np.array([2]), 5)
    assert chosen.picks.tolist() == [0, 1, 3, 4, 5]
    assert chosen.distances.tolist() == [0] * 5


def test_every_row_and_none() -> None:
    rows = np.float32([[0], [2], [5]])
    assert select_k_center(rows, np.array([1]), 2).picks.tolist() == [2, 0]
    assert select_k_center(rows, np.array([1]), 0).picks.tolist() == []


@pytest.mark.parametrize(
    ("rows", "selected", "k", "told"),
    [
        (np.zeros(3), [0], 1, r"2D array .* got shape \(3,\)"),
        (np.zeros((0, 3)), [], 0, "at least one row, got none: draw a first pool"),
        (np.zeros((3, 2)), [3], 1, r"\[0, num_rows=3\), got 3"),
        (np.zeros((3, 2)), [1, 1], 1, "each row once"),
        (np.zeros((3, 2)), [0], 3, r"k must be in \[0, 2\] .* got 3"),
        (np.zeros((3, 2)), [0], -1, "got -1"),
        (np.array([[0.0], [np.nan], [1.0]]), [0], 1, "row 1 is not"),
        (np.array([[0.0], [1.0], [np.inf]]), [0], 1, "row 2 is not"),
    ],
)
def test_wrong_arguments(rows: np.ndarray, selected: list[int], k: int, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        select_k_center(rows.astype(np.float32), np.array(selected, dtype=np.int64), k)
