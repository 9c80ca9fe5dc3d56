"""A row's story over two rounds that are worked by hand."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.rounds.finished.trace import LINKS, TRAINING_SETS, Tables, find_row_ids, trace_row


def build(rows: list[dict[str, str | None]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict.fromkeys(rows[0], pl.String))


@pytest.fixture
def tables() -> Tables:
    """Seed s gives prompt p, whose completions good and bad become an SFT row and a pair; good is a seed afterwards."""
    return {
        ("r0000", "seed_set"): build([{"row_id": "s", "source_id": None}, {"row_id": "other", "source_id": None}]),
        ("r0001", "seed_set"): build([{"row_id": "s", "source_id": None}]),
        ("r0001", "raw_generations"): build(
            [
                {"row_id": "p", "seed_id": "s", "parent_id": "s"},
                {"row_id": "good", "seed_id": "s", "parent_id": "p"},
                {"row_id": "bad", "seed_id": "s", "parent_id": "p"},
                {"row_id": "copy", "seed_id": "other", "parent_id": "other"},
            ]
        ),
        ("r0001", "cleaned_set"): build(
            [
                {"row_id": "good", "seed_id": "s", "parent_id": "p", "drop_reason": None, "nearest_id": None},
                {"row_id": "copy", "seed_id": "other", "parent_id": "other", "drop_reason": "x", "nearest_id": "good"},
            ]
        ),
        ("r0001", "sft_set"): build([{"row_id": "sft", "source_id": "good"}]),
        ("r0001", "preference_pairs"): build([{"row_id": "pair", "chosen_id": "good", "rejected_id": "bad"}]),
        ("r0002", "seed_set"): build([{"row_id": "good", "source_id": "good"}]),
        ("r0002", "raw_generations"): build([{"row_id": "next", "seed_id": "good", "parent_id": "good"}]),
        ("r0002", "sft_set"): build([{"row_id": "sft", "source_id": "good"}, {"row_id": "sft2", "source_id": "next"}]),
        ("r0002", "eval_report"): build([{"model": "checkpoint"}]),
    }


def relate(tables: Tables, row_id: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for entry in trace_row(tables, row_id).entries:
        found.setdefault(entry.relation, set()).add(str(entry.row["row_id"]))
    return found


def test_from_the_seed_to_the_checkpoints(tables: Tables) -> None:
    assert relate(tables, "s") == {"itself": {"s"}, "result": {"p", "good", "bad", "sft", "pair", "next", "sft2"}}
    assert trace_row(tables, "s").training_sets == {"r0001": ["sft_set", "preference_pairs"], "r0002": ["sft_set"]}


def test_back_from_a_training_row_to_the_seed(tables: Tables) -> None:
    assert relate(tables, "sft2") == {"itself": {"sft2"}, "source": {"next", "good", "p", "s"}}
    assert trace_row(tables, "sft2").training_sets == {"r0002": ["sft_set"]}


def test_a_row_in_the_middle_is_followed_both_ways_and_its_likeness_no_further(tables: Tables) -> None:
    """copy is like good; its own seed is none of good's story."""
    assert relate(tables, "good") == {
        "itself": {"good"},
        "source": {"p", "s"},
        "result": {"sft", "pair", "next", "sft2"},
        "like": {"copy"},
    }
    assert relate(tables, "copy") == {"itself": {"copy"}, "source": {"other"}, "like": {"good"}}
    assert trace_row(tables, "copy").training_sets == {}


def test_entries_come_in_the_order_of_the_tables(tables: Tables) -> None:
    places = [(entry.round_key, entry.table) for entry in trace_row(tables, "good").entries]
    assert places == sorted(places, key=list(tables).index)


def test_a_row_that_is_nowhere(tables: Tables) -> None:
    with pytest.raises(ValueError, match="no table has a row 'nobody'; a row id is 16 hexadecimal digits"):
        trace_row(tables, "nobody")


def test_row_ids_by_their_first_digits(tables: Tables) -> None:
    assert find_row_ids(tables, "s") == ["s", "sft", "sft2"]
    assert find_row_ids(tables, "x") == []


@given(st.lists(st.tuples(*[st.sampled_from([None, *"abcdef"])] * 2), min_size=6, max_size=6))
def test_what_comes_of_a_row_has_the_row_among_its_sources(links: list[tuple[str | None, str | None]]) -> None:
    """Also where rows name each other in a circle."""
    rows = [
        {"row_id": row_id, "seed_id": seed, "source_id": source}
        for row_id, (seed, source) in zip("abcdef", links, strict=True)
    ]
    tables = {("r0000", TRAINING_SETS[0]): build(rows)}
    for one in "abcdef":
        for other in relate(tables, one).get("result", set()):
            found = relate(tables, other)
            assert one in found.get("source", set()) | found.get("result", set())
    assert {"seed_id", "source_id"} <= set(LINKS)
