import random

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.similarity.near_duplicates import (
    DROPPED,
    ROW_PAIRS,
    TIERS,
    choose_survivors,
    find_exact_pairs,
)

EVERY = {"exact": 0.0, "lexical": 0.5, "embedding": 0.5}


def pairs(*rows: tuple[str, str, str, float]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=ROW_PAIRS, orient="row")


def test_a_row_like_a_dropped_one_stays() -> None:
    """b goes for a; c is like the dropped b alone, so it stays; d goes for c."""
    like = pairs(("a", "b", "embedding", 0.9), ("c", "b", "embedding", 0.9), ("c", "d", "embedding", 0.8))
    dropped = choose_survivors(list("dcba"), like, thresholds=EVERY)
    assert dropped.schema == DROPPED
    assert dropped.rows() == [("b", "a", "embedding", 0.9), ("d", "c", "embedding", 0.8)]


def test_the_surest_tier_names_the_survivor_then_similarity_then_the_smallest_id() -> None:
    like = pairs(("d", "a", "embedding", 0.99), ("d", "c", "lexical", 0.6), ("d", "b", "lexical", 0.6))
    assert choose_survivors(list("abcd"), like, thresholds=EVERY).rows() == [("d", "b", "lexical", 0.6)]
    assert choose_survivors(list("abcd"), like, thresholds={"embedding": 0.5}).rows() == [("d", "a", "embedding", 0.99)]


def test_rows_of_earlier_rounds_stay_whatever_their_id() -> None:
    like = pairs(("a", "zz", "exact", 1.0), ("zz", "b", "embedding", 0.9))
    assert choose_survivors(["a", "b"], like, thresholds=EVERY)["nearest_id"].to_list() == ["zz", "zz"]


def test_at_the_threshold_is_not_above_it() -> None:
    assert choose_survivors(["a", "b"], pairs(("a", "b", "lexical", 0.5)), thresholds=EVERY).is_empty()


def test_empty_one_and_all_equal() -> None:
    assert choose_survivors([], pairs(), thresholds=EVERY).schema == DROPPED
    ids = [f"{number:02d}" for number in range(20)]
    dropped = choose_survivors(ids, find_exact_pairs(ids, ["Same."] * 20), thresholds=EVERY)
    assert dropped["row_id"].to_list() == ids[1:]
    assert set(dropped["nearest_id"]) == {"00"}


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="unique"):
        choose_survivors(["a", "a"], pairs(), thresholds=EVERY)
    with pytest.raises(ValueError, match="'vague'"):
        choose_survivors(["a"], pairs(), thresholds={"vague": 0.5})
    with pytest.raises(ValueError, match="NaN"):
        choose_survivors(["a", "b"], pairs(("a", "b", "exact", float("nan"))), thresholds=EVERY)
    with pytest.raises(ValueError, match="one of the rows, got x and y"):
        choose_survivors(["a"], pairs(("x", "y", "exact", 1.0)), thresholds=EVERY)
    with pytest.raises(ValueError, match="each row id needs one text, got 1"):
        find_exact_pairs(["a"], [])


def test_a_row_copied_from_an_earlier_round_with_its_id_is_dropped() -> None:
    """Its copy is like a row that stays, and so is what is like that row; a copy drops nothing of its own round."""
    copied = pairs(("a", "a", "exact", 1.0))
    assert choose_survivors(["a"], copied, thresholds=EVERY).rows() == [("a", "a", "exact", 1.0)]
    rows = [
        ("a", "a", "exact", 1.0, "r0001"),
        ("b", "a", "embedding", 0.9, "r0001"),
        ("c", "a", "lexical", 0.9, "r0002"),
    ]
    schema = {**copied.schema, "other_round": pl.String}
    like = pl.DataFrame(rows, schema=schema, orient="row")
    dropped = choose_survivors(["a", "b", "c"], like, thresholds=EVERY, round_key="r0002")
    assert dropped.rows() == [("a", "a", "exact", 1.0), ("b", "a", "embedding", 0.9)]


def test_long_and_broken_texts_are_compared() -> None:
    long = "word " * 200_000
    found = find_exact_pairs(list("abcd"), [long, long.upper(), "\ud800!", "\ud800"])
    assert found.rows() == [("b", "a", "exact", 1.0), ("d", "c", "exact", 1.0)]


SIMILAR = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 15), st.sampled_from(TIERS), st.floats(0, 1)), max_size=40
)


def name(number: int) -> str:
    """Rows 0 to 12, and 13 to 15 of earlier rounds."""
    return f"{number:02d}" if number <= 12 else f"old{number}"


@given(SIMILAR, st.floats(0, 1), st.floats(0, 1), st.integers(0, 99))
def test_the_rule(similar: list[tuple[int, int, str, float]], low: float, higher: float, rng_seed: int) -> None:
    rows = [name(number) for number in range(13)]
    like = pairs(*((name(a), name(b), t, s) for a, b, t, s in similar if min(a, b) <= 12 and a != b))
    thresholds = {tier: low for tier in TIERS}
    dropped = choose_survivors(rows, like, thresholds=thresholds)
    kept = set(rows) - set(dropped["row_id"])
    assert len(kept) + len(dropped) == len(rows)
    for row_id, nearest_id, tier, similarity in dropped.rows():
        assert nearest_id in kept or nearest_id.startswith("old")
        assert similarity > thresholds[tier]
        assert nearest_id.startswith("old") or nearest_id < row_id
    in_rows = pl.col("row_id").is_in(rows) | pl.col("other_id").is_in(rows)
    above = like.filter(pl.col("similarity") > low, in_rows)
    for first, second in above.select("row_id", "other_id").rows():
        assert not {first, second} <= kept | {"old13", "old14", "old15"}

    shuffled = rows[:]
    random.Random(rng_seed).shuffle(shuffled)
    swapped = like.select(row_id="other_id", other_id="row_id", tier="tier", similarity="similarity")
    again = choose_survivors(shuffled, swapped.sample(fraction=1, shuffle=True, seed=rng_seed), thresholds=thresholds)
    assert again.rows() == dropped.rows()

    among = like.filter(~pl.col("row_id").is_in(dropped["row_id"]), ~pl.col("other_id").is_in(dropped["row_id"]))
    assert choose_survivors(sorted(kept), among, thresholds=thresholds).is_empty()

    bar = max(low, higher)
    fresh = choose_survivors(rows, like.filter(pl.col("similarity") > bar), thresholds=thresholds)
    assert choose_survivors(rows, like, thresholds={tier: bar for tier in TIERS}).rows() == fresh.rows()
