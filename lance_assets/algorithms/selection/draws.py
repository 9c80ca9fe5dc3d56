"""Selections that k-center is measured against: by lot, the longest, and facility location.

Sources: random and longest are the controls that DiverseEvol's own results ask for, since its gains go along with
longer completions; facility location is the submodular function of Lin and Bilmes 2011, by the library apricot.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NUM_FACILITY_ROWS = 20_000
"""Rows up to which facility location is computed: it holds all similarities, 1.6 GiB of float32."""


def _list_free(num_rows: int, selected: Sequence[int] | NDArray[np.int64], k: int) -> NDArray[np.int64]:
    taken = np.asarray(selected, dtype=np.int64)
    wrong = taken[(taken < 0) | (taken >= num_rows)]
    if len(wrong):
        raise ValueError(f"selected must be rows in [0, num_rows={num_rows}), got {wrong[0]}")
    free = np.setdiff1d(np.arange(num_rows), taken)
    if not 0 <= k <= len(free):
        raise ValueError(f"k must be in [0, {len(free)}] (rows not yet selected), got {k}")
    return free


def select_random(
    num_rows: int, k: int, *, selected: Sequence[int] | NDArray[np.int64] = (), rng_seed: int
) -> NDArray[np.int64]:
    """Draw k different rows beside those selected, int64 [k], sorted.

    Raises:
        ValueError: k is not in [0, rows not yet selected], or a selected row is not in [0, num_rows).

    >>> select_random(4, 2, selected=[0, 1], rng_seed=7).tolist()
    [2, 3]
    """
    free = _list_free(num_rows, selected, k)
    return np.sort(np.random.default_rng(rng_seed).choice(free, k, replace=False))


def select_longest(
    completions: Sequence[str], k: int, *, selected: Sequence[int] | NDArray[np.int64] = ()
) -> NDArray[np.int64]:
    """The k longest completions in characters, longest first and the first index on ties, int64 [k].

    Raises:
        ValueError: as `select_random`.

    >>> select_longest(["aa", "b", "cc", "ddd"], 3).tolist()
    [3, 0, 2]
    """
    free = _list_free(len(completions), selected, k)
    lengths = np.array([len(completions[row]) for row in free], dtype=np.int64)
    return free[np.argsort(-lengths, kind="stable")[:k]]


def select_facility_location(
    embeddings: NDArray[np.float32], k: int, *, selected: Sequence[int] | NDArray[np.int64] = ()
) -> NDArray[np.int64]:
    """The k rows that best stand for all: greedily the largest sum of each row's highest cosine to a chosen one.

    Cost: O(num_rows ** 2 * dim) and num_rows ** 2 similarities in memory.

    Args:
        embeddings: float32 [num_rows, dim], L2-normalised; cosines are moved from [-1, 1] to [0, 1].
        k: rows to choose.
        selected: rows that stand for others already.

    Returns:
        int64 [k], in the order of choosing.

    Raises:
        ValueError: as `select_random`, or more than `NUM_FACILITY_ROWS` rows, or a row that is not finite.

    >>> rows = np.float32([[1, 0], [0.8, 0.6], [0, 1], [0.6, 0.8]])
    >>> sorted(select_facility_location(rows, 2).tolist())
    [1, 2]
    """
    free = _list_free(len(embeddings), selected, k)
    if len(embeddings) > NUM_FACILITY_ROWS:
        raise ValueError(f"facility location takes {NUM_FACILITY_ROWS} rows at most, got {len(embeddings)}: draw some")
    if not np.isfinite(embeddings).all():
        raise ValueError(f"embeddings must be finite, row {int(np.argwhere(~np.isfinite(embeddings))[0][0])} is not")
    if k == 0:
        return free[:0]
    from apricot import FacilityLocationSelection

    similarities = (1.0 + embeddings.astype(np.float64) @ embeddings.T.astype(np.float64)) / 2.0
    taken = np.asarray(selected, dtype=np.int64)
    function = FacilityLocationSelection(
        k, metric="precomputed", initial_subset=taken if len(taken) else None, optimizer="lazy"
    )
    function.fit(similarities.clip(0, 1))
    return np.asarray(function.ranking[-k:], dtype=np.int64)
