"""The next rows to take from a fixed pool: by k-center, at random, or by how unsure the model is of them.

Source: DiverseEvol (arXiv 2311.08182), `evol_schedules/` of the authors' code (OFA-Sys/DiverseEvol, commit a22e952).

Differences from the authors' code:

1. The first pool is drawn from `rng_seed`, so that all methods start from the same rows; the authors' code draws
   another one in each run.
2. k-center is `k_center.select_k_center`, whose differences are named there: no NaN picks first.
3. Picks come in the order in which they were chosen; the authors' code sorts them by index. Equal scores go to the
   lowest place.
4. A score that is not finite is an error; the authors' code sorts NaN wherever torch puts it.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lance_assets.algorithms.selection.draws import select_random
from lance_assets.algorithms.selection.k_center import select_k_center
from lance_assets.records import derive_sampling_seed

PoolMethod = Literal["k_center", "random", "least_confidence", "margin", "entropy"]
METHODS: tuple[PoolMethod, ...] = get_args(PoolMethod)
_SIGNS: dict[PoolMethod, float] = {"least_confidence": 1.0, "margin": 1.0, "entropy": -1.0}
"""By the score each method is given: 1 where the lowest is picked, -1 where the highest is."""


@dataclass(frozen=True)
class Selection:
    """What was picked from the pool."""

    places: NDArray[np.int64]
    """Rows of the pool, int64 [num_picks], first pick first; by place for `random`, which has no order."""
    values: NDArray[np.float64] | None
    """float64 [num_picks]: `k_center`'s distance of each pick to the nearest row chosen before it, never rising; the
    score of each pick where there are scores; None for `random`."""


def draw_first_pool(num_rows: int, num_first: int, rng_seed: int) -> NDArray[np.int64]:
    """The rows that every method starts from, int64 [num_first], sorted.

    Args:
        num_rows: rows of the pool.
        num_first: rows to draw, 1..num_rows; the authors' is 100.
        rng_seed: the experiment's; no method's name is part of it.

    Raises:
        ValueError: num_first is out of range.

    >>> draw_first_pool(3, 3, 0).tolist()
    [0, 1, 2]
    """
    if not 1 <= num_first <= num_rows:
        raise ValueError(f"num_first must be in [1, num_rows={num_rows}], got {num_first}")
    return select_random(num_rows, num_first, rng_seed=derive_sampling_seed(rng_seed, "first_pool"))


def select_from_pool(
    method: PoolMethod,
    *,
    vectors: NDArray[np.float32] | None,
    scores: NDArray[np.floating] | None,
    is_chosen: NDArray[np.bool_],
    num_picks: int,
    rng_seed: int,
) -> Selection:
    """Pick rows beside those already chosen.

    `k_center` picks the row farthest from all chosen ones (Euclidean, not normalised) again and again, each pick
    counted as chosen for the next. `least_confidence` and `margin` pick the lowest scores, `entropy` the highest.
    `random` draws from `rng_seed` and the number of rows already chosen, so that each round draws other rows and a
    round that is run again draws the same ones. Ties go to the lowest place.

    Cost: `k_center` O(num_rows * dim * num_picks) at most; the others O(num_rows * log num_rows).

    Args:
        method: one of `METHODS`.
        vectors: float32 [num_rows, dim], finite; may be a memory map. Read by `k_center` alone.
        scores: float [num_rows], finite where a row is not chosen: the mean maximal logit for `least_confidence`, the
            mean margin for `margin`, the mean entropy for `entropy`. Read by these alone.
        is_chosen: bool [num_rows]. `k_center` needs one chosen row at least.
        num_picks: 0..rows not yet chosen; the authors' is 100 a round.
        rng_seed: the experiment's; read by `random` alone.

    Raises:
        ValueError: an unknown method, vectors or scores that are missing, of another shape or not finite, is_chosen
            not a bool array or without a chosen row for `k_center`, or num_picks out of range.

    >>> line, is_chosen = np.float32([[0], [1], [5], [9], [10]]), np.array([True, False, False, False, False])
    >>> select_from_pool("k_center", vectors=line, scores=None, is_chosen=is_chosen, num_picks=2, rng_seed=0).places
    array([4, 2])
    >>> entropies = np.array([9.0, 0.5, 2.0, 2.0, 1.0])
    >>> select_from_pool("entropy", vectors=None, scores=entropies, is_chosen=is_chosen, num_picks=2, rng_seed=0).places
    array([2, 3])
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if is_chosen.ndim != 1 or is_chosen.dtype != np.bool_:
        raise ValueError(f"is_chosen must be bool [num_rows], got {is_chosen.dtype} of shape {is_chosen.shape}")
    free = np.flatnonzero(~is_chosen)
    if not 0 <= num_picks <= len(free):
        raise ValueError(
            f"num_picks must be in [0, {len(free)}], the rows not yet chosen of {len(is_chosen)}, got {num_picks}: "
            "pick fewer, run fewer rounds, or give a larger pool"
        )
    if method == "k_center":
        chosen = select_k_center(_check_vectors(vectors, len(is_chosen)), np.flatnonzero(is_chosen), num_picks)
        return Selection(chosen.picks, chosen.distances)
    if method == "random":
        seed = derive_sampling_seed(rng_seed, "pool_selection", len(is_chosen) - len(free))
        picks = select_random(len(is_chosen), num_picks, selected=np.flatnonzero(is_chosen), rng_seed=seed)
        return Selection(picks, None)
    values = _check_scores(method, scores, is_chosen)
    # A stable sort keeps rows of equal score in the order of the pool.
    places = free[np.argsort(_SIGNS[method] * values[free], kind="stable")[:num_picks]]
    return Selection(places, values[places])


def _check_vectors(vectors: NDArray[np.float32] | None, num_rows: int) -> NDArray[np.float32]:
    if vectors is None:
        raise ValueError("k_center needs vectors, got None: give float32 [num_rows, dim]")
    if vectors.ndim != 2 or len(vectors) != num_rows:
        raise ValueError(f"vectors must have shape [num_rows={num_rows}, dim], as is_chosen, got {vectors.shape}")
    if vectors.dtype != np.float32:
        raise ValueError(f"vectors must be float32, got {vectors.dtype}: convert them with astype")
    return vectors


def _check_scores(
    method: str, scores: NDArray[np.floating] | None, is_chosen: NDArray[np.bool_]
) -> NDArray[np.float64]:
    if scores is None:
        raise ValueError(f"{method} needs scores, got None: give float [num_rows]")
    if scores.shape != is_chosen.shape:
        raise ValueError(f"scores must have shape {is_chosen.shape}, as is_chosen, got {scores.shape}")
    values = scores.astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(values) & ~is_chosen)
    if len(wrong):
        raise ValueError(
            f"scores must be finite where a row is not chosen, row {wrong[0]} is {values[wrong[0]]}: read it again"
        )
    return values
