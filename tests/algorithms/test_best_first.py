"""The order of quality, and the shares of replay."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.selection.best_first import sort_best_first
from lance_assets.algorithms.selection.replay import take_replayed
from lance_assets.records import PREFERENCE_PAIRS, SFT_SET


def test_what_people_wrote_comes_first_then_the_best() -> None:
    rows = [
        {"row_id": "g2", "source": "generated", "review_score": 2.0},
        {"row_id": "g", "source": "generated", "review_score": None},
        {"row_id": "s", "source": "seed", "review_score": None},
        {"row_id": "g9", "source": "generated", "review_score": 9.0},
        {"row_id": "e", "source": "eft", "review_score": None},
    ]
    assert [row["row_id"] for row in sort_best_first(rows)] == ["s", "e", "g9", "g2", "g"]


def test_pairs_go_by_their_gap() -> None:
    rows = [{"row_id": name, "score_gap": gap} for name, gap in (("a", 1.0), ("b", None), ("c", 4.0))]
    assert [row["row_id"] for row in sort_best_first(rows)] == ["c", "a", "b"]


def test_both_tables_have_what_the_order_needs() -> None:
    assert {"source", "review_score"} <= set(SFT_SET.names())
    assert "score_gap" not in SFT_SET.names()
    assert "score_gap" in PREFERENCE_PAIRS.names()


@given(st.lists(st.one_of(st.none(), st.floats(0, 10)), max_size=20))
def test_every_row_is_trained_on_once_and_no_score_rises(scores: list[float | None]) -> None:
    rows = [{"row_id": place, "source": "generated", "review_score": score} for place, score in enumerate(scores)]
    found = sort_best_first(rows)
    assert sorted(row["row_id"] for row in found) == list(range(len(rows)))
    known = [row["review_score"] for row in found if row["review_score"] is not None]
    assert known == sorted(known, reverse=True)
    assert all(row["review_score"] is None for row in found[len(known) :])


@given(st.lists(st.text(max_size=4), unique=True, max_size=40), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_rate_replays_the_same_rows_and_more(row_ids: list[str], one: float, other: float) -> None:
    rows = pl.DataFrame({"row_id": row_ids}, schema={"row_id": pl.String})
    few, many = (set(take_replayed(rows, rate=rate, salt="0")["row_id"]) for rate in sorted((one, other)))
    assert few <= many
    assert len(take_replayed(rows, rate=1.0, salt="0")) == len(rows)
    assert take_replayed(rows, rate=0.0, salt="0").is_empty()
    with pytest.raises(ValueError, match="a rate of replay lies between 0 and 1, got 2"):
        take_replayed(rows, rate=2.0, salt="0")
