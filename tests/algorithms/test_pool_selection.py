import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.spatial.distance import cdist

from lance_assets.algorithms.measures.diversity import compute_vendi_score
from lance_assets.algorithms.selection.pool_selection import (
    METHODS,
    PoolMethod,
    Selection,
    draw_first_pool,
    select_from_pool,
)

FLAGS = np.array([False, True, False, False, False])
WHOLE = st.integers(-3, 3)


def pick(method: PoolMethod, given: np.ndarray, is_chosen: np.ndarray, num_picks: int, rng_seed: int = 0) -> Selection:
    vectors, scores = (given, None) if method == "k_center" else (None, given)
    return select_from_pool(
        method, vectors=vectors, scores=scores, is_chosen=is_chosen, num_picks=num_picks, rng_seed=rng_seed
    )


def flag(num_rows: int, chosen: object) -> np.ndarray:
    is_chosen = np.zeros(num_rows, dtype=bool)
    is_chosen[chosen] = True
    return is_chosen


def pick_by_full_matrix(vectors: np.ndarray, is_chosen: np.ndarray, num_picks: int) -> list[int]:
    """The authors' rule over all distances: the first row of the largest minimum, then that row is chosen too."""
    distances = cdist(vectors.astype(np.float64), vectors.astype(np.float64))
    is_chosen = is_chosen.copy()
    picks = []
    for _ in range(num_picks):
        free = np.flatnonzero(~is_chosen)
        nearest = distances[np.ix_(free, np.flatnonzero(is_chosen))].min(axis=1)
        picks.append(int(free[nearest.argmax()]))
        is_chosen[picks[-1]] = True
    return picks


def test_farthest_of_a_line_by_distances_that_know_each_pick() -> None:
    """From 1: 10 is 9 away. Then 5 is 4 from 1 and 5 from 10; 9 would be the top-2 without an update, and is 1 away."""
    line = np.float32([[9], [1], [5], [10], [2]])
    chosen = pick("k_center", line, FLAGS, 3)
    assert chosen.places.tolist() == [3, 2, 0]
    assert chosen.values is not None
    assert chosen.values.tolist() == [9, 4, 1]


@pytest.mark.parametrize(
    ("method", "wanted"), [("least_confidence", [2, 4, 0]), ("margin", [2, 4, 0]), ("entropy", [3, 0, 2])]
)
def test_scores_ties_by_the_lowest_place_and_never_a_chosen_row(method: PoolMethod, wanted: list[int]) -> None:
    """Row 1 is chosen already and needs no score. Ascending: 2 and 4 (1.0 each), 0 (2.0), 3 (7.0)."""
    scores = np.float32([2, np.nan, 1, 7, 1])
    chosen = pick(method, scores, FLAGS, 3)
    assert chosen.places.tolist() == wanted
    assert chosen.values is not None
    assert chosen.values.tolist() == scores[wanted].tolist()


@pytest.mark.parametrize("method", ["least_confidence", "margin", "entropy"])
def test_a_thousand_equal_scores_are_taken_in_order(method: PoolMethod) -> None:
    """An unstable sort is stable on a dozen rows, so it takes many to show."""
    scores = np.arange(1000, dtype=np.float32) % 2
    wanted = [row for row in range(1000) if scores[row] == (method == "entropy") and row != 7][:300]
    assert pick(method, scores, flag(1000, 7), 300).places.tolist() == wanted


def test_random_draws_anew_each_round_and_the_same_again() -> None:
    first = draw_first_pool(1000, 100, 7)
    is_chosen = flag(1000, first)
    one = pick("random", np.zeros(0), is_chosen, 50, rng_seed=7)
    assert one.values is None
    assert one.places.tolist() == pick("random", np.zeros(0), is_chosen, 50, rng_seed=7).places.tolist()
    assert one.places.tolist() != pick("random", np.zeros(0), is_chosen, 50, rng_seed=8).places.tolist()
    # one flag more among the last rows moves no free row before them: without the round's own seed, draws would agree
    more = pick("random", np.zeros(0), is_chosen | flag(1000, np.flatnonzero(~is_chosen)[-1]), 50, rng_seed=7)
    assert len(set(one.places.tolist()) & set(more.places.tolist())) < 25


