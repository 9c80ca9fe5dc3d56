"""What two like completions differ in: right and wrong ones of one prompt share most of their words."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lance_assets.algorithms.similarity.contrast import SHORT_WORDS, compute_likeness, find_contrast, read_content
from lance_assets.algorithms.similarity.words import compute_similarity, tokenize_words

LONG = (
    "The train leaves the old station early and then it runs along the river to the north, past a mill and two small "
    "lakes, until it stops at the harbour where the boats wait for the people who go to the islands."
)


@pytest.mark.parametrize(
    ("first", "second", "differ_in"),
    [
        ("It is possible.", "It is not possible.", "negations"),
        ("Yes, it can be done.", "No, it can't be done.", "negations"),
        (LONG, LONG.replace("it runs", "it never runs"), "negations"),
        (LONG, LONG.replace("it runs", "it doesn't run"), "negations"),
        ("这是可能的。", "这是不可能的。", "negations"),
        ("Das ist hier möglich.", "Das ist hier nicht möglich.", "negations"),
        ("เป็นไปได้", "ไม่เป็นไปได้", "negations"),
        ("16 - 3 = 13, so she sells 13 eggs.", "16 - 3 = 12, so she sells 12 eggs.", "numbers"),
        (LONG, LONG.replace("two", "three"), "numbers"),
        # The same numbers, and another one is the answer.
        ("Of 3 and 4 the larger is 4.", "Of 4 and 3 the larger is 3.", "numbers"),
        ("It is -5.", "It is 5.", "numbers"),
        (LONG + " It is the line of Ann.", LONG + " It is the line of Bob.", "names"),
        ("The sentiment is positive.", "The sentiment is negative.", "words"),
        ("PlayMusic", "GetWeather", "words"),
        ("if a < b: return a", "if a > b: return a", "signs"),
    ],
)
def test_texts_that_say_something_else(first: str, second: str, differ_in: str) -> None:
    assert find_contrast(read_content(first), read_content(second)) == differ_in
    assert find_contrast(read_content(second), read_content(first)) == differ_in


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("So the answer is 18.", "Therefore, the answer is 18.0"),
        ("She has 1,000 eggs in two baskets.", "She has 1000 eggs in 2 baskets."),
        ("The sentiment is positive.", "The sentiment is **positive**"),
        (LONG, LONG.replace("the old station", "an old stop").replace("small", "little")),
        ("", ""),
    ],
)
def test_texts_that_say_the_same(first: str, second: str) -> None:
    assert find_contrast(read_content(first), read_content(second)) is None


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=20), st.text(max_size=20))
def test_any_two_texts_are_compared_alike_in_both_orders(first: str, second: str) -> None:
    one, other = read_content(first), read_content(second)
    assert find_contrast(one, other) == find_contrast(other, one)
    assert find_contrast(one, one) is None


def test_numbers_too_long_for_python_are_read() -> None:
    assert read_content("1" * 5000).last_number == "1" * 5000


@given(st.lists(st.sampled_from("abcd"), max_size=30), st.lists(st.sampled_from("abcd"), max_size=30))
def test_likeness_is_never_above_the_share_of_the_shorter_text(words: list[str], others: list[str]) -> None:
    likeness, share = compute_likeness(words, others), compute_similarity(words, others)
    assert likeness <= share
    if min(len(words), len(others)) >= SHORT_WORDS:
        assert likeness == share


def test_a_short_text_is_not_like_every_text_that_contains_it() -> None:
    label, text = tokenize_words("It is positive."), tokenize_words("I think it is a film that is positive about life.")
    assert compute_similarity(label, text) == 1.0
    assert compute_likeness(label, text) < 0.5
