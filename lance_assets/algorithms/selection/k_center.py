"""k-center greedy selection: again and again the row that is farthest from all rows chosen so far.

Source: DiverseEvol (arXiv 2311.08182), `KCenterSampling` of the authors' code (OFA-Sys/DiverseEvol, commit a22e952):
Euclidean distance on unnormalised embeddings, the largest of the minimal distances, the first index on ties.

Differences from the authors' code:

1. Memory is O(num_rows * dim), and for a memory-mapped matrix O(num_rows); the authors' code holds all
   num_rows ** 2 distances.
2. Distances cannot be NaN. The authors' code takes square roots of rounding errors below zero, and then chooses
   near-duplicates.
3. Distances are compared as float32 numbers of float64 products, so rows whose squared distances differ by less than
   6e-8 of themselves tie, and the first index is taken. Where more than `MAX_CANDIDATES` rows tie for the farthest
   within float32's rounding of their squared norms (about 2e-6), the first of them by index are compared.
4. Picks come in the order in which they were chosen; the authors' code sorts them by index.

Hand-written: a recipe's result depends on this selection, and libraries hold all distances or pass over the whole
matrix for each pick. Here a pass is shared by many picks. Every row keeps an upper bound of its distance, from the
chosen rows it was last compared with; only the few thousand rows with the largest bounds are kept up to date. While
the farthest of these lies above the bounds of all others, it is the next pick; when it does not, one pass over the
matrix brings all bounds up to date with all rows chosen meanwhile, as one matrix product a block.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_CANDIDATES = 1024
"""Rows that are kept up to date between passes; half as many below 20,000 rows."""
MAX_CANDIDATES = 4096
"""The most, when many tie."""
_CENTRES_A_PASS = 512
_ROUNDING = 8 * float(np.finfo(np.float32).eps)
_BLOCK_VALUES = 1 << 22


@dataclass(frozen=True)
class KCenterSelection:
    """What was chosen, in the order of choosing."""

    picks: NDArray[np.int64]
    """Row indices, int64 [k]."""
    distances: NDArray[np.float64]
    """Of each pick to the nearest row chosen before it, float64 [k], never rising: the radius before that pick."""


def select_k_center(embeddings: np.ndarray, selected: NDArray[np.int64], k: int) -> KCenterSelection:
    """Choose k rows beside those already selected.

    Cost: at most a pass over the matrix a pick, O(num_rows * dim * k); where distances spread, a pass for hundreds.

    Args:
        embeddings: float [num_rows, dim], not normalised; may be a memory map, which is read block by block.
        selected: the rows of the first pool, int [num_selected], at least one, in any order.
        k: rows to choose, 0..num_rows - num_selected.

    Raises:
        ValueError: not two-dimensional, a row that is not finite, no or wrong or repeated indices in `selected`, or k
            out of range.

    >>> line = np.float32([[0], [1], [5], [9], [10]])
    >>> select_k_center(line, np.array([0]), 2).picks.tolist()
    [4, 2]
    """
    selected = np.asarray(selected, dtype=np.int64)
    _check(embeddings, selected, k)
    state = _State(embeddings)
    state.take(selected)
    picks, distances = np.empty(k, dtype=np.int64), np.empty(k)
    done = 0
    while done < k:
        state.refresh()
        candidates, values, between, floor, is_capped = state.choose_candidates()
        is_sure = True
        while done < k:
            place = int(values.argmax())
            # Right after a pass the farthest candidate is the farthest row. A later pick is sure only while it lies
            # above all that any other row can have.
            if not is_sure and (is_capped or values[place] <= floor):
                break
            picks[done], distances[done] = candidates[place], values[place]
            done, is_sure = done + 1, False
            values = np.minimum(values, between[place])
            # No distance is below zero, so the row is not picked again.
            values[place] = -1.0
            state.take(candidates[place : place + 1])
    return KCenterSelection(picks, np.sqrt(distances))


def _check(embeddings: np.ndarray, selected: NDArray[np.int64], k: int) -> None:
    if embeddings.ndim != 2:
        raise ValueError(f"embeddings must be a 2D array [num_rows, dim], got shape {embeddings.shape}")
    num_rows = len(embeddings)
    if not len(selected):
        raise ValueError("selected must name at least one row, got none: draw a first pool, as by select_random")
    wrong = selected[(selected < 0) | (selected >= num_rows)]
    if len(wrong):
        raise ValueError(f"selected must be rows in [0, num_rows={num_rows}), got {wrong[0]}")
    if len(np.unique(selected)) != len(selected):
        raise ValueError("selected must name each row once")
    if not 0 <= k <= num_rows - len(selected):
        raise ValueError(f"k must be in [0, {num_rows - len(selected)}] (rows not yet selected), got {k}")


def _compare(rows: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Squared distances, float32 [num_rows, num_centres], of float64 products; what is rounding of zero is zero."""
    scale = np.einsum("ij,ij->i", rows, rows)[:, None] + np.einsum("ij,ij->i", centres, centres)
    squared = scale - 2.0 * (rows @ centres.T)
    squared[squared < 1e-12 * scale] = 0.0
    return squared.astype(np.float32)


