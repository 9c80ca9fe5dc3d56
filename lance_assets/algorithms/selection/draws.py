"""Random draws of rows.

* `select_random`: the control that selections by distance or confidence are measured against. DiverseEvol
  (arXiv 2311.08182) compares its k-center selection with a random one of the same size.
* `select_over_strata`: a sample that people look at, spread over kinds of rows.
"""

import hashlib
from collections import defaultdict
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


def select_over_strata(keys: Sequence[str], strata: Sequence[str], k: int, *, rng_seed: int) -> list[int]:
    """Draw rows evenly over strata: one of each stratum, then a second one of each, and so on.

    A row's place in the draw follows from its key alone, so that rows more or less change no other's.

    Args:
        keys: what each row is known by, such as a hash of its text.
        strata: the stratum of each row.
        k: how many to draw; all where there are fewer.
        rng_seed: the same seed draws the same rows.

    Returns:
        The numbers of the drawn rows from 0, sorted.

    Raises:
        ValueError: k is below 0, or keys and strata differ in length.

    >>> strata = ["good", "good", "good", "bad"]
    >>> drawn = select_over_strata(["a", "b", "c", "d"], strata, 2, rng_seed=0)
    >>> sorted(strata[number] for number in drawn)
    ['bad', 'good']
    """
    if k < 0:
        raise ValueError(f"k must be 0 or more, got {k}")
    if len(keys) != len(strata):
        raise ValueError(f"each row has a key and a stratum, got {len(keys)} keys and {len(strata)} strata")
    digests = [hashlib.sha256(f"{rng_seed}\x1f{key}".encode()).hexdigest() for key in keys]
    members: dict[str, list[int]] = defaultdict(list)
    for number in sorted(range(len(keys)), key=lambda number: (digests[number], number)):
        members[strata[number]].append(number)
    ranks = {number: rank for own in members.values() for rank, number in enumerate(own)}
    return sorted(sorted(ranks, key=lambda number: (ranks[number], digests[number], number))[:k])
