"""Evaluation prompts that stand inside longer texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.similarity.quoted_prompts import build_quote_index, find_quote

SHORT = "What is 5 + 3?"
LONG = "A farmer has twelve hens and each hen lays two eggs every day of the week, how many is that?"
SHARED = "Please put these numbers into ascending order, one after another, and say no more than that: 4 1 3"
INDEX = build_quote_index([SHORT, LONG, "Name a fruit"], whole=[SHARED], ngram=13)


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        (f"Here is one like it. {SHORT} It is 8.", SHORT),
        ("so, WHAT IS 5 + 3", SHORT),
        (f"Once more: {' '.join(LONG.split()[2:16])}.", LONG),
        (f"Once more: {' '.join(LONG.split()[2:14])}.", None),
        (f"{SHARED}!", SHARED),
        # Many problems share these words.
        (SHARED.replace("4 1 3", "4 1 2"), None),
        ("What is 5 + 4? It is not 3.", None),
        # Three words in a row stand in texts by chance.
        ("Name a fruit that is red.", None),
        ("", None),
    ],
)
def test_worked_by_hand(text: str, prompt: str | None) -> None:
    found = find_quote(text, INDEX)
    assert (None if found is None else found[0]) == prompt


WORDS = st.lists(st.sampled_from(["one", "two", "three", "four", "five"]), max_size=12)


@given(before=WORDS, quoted=st.lists(st.sampled_from(["six", "seven", "one"]), min_size=4, max_size=20), after=WORDS)
def test_a_prompt_is_found_wherever_it_stands(before: list[str], quoted: list[str], after: list[str]) -> None:
    index = build_quote_index([" ".join(quoted)])
    assert find_quote(" ".join([*before, *quoted, *after]), index) is not None


def test_an_ngram_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="ngram must be at least 1, got 0"):
        build_quote_index([SHORT], ngram=0)
