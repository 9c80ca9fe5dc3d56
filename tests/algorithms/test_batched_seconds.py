"""Seconds of batches that rows leave as they end, worked by hand and as properties."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.forecast.machine_rates import count_batched_seconds

# 64 rows in 0.1 s a step, and one row in 0.037 s: 0.036 s for the step and 0.001 s for each row.
MEASURED = {"rate": 640.0, "rows_measured": 64, "step_seconds": 0.037}


def test_by_hand() -> None:
    """150 rows of 20 tokens in three batches, cut at 40: 3,000 rows' tokens, and three times 40 steps."""
    found = count_batched_seconds(150, 3000, limit=40, batch_size=64, **MEASURED)
    assert found == pytest.approx(3000 * 0.001 + 3 * 40 * 0.036)
    # Four rows of 5 tokens do not reach the limit: the longest has 5 * (1 + ln 4) = 11.9.
    found = count_batched_seconds(4, 20, limit=40, batch_size=64, **MEASURED)
    assert found == pytest.approx(20 * 0.001 + 5 * (1 + math.log(4)) * 0.036)


@given(limit=st.integers(1, 500), number=st.integers(1, 20))
def test_full_batches_of_whole_rows_take_the_measured_rate(limit: int, number: int) -> None:
    rows = 64 * number
    found = count_batched_seconds(rows, rows * limit, limit=limit, batch_size=64, **MEASURED)
    assert found == pytest.approx(rows * limit / 640.0)


@given(
    rows=st.floats(0.5, 5000),
    mean=st.floats(1, 200),
    batch_size=st.integers(1, 256),
    rate=st.floats(1, 5000),
    step=st.floats(1e-4, 1.0),
)
def test_a_stage_takes_no_less_than_its_longest_rows_and_no_less_with_more_rows(
    rows: float, mean: float, batch_size: int, rate: float, step: float
) -> None:
    given_ = {"limit": 200, "batch_size": batch_size, "rate": rate, "rows_measured": 64, "step_seconds": step}
    found = count_batched_seconds(rows, rows * mean, **given_)
    more = count_batched_seconds(2 * rows, 2 * rows * mean, **given_)
    assert 0 < found <= more