def test_the_first_pool_is_the_seeds_alone() -> None:
    pool = draw_first_pool(500, 100, 3)
    assert pool.tolist() == draw_first_pool(500, 100, 3).tolist() == sorted(set(pool.tolist()))
    assert pool.tolist() != draw_first_pool(500, 100, 4).tolist()
    assert len(pool) == 100
    counts = np.bincount(np.concatenate([draw_first_pool(20, 5, seed) for seed in range(400)]), minlength=20)
    assert counts.min() > 60, "every row is drawn about 100 times of 400"


@given(st.lists(st.tuples(WHOLE, WHOLE), min_size=3, max_size=30), st.data())
def test_k_center_is_the_authors_rule_with_many_ties(points: list, data: st.DataObject) -> None:
    """Squares of small whole numbers are exact, so that ties are ties on both sides."""
    rows = np.array(points, dtype=np.float32)
    num_chosen = data.draw(st.integers(1, len(rows) - 1))
    is_chosen = flag(len(rows), data.draw(st.permutations(range(len(rows))))[:num_chosen])
    num_picks = data.draw(st.integers(0, len(rows) - num_chosen))
    assert pick("k_center", rows, is_chosen, num_picks).places.tolist() == pick_by_full_matrix(
        rows, is_chosen, num_picks
    )


