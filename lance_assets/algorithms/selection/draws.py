"""A random draw of rows: the control that selections by distance or confidence are measured against.

DiverseEvol (arXiv 2311.08182) compares its k-center selection with a random one of the same size.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def select_random(
    num_rows: int, k: int, *, selected: Sequence[int] | NDArray[np.int64] = (), rng_seed: int
) -> NDArray[np.int64]:
    """Draw k different rows that are not selected yet, int64 [k], sorted.

    Args:
        num_rows: rows to draw from, numbered from 0.
        k: how many to draw.
        selected: rows that cannot be drawn.
        rng_seed: the same seed draws the same rows.

    Raises:
        ValueError: k is not in [0, rows not yet selected], or a selected row is not in [0, num_rows).

    >>> select_random(4, 2, selected=[0, 1], rng_seed=7).tolist()
    [2, 3]
    """
    taken = np.asarray(selected, dtype=np.int64)
    wrong = taken[(taken < 0) | (taken >= num_rows)]
    if len(wrong):
        raise ValueError(f"selected must be rows in [0, num_rows={num_rows}), got {wrong[0]}")
    free = np.setdiff1d(np.arange(num_rows), taken)
    if not 0 <= k <= len(free):
        raise ValueError(f"k must be in [0, {len(free)}] (rows not yet selected), got {k}")
    return np.sort(np.random.default_rng(rng_seed).choice(free, k, replace=False))