class _State:
    """Bounds of all rows, and the chosen rows that they do not know yet."""

    def __init__(self, embeddings: np.ndarray) -> None:
        self.embeddings = embeddings
        num_rows, dim = embeddings.shape
        self.block = max(256, _BLOCK_VALUES // max(dim, _CENTRES_A_PASS))
        self.bound = np.full(num_rows, np.inf, dtype=np.float32)
        self.squares = np.empty(num_rows, dtype=np.float32)
        for start in range(0, num_rows, self.block):
            rows = self.read(slice(start, start + self.block), np.float32)
            squares = np.einsum("ij,ij->i", rows, rows)
            if not np.isfinite(squares).all():
                row = start + int(np.flatnonzero(~np.isfinite(squares))[0])
                raise ValueError(f"embeddings must be finite and their squares too, row {row} is not")
            self.squares[start : start + self.block] = squares
        self.is_chosen = np.zeros(num_rows, dtype=bool)
        self.chosen: list[int] = []
        self.pending: list[int] = []

    def read(self, rows: object, dtype: type = np.float64) -> np.ndarray:
        """Rows by index or slice, in memory."""
        return np.asarray(self.embeddings[rows], dtype=dtype)  # type: ignore[call-overload]

    def take(self, rows: NDArray[np.int64]) -> None:
        """Mark rows as chosen; bounds learn of them at the next pass."""
        self.is_chosen[rows] = True
        self.chosen += rows.tolist()
        self.pending += rows.tolist()

    def refresh(self) -> None:
        """Bring all bounds up to date with the rows chosen since the last pass."""
        for first in range(0, len(self.pending), _CENTRES_A_PASS):
            centres = self.read(np.array(self.pending[first : first + _CENTRES_A_PASS]), np.float32)
            # |x - c|² = |x|² - 2 (x·c - |c|²/2), so the largest value over the centres gives the smallest distance.
            half = 0.5 * np.einsum("ij,ij->i", centres, centres)
            for start in range(0, len(self.bound), self.block):
                part = slice(start, start + self.block)
                near = self.read(part, np.float32) @ centres.T
                near -= half
                squared = self.squares[part] - 2.0 * near.max(axis=1)
                np.minimum(self.bound[part], squared, out=self.bound[part])
        self.pending = []
        np.maximum(self.bound, 0.0, out=self.bound)
        # Chosen rows fall below every other bound.
        self.bound[self.is_chosen] = -1.0

    def choose_candidates(self) -> tuple[NDArray[np.int64], np.ndarray, np.ndarray, float, bool]:
        """The rows with the largest bounds, compared exactly.

        Returns:
            candidates int64 [num], their squared distances to the chosen rows float32 [num] and to each other float32
            [num, num], the largest squared distance that any other row may have, and whether more rows tied than are
            kept, so that one pick alone is sure.
        """
        margin = _ROUNDING * 2.0 * float(self.squares.max(initial=0.0))
        free = len(self.bound) - len(self.chosen)
        wanted = min(NUM_CANDIDATES if len(self.bound) > 20_000 else max(1, NUM_CANDIDATES // 2), free)
        lowest = float(np.partition(self.bound, len(self.bound) - wanted)[len(self.bound) - wanted])
        candidates = np.flatnonzero((self.bound >= lowest - 2 * margin) & ~self.is_chosen)
        is_capped = len(candidates) > MAX_CANDIDATES
        if is_capped:
            top = np.flatnonzero((self.bound >= float(self.bound.max()) - 2 * margin) & ~self.is_chosen)
            candidates = top[:MAX_CANDIDATES]
        # Where every free row is a candidate no other row can be farther.
        floor = -1.0 if len(candidates) == free else lowest - margin
        # The bounds are float32; candidates are compared in float64, so that near ties are decided exactly.
        rows = self.read(candidates)
        values = np.full(len(candidates), np.inf, dtype=np.float32)
        for first in range(0, len(self.chosen), _CENTRES_A_PASS):
            centres = self.read(np.array(self.chosen[first : first + _CENTRES_A_PASS]))
            values = np.minimum(values, _compare(rows, centres).min(axis=1))
        return candidates, values, _compare(rows, rows), floor, is_capped
