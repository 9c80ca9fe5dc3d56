import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lance_assets.algorithms.measures.diversity import (
    VENDI_RATE_ROWS,
    compute_distinct_n,
    compute_vendi_rate,
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


@settings(max_examples=25, deadline=None)
@given(
    num_rows=st.integers(VENDI_RATE_ROWS, 6 * VENDI_RATE_ROWS),
    dim=st.integers(2, 64),
    spread=st.floats(0.01, 10),
    rng_seed=st.integers(0, 99),
)
def test_the_rate_of_equally_varied_rows_does_not_fall_with_their_number(
    num_rows: int, dim: int, spread: float, rng_seed: int
) -> None:
    """Rows of one distribution, from nearly alike to evenly spread; the score of all over their number falls."""
    rng = np.random.default_rng(rng_seed)
    rows = (1 + spread * rng.normal(size=(num_rows, dim))).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    few = compute_vendi_rate(rows[:VENDI_RATE_ROWS], rng_seed=rng_seed)
    many = compute_vendi_rate(rows, rng_seed=rng_seed)
    assert few is not None
    assert many == pytest.approx(few, rel=0.05)


@pytest.mark.parametrize("num_rows", [1, 40, VENDI_RATE_ROWS])
def test_the_rate_of_few_rows_is_the_score_over_their_number(num_rows: int) -> None:
    rows = draw_rows(num_rows, 16)
    assert compute_vendi_rate(rows, rng_seed=7) == compute_vendi_score(rows) / num_rows
    assert compute_vendi_rate(rows[:0], rng_seed=7) is None


def test_a_bar_on_the_rate_tells_varied_rows_from_collapsed_ones_at_any_number() -> None:
    """Of 16 numbers a vector: the score over all 50,000 rows could not reach the floor of the packaged experiments."""
    floor = 0.002
    varied, alike = (np.resize(rows, (50_000, 16)) for rows in (draw_rows(5_000, 16), draw_rows(1, 16)))
    rate = compute_vendi_rate(varied, rng_seed=0)
    assert rate is not None
    assert compute_vendi_score(varied) / len(varied) < floor < rate
    assert compute_vendi_rate(alike, rng_seed=0) == pytest.approx(1 / VENDI_RATE_ROWS, rel=1e-3)


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
