"""A round of texts of one wording: what is held and looked at does not grow with the square of its rows."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lance_assets.algorithms.similarity.dividing import run_here
from lance_assets.algorithms.similarity.near_duplicates import TooManyPairsError
from lance_assets.rounds.alike import closer_look, comparing
from lance_assets.rounds.alike.closer_look import Side, is_same, keep_same
from lance_assets.rounds.alike.comparing import TEXTS, Comparer
from lance_assets.rounds.round import Round
from lance_assets.settings.checks import NearDuplicateSettings


def tabulate(rows: list[tuple[str, str]]) -> pl.DataFrame:
    """Prompts and completions as kept texts, in the order of their ids."""
    ids = [f"{number:05d}" for number in range(len(rows))]
    prompts, completions = [prompt for prompt, _ in rows], [completion for _, completion in rows]
    joined = [f"{prompt}\n{completion}" for prompt, completion in rows]
    columns = {"row_id": ids, "round": ["r0001"] * len(rows), "text": joined}
    return pl.DataFrame(columns | {"prompt": prompts, "completion": completions}, schema=TEXTS)


WORDS = st.lists(st.sampled_from(["a", "Ann", "3", "4.0", "4", "not", "no", "two"]), max_size=6).map(" ".join)
ROWS = st.lists(st.tuples(st.sampled_from(["p q", "P  q", "p 3"]), WORDS), min_size=1, max_size=9)


@settings(max_examples=30, deadline=None)
@given(ROWS, ROWS, st.sampled_from([None, 0.5, 0.85]), st.booleans())
def test_pairs_are_the_same_as_by_a_look_at_each(
    rows: list[tuple[str, str]], others: list[tuple[str, str]], bar: float | None, completes: bool
) -> None:
    """The rule as it was: one look after the other."""
    left, right = (tabulate(some) for some in (rows, others))
    if not completes:
        left = left.with_columns(completion=pl.lit(None, pl.String))
    sides = Side(left), Side(right)
    places = [(row, other) for row in range(len(rows)) for other in range(len(others))]
    found = pl.DataFrame(places, schema={"left": pl.Int64, "right": pl.Int64}, orient="row")
    by_look = [is_same(sides[0], row, sides[1], other, bar=bar) for row, other in places]
    assert keep_same(found, *sides, bar=bar).to_list() == by_look


def test_texts_of_one_wording_with_other_numbers_are_not_looked_at_pair_by_pair(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """3,000 of them have 4.5 million pairs."""
    number = 120
    texts = tabulate([("How many apples?", f"There are {i} apples left for the pie of today.") for i in range(number)])
    monkeypatch.setattr(closer_look, "is_same", None)
    vectors = np.ones((number, 4), dtype=np.float32) / 2
    comparer = Comparer(
        NearDuplicateSettings(exact=False), cast(Round, SimpleNamespace(embed=None, run_parts=run_here))
    )
    assert comparer.compare_within(texts, vectors).is_empty()


@pytest.mark.parametrize("number", [60, 90])
def test_a_collapsed_round_holds_as_many_pairs_as_rows(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MAX_PAIRS_A_ROW", 1), ("FEWEST_MAX_PAIRS", 60), ("_ROWS_AT_ONCE", 10)):
        monkeypatch.setattr(comparing, name, value)
    texts = tabulate([(f"Tell {i}.", f"It is the same story {i}.") for i in range(number)])
    looked_at: list[int] = []
    look = comparing.keep_same

    def count(found: pl.DataFrame, left: Side, right: Side, *, bar: float | None) -> pl.Series:
        looked_at.append(len(found))
        return look(found, left, right, bar=bar)

    monkeypatch.setattr(comparing, "keep_same", count)
    vectors = np.ones((number, 4), dtype=np.float32) / 2
    same = np.ones((number, 4), dtype=np.float32) / 2
    comparer = Comparer(
        NearDuplicateSettings(exact=False), cast(Round, SimpleNamespace(embed=lambda some: same, run_parts=run_here))
    )
    assert len(comparer.compare_within(texts, vectors)) == number - 1
    assert max(looked_at) <= 60
    assert sum(looked_at) <= 10 * number, "with the rows, and not with their square"


def test_more_pairs_than_fit_are_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lance_assets.algorithms.similarity.near_duplicates.MAX_PAIRS", 30)
    for name, value in (("MAX_PAIRS_A_ROW", 0), ("FEWEST_MAX_PAIRS", 30), ("_ROWS_AT_ONCE", 5)):
        monkeypatch.setattr(comparing, name, value)
    texts = tabulate([("How many apples?", f"There are {i} apples left for the pie of today.") for i in range(40)])
    vectors = np.ones((40, 4), dtype=np.float32) / 2
    comparer = Comparer(
        NearDuplicateSettings(exact=False), cast(Round, SimpleNamespace(embed=None, run_parts=run_here))
    )
    with pytest.raises(TooManyPairsError, match="raise the threshold, or drop equal texts first"):
        comparer.compare_within(texts, vectors)