@given(st.sampled_from(METHODS), st.integers(2, 40), st.integers(0, 2**31 - 1), st.data())
def test_picks_are_new_and_differ_whatever_the_method(
    method: PoolMethod, num_rows: int, rng_seed: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(rng_seed)
    is_chosen = flag(num_rows, draw_first_pool(num_rows, data.draw(st.integers(1, num_rows)), rng_seed))
    num_picks = data.draw(st.integers(0, int((~is_chosen).sum())))
    before = is_chosen.copy()
    given = rng.normal(size=(num_rows, 3) if method == "k_center" else num_rows).astype(np.float32)
    chosen = pick(method, given, is_chosen, num_picks, rng_seed)
    assert (is_chosen == before).all(), "what was given is left as it was"
    assert len(set(chosen.places.tolist())) == len(chosen.places) == num_picks
    assert not is_chosen[chosen.places].any()
    if chosen.values is not None:
        falls = np.diff(chosen.values) * (1 if method in {"k_center", "entropy"} else -1)
        assert (falls <= 0).all()
        left = np.setdiff1d(np.flatnonzero(~is_chosen), chosen.places)
        if method != "k_center" and num_picks and len(left):
            sign = 1 if method == "entropy" else -1
            assert (sign * given[left]).max() <= sign * chosen.values[-1]


@pytest.fixture(scope="module")
def real_vectors(real_data: Path) -> np.ndarray:
    """Hashed word counts of real prompts and completions, projected to 64 dimensions: float32 [55185, 64]."""
    path = real_data / "t0_train_50k.parquet"
    if not path.is_file():
        pytest.skip(f"no real data at {path}")
    texts = pl.read_parquet(path).select(pl.col("prompt") + "\n" + pl.col("completion")).to_series()
    words = texts.str.slice(0, 300).str.to_lowercase().str.split(" ")
    lengths = words.list.len().to_numpy()
    buckets = (words.explode(empty_as_null=True).hash(seed=0) % 4096).to_numpy()
    edges = np.concatenate([[0], np.cumsum(lengths)])
    counts = csr_matrix((np.ones(len(buckets), dtype=np.float32), buckets, edges), shape=(len(texts), 4096))
    return counts @ np.random.default_rng(0).normal(size=(4096, 64)).astype(np.float32)


def test_real_rows_are_picked_as_by_the_full_matrix(real_vectors: np.ndarray) -> None:
    some = real_vectors[np.random.default_rng(1).choice(len(real_vectors), 2000, replace=False)]
    is_chosen = flag(2000, draw_first_pool(2000, 100, 0))
    chosen = pick("k_center", some, is_chosen, 100)
    assert chosen.places.tolist() == pick_by_full_matrix(some, is_chosen, 100)


def test_a_thousand_of_fifty_thousand_real_rows(real_vectors: np.ndarray) -> None:
    is_chosen = flag(len(real_vectors), draw_first_pool(len(real_vectors), 100, 0))
    started = time.process_time()
    chosen = pick("k_center", real_vectors, is_chosen, 1000)
    seconds = time.process_time() - started
    by_lot = pick("random", np.zeros(0), is_chosen, 1000)
    radii, scores = [], []
    for picks in (chosen.places, by_lot.places):
        pool = real_vectors[is_chosen | flag(len(real_vectors), picks)]
        radii.append(float(cdist(real_vectors[::10], pool).min(axis=1).max()))
        scores.append(compute_vendi_score(pool / np.linalg.norm(pool, axis=1, keepdims=True)))
    print(f"{seconds:.1f} s; radius {radii}, Vendi score {scores}")
    assert chosen.values is not None
    assert (np.diff(chosen.values) <= 0).all()
    assert len(set(chosen.places.tolist())) == 1000
    assert not is_chosen[chosen.places].any()
    assert radii[0] <= chosen.values[-1] + 1e-3, "no row is farther from the pool than the last pick was"
    assert radii[0] < radii[1]


LINE = np.zeros((3, 2), dtype=np.float32)
ONE = np.array([True, False, False])


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"method": "kcenter"}, "one of k_center, random, .* got 'kcenter'"),
        ({"is_chosen": np.array([1, 0, 0])}, "is_chosen must be bool .* got int64"),
        ({"is_chosen": ONE[None]}, r"shape \(1, 3\)"),
        ({"num_picks": 3}, r"\[0, 2\], the rows not yet chosen of 3, got 3: pick fewer, run fewer rounds"),
        ({"num_picks": -1}, "got -1"),
        ({"vectors": None}, "needs vectors, got None"),
        ({"vectors": LINE[:2]}, r"\[num_rows=3, dim\], as is_chosen, got \(2, 2\)"),
        ({"vectors": LINE[:, 0]}, r"got \(3,\)"),
        ({"vectors": LINE.astype(np.float64)}, "must be float32, got float64"),
        ({"vectors": np.float32([[0, 0], [0, np.nan], [0, 0]])}, "row 1 is not"),
        ({"is_chosen": np.zeros(3, dtype=bool)}, "draw a first pool"),
        ({"method": "margin"}, "margin needs scores, got None"),
        ({"method": "margin", "scores": np.zeros(2)}, r"shape \(3,\), as is_chosen, got \(2,\)"),
        ({"method": "margin", "scores": np.array([0, 1, np.nan])}, "not chosen, row 2 is nan"),
        ({"method": "entropy", "scores": np.array([0, np.inf, 0])}, "row 1 is inf"),
    ],
)
def test_wrong_arguments(changed: dict, told: str) -> None:
    right = {"method": "k_center", "vectors": LINE, "scores": None, "is_chosen": ONE, "num_picks": 1, "rng_seed": 0}
    select_from_pool(**right)
    with pytest.raises(ValueError, match=told):
        select_from_pool(**(right | changed))


@pytest.mark.parametrize("num_first", [0, 4])
def test_wrong_first_pools(num_first: int) -> None:
    with pytest.raises(ValueError, match=rf"\[1, num_rows=3\], got {num_first}"):
        draw_first_pool(3, num_first, 0)
