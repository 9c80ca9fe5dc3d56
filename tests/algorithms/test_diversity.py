import numpy as np
import pytest

from lance_assets.algorithms.measures.diversity import compute_distinct_n, compute_vendi_score


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


def test_bad_embeddings_are_named() -> None:
    with pytest.raises(ValueError, match=r"2D array \[num_rows, dim\], got shape \(3,\)"):
        compute_vendi_score(np.zeros(3, dtype=np.float32))
    with pytest.raises(ValueError, match="row 1 has norm 2"):
        compute_vendi_score(np.float32([[1, 0], [0, 2]]))
    with pytest.raises(ValueError, match="row 0 has norm nan"):
        compute_vendi_score(np.float32([[np.nan, 0]]))


def test_distinct_n() -> None:
    """Bigrams are ab and ba in the first text, ab in the second: 2 of 3."""
    assert compute_distinct_n(["a b a", "a b"], 2) == pytest.approx(2 / 3)
    assert compute_distinct_n(["a b a", "a b"], 1) == pytest.approx(2 / 5)
    assert compute_distinct_n(["a"], 2) == compute_distinct_n([], 1) == 0.0
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        compute_distinct_n(["a"], 0)
