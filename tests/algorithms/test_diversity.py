import numpy as np
import pytest

from lance_assets.algorithms.measures import diversity
from lance_assets.algorithms.measures.diversity import (
    compute_distinct_n,
    compute_nearest_similarity,
    compute_vendi_score,
)


def draw_rows(num_rows: int, dim: int) -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(num_rows, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(("num_rows", "dim"), [(40, 8), (8, 40), (1, 5)])
def test_vendi_equals_the_kernel_form(num_rows: int, dim: int) -> None:
    rows = draw_rows(num_rows, dim)
    eigenvalues = np.linalg.eigvalsh(rows.astype(np.float64) @ rows.T.astype(np.float64) / num_rows)
    shares = eigenvalues[eigenvalues > 1e-12]
    assert compute_vendi_score(rows) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-6)


def test_vendi_of_copies_is_one_and_of_nothing_zero() -> None:
    assert compute_vendi_score(np.repeat(draw_rows(1, 6), 9, axis=0)) == pytest.approx(1.0)
    assert compute_vendi_score(np.zeros((0, 6), dtype=np.float32)) == 0.0


def test_nearest_equals_the_full_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = draw_rows(50, 8)
    full = rows @ rows.T
    np.fill_diagonal(full, -np.inf)
    monkeypatch.setattr(diversity, "_BLOCK_VALUES", 350)  # blocks of 7 rows
    np.testing.assert_allclose(compute_nearest_similarity(rows), full.max(axis=1), rtol=1e-6)


def test_nearest_of_one_and_none() -> None:
    assert compute_nearest_similarity(draw_rows(1, 4)).tolist() == [0.0]
    assert compute_nearest_similarity(np.zeros((0, 4), dtype=np.float32)).shape == (0,)


@pytest.mark.parametrize("compute", [compute_vendi_score, compute_nearest_similarity])
def test_bad_embeddings_are_named(compute) -> None:
    with pytest.raises(ValueError, match=r"2D array \[num_rows, dim\], got shape \(3,\)"):
        compute(np.zeros(3, dtype=np.float32))
    with pytest.raises(ValueError, match="row 1 has norm 2"):
        compute(np.float32([[1, 0], [0, 2]]))
    with pytest.raises(ValueError, match="row 0 has norm nan"):
        compute(np.float32([[np.nan, 0]]))


def test_distinct_n() -> None:
    """Bigrams are ab and ba in the first text, ab in the second: 2 of 3."""
    assert compute_distinct_n(["a b a", "a b"], 2) == pytest.approx(2 / 3)
    assert compute_distinct_n(["a b a", "a b"], 1) == pytest.approx(2 / 5)
    assert compute_distinct_n(["a"], 2) == compute_distinct_n([], 1) == 0.0
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        compute_distinct_n(["a"], 0)
