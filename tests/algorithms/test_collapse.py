import math
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.measures.diversity import (
    DiversityFloors,
    DiversityReport,
    compute_cluster_entropy,
    compute_length_drift,
    compute_novelty,
    compute_score_length_correlation,
    compute_seed_share,
    find_collapse,
)

REPORT = DiversityReport(
    num_rows=10,
    novelty=0.2,
    vendi_score=4.0,
    vendi_rate=0.4,
    distinct_1=0.3,
    distinct_2=0.6,
    cluster_entropy=0.5,
    length_drift=-0.7,
    score_length_correlation=0.8,
    seed_share=0.25,
    human_likeness=0.3,
)


@pytest.mark.parametrize(
    ("floors", "told"),
    [
        ({"min_novelty": 0.3}, "novelty is 0.2, below the floor 0.3"),
        ({"min_vendi_rate": 0.5}, "vendi_rate is 0.4, below"),
        ({"min_distinct_2": 0.7}, "distinct_2 is 0.6, below"),
        ({"min_cluster_entropy": 0.6}, "cluster_entropy is 0.5, below"),
        ({"max_length_drift": 0.6}, "length_drift is -0.7, beyond the bound 0.6"),
        ({"max_score_length_correlation": 0.7}, "score_length_correlation is 0.8, beyond"),
        ({"min_seed_share": 0.3}, "seed_share is 0.25, below"),
        ({"min_human_likeness": 0.31}, "human_likeness is 0.3, below the floor 0.31"),
    ],
)
def test_each_bound(floors: dict[str, float], told: str) -> None:
    (sentence,) = find_collapse(REPORT, DiversityFloors(**floors))
    assert sentence.startswith(told)
    (name, bound) = next(iter(floors.items()))
    met = bound + 0.2 if name.startswith("max") else bound - 0.2
    assert find_collapse(REPORT, DiversityFloors(**{name: met})) == []


def test_what_was_not_measured_breaks_nothing() -> None:
    nothing = DiversityReport(0, *[None] * 9)
    every = DiversityFloors(1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.5)
    assert find_collapse(nothing, every) == []
    assert len(find_collapse(REPORT, every)) == len(fields(every))


def test_novelty() -> None:
    assert compute_novelty([1.0, 0.0, -1.0]) == pytest.approx(1.0)
    assert compute_novelty([]) is None
    with pytest.raises(ValueError, match="row 1 is NaN"):
        compute_novelty([0.5, float("nan")])


def at_corners(*numbers: int) -> np.ndarray:
    """So many rows at each of several corners."""
    return np.repeat(np.eye(len(numbers), dtype=np.float32), numbers, axis=0)


def test_cluster_entropy_worked_by_hand() -> None:
    """Three and one of four rows: -(3/4 ln 3/4 + 1/4 ln 1/4) / ln 2 = 0.811."""
    assert compute_cluster_entropy(at_corners(3, 1), num_clusters=2, rng_seed=0) == pytest.approx(0.8113, abs=1e-4)
    assert compute_cluster_entropy(at_corners(5, 5, 5), num_clusters=3, rng_seed=0) == pytest.approx(1.0)
    assert compute_cluster_entropy(at_corners(9), num_clusters=3, rng_seed=0) == 0.0
    assert compute_cluster_entropy(at_corners(1), num_clusters=3, rng_seed=0) is None
    assert compute_cluster_entropy(np.zeros((0, 4), dtype=np.float32), num_clusters=3, rng_seed=0) is None


@given(st.integers(0, 1000), st.integers(2, 8))
def test_cluster_entropy_does_not_depend_on_the_order(rng_seed: int, num_clusters: int) -> None:
    rng = np.random.default_rng(rng_seed)
    rows = rng.normal(size=(40, 5)).astype(np.float32)
    one = compute_cluster_entropy(rows, num_clusters=num_clusters, rng_seed=3)
    assert one == compute_cluster_entropy(rng.permutation(rows), num_clusters=num_clusters, rng_seed=3)
    assert 0 <= one <= 1 + 1e-9


def test_wrong_embeddings() -> None:
    with pytest.raises(ValueError, match="row 1 is not"):
        compute_cluster_entropy(np.float32([[0], [np.nan]]), num_clusters=2, rng_seed=0)
    with pytest.raises(ValueError, match="2D array"):
        compute_cluster_entropy(np.zeros(3, dtype=np.float32), num_clusters=2, rng_seed=0)
    with pytest.raises(ValueError, match="at least 2, got 1"):
        compute_cluster_entropy(np.zeros((3, 1), dtype=np.float32), num_clusters=1, rng_seed=0)


def test_length_drift() -> None:
    assert compute_length_drift([5, 10, 15], [20]) == pytest.approx(math.log(0.5))
    assert compute_length_drift([], [1]) is None
    assert compute_length_drift([1], []) is None
    assert compute_length_drift([0], [1]) is None


def test_score_length_correlation() -> None:
    """Ranks 1 2 3 4 against 1 2 4 3: 1 - 6 * 2 / (4 * 15) = 0.8."""
    assert compute_score_length_correlation([1, 2, 3, 9], [10, 20, 40, 30]) == pytest.approx(0.8)
    assert compute_score_length_correlation([1, None, 2], [1, 5, 2]) is None
    assert compute_score_length_correlation([1, 1, 1], [1, 2, 3]) is None
    assert compute_score_length_correlation([1, 2, 3], [4, 4, 4]) is None
    with pytest.raises(ValueError, match="as many, got 1 and 0"):
        compute_score_length_correlation([1.0], [])


def test_seed_share() -> None:
    assert compute_seed_share(["generated"] * 3 + ["eft"]) == 0.25
    assert compute_seed_share([]) is None
