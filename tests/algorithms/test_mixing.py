"""Who writes which row: shares worked by hand, and properties."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.selection.mixing import count_shares, deal_rows

SHARES = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 5), min_size=1).map(
    lambda parts: {name: part / (sum(parts.values()) + 3) for name, part in parts.items()}
)


def test_shares_of_ten_rows_by_largest_remainder() -> None:
    """0.33 of 10 is 3.3 each: three rows each, and the tenth is rounded away to nobody, as 9.9 is to ten for one."""
    assert count_shares(10, {"a": 0.33, "b": 0.33, "c": 0.34}) == {"a": 3, "b": 3, "c": 4}
    assert count_shares(3, {"b": 0.5, "a": 0.5}) == {"b": 1, "a": 2}, "of equal remainders the first name's"
    assert count_shares(0, {"a": 1.0}) == {"a": 0}


@given(st.integers(0, 60), SHARES)
def test_every_share_is_kept_within_a_row(number: int, shares: dict[str, float]) -> None:
    counts = count_shares(number, shares)
    assert all(abs(counts[name] - number * share) < 1 for name, share in shares.items())
    assert abs(sum(counts.values()) - number * sum(shares.values())) <= 0.5 + 1e-6


@given(st.integers(0, 40), SHARES, st.integers(0, 5))
def test_who_writes_a_row_depends_on_no_order(number: int, shares: dict[str, float], salt: int) -> None:
    row_ids = [f"r{place}" for place in range(number)]
    before = dict(zip(row_ids, deal_rows(row_ids, shares, rng_seed=7), strict=True))
    rng = random.Random(salt)
    shuffled, turned = rng.sample(row_ids, number), dict(reversed(shares.items()))
    assert dict(zip(shuffled, deal_rows(shuffled, turned, rng_seed=7), strict=True)) == before
    counts = count_shares(number, shares)
    assert all(list(before.values()).count(name) == counts[name] for name in shares)


def test_another_seed_deals_anew() -> None:
    row_ids = [f"r{place}" for place in range(40)]
    dealt = [deal_rows(row_ids, {"a": 0.5}, rng_seed=seed) for seed in (0, 1)]
    assert dealt[0] != dealt[1]


@pytest.mark.parametrize("shares", [{"a": 0.0}, {"a": 0.6, "b": 0.5}, {"a": -0.1}])
def test_shares_that_cannot_be_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="shares must be above 0 and at most 1 together"):
        count_shares(4, shares)
