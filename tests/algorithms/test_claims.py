import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.reviews.claims import MASKED_DIGIT, is_supposed, mask_others, opens_clause
from lance_assets.algorithms.reviews.pairwise import Unread, parse_verdict
from lance_assets.algorithms.reviews.review_parsing import Unscored, parse_review

LABEL = re.compile("score|verdict", re.I)


@pytest.mark.parametrize(
    ("text", "opens"),
    [
        ("score: 8", True),
        ("Fine. score: 8", True),
        ("Fine, so my final score: 8", True),
        ("1. Score: 8", True),
        ("It is right and the overall score: 8", True),
        ("Question score: 8", True),
        ("Target score: 8", False),
        ("Tom's score: 8", False),
        ("it would be score: 8", False),
        ("我的最终score: 8", True),
        ("上次score: 8", False),
    ],
)
def test_what_opens_a_clause(text: str, opens: bool) -> None:
    assert opens_clause(text, text.lower().index("score")) is opens


@pytest.mark.parametrize(
    ("text", "supposed"),
    [
        ("score: 8", False),
        ("It could be shorter, score: 8", False),
        ("If it were shorter, score: 8", True),
        ("Without errors, score: 8", True),
        ("It is fine. Without errors. score: 8", False),
        ("The text claims: score: 8", True),
        ("score: 8 if one is kind", True),
    ],
)
def test_what_is_supposed(text: str, supposed: bool) -> None:
    end = text.index("score: 8") + len("score: 8")
    assert is_supposed(text, text.index("score"), end) is supposed


@given(st.text(alphabet="{}[]\"'> \nscore:18ab<>/", max_size=60))
def test_masking_keeps_the_length_and_the_places_of_digits(text: str) -> None:
    masked = mask_others(text, LABEL)
    assert len(masked) == len(text)
    places = [place for place, sign in enumerate(text) if sign in "18"]
    assert [place for place, sign in enumerate(masked) if sign in f"18{MASKED_DIGIT}"] == places


WORDS = st.sampled_from(
    [
        "target",
        "previous",
        "old",
        "desired",
        "needed",
        "Tom's",
        "average",
        "maximum",
        "baseline",
        "whose",
        "possible",
        "next",
    ]
)


@given(st.integers(0, 10), st.integers(0, 10), WORDS, st.booleans())
def test_a_score_of_another_thing_never_counts(own: int, other: int, word: str, comes_first: bool) -> None:
    lines = [f"{word.capitalize()} score: {other}", f"Score: {own}"]
    assert parse_review("\n".join(lines if comes_first else lines[::-1])) == own
    assert isinstance(parse_review(lines[0]), Unscored)


SUPPOSED = st.sampled_from(
    [
        "If a source were given, score: {}.",
        "With a source it would be score: {}.",
        "A score of {} requires a source.",
        "A perfect text gets a score of {}.",
        'The text says "score: {}".',
        "Is it score: {}?",
        "To reach a score of {} it needs a source.",
        "Score: {} = perfect",
        "如果有来源，评分：{}。",
    ]
)


@given(st.integers(0, 10), st.integers(0, 10), SUPPOSED)
def test_a_score_that_is_not_given_never_counts(own: int, other: int, sentence: str) -> None:
    """A review never yields a number that it did not give as its score."""
    mention = sentence.format(other)
    assert isinstance(parse_review(mention), Unscored)
    assert parse_review(f"score: {own}\n\n{mention}") == own
    assert parse_review(f"{mention}\nscore: {own}") == own


@given(
    st.lists(st.integers(0, 5), min_size=2, max_size=5),
    st.sampled_from([" + ", "+", ", ", " and ", " & ", "; ", " x "]),
)
def test_parts_are_no_score_without_their_sum(parts: list[int], sign: str) -> None:
    written = sign.join(map(str, parts))
    assert isinstance(parse_review(f"score: {written}"), Unscored)
    if sign.strip() == "+" and sum(parts) <= 10:
        assert parse_review(f"score: {written} = {sum(parts)}") == sum(parts)


@given(st.integers(0, 10), st.integers(0, 10))
def test_of_json_the_outermost_field_counts_or_none(own: int, part: int) -> None:
    nested = f'{{"clarity": {{"score": {part}}}, "parts": [{{"score": {part}}}]}}'
    assert parse_review(f'{{"score": {own}, "details": {nested}}}') == own
    assert parse_review(f'{{"details": {nested}, "overall_score": {own}}}') == own
    assert isinstance(parse_review(nested), Unscored)


@given(st.integers(0, 10), st.sampled_from(["but I", "so that", "which is", "\nThen it", ". It is"]))
def test_a_review_that_was_cut_gives_no_score_within_it(score: int, after: str) -> None:
    assert isinstance(parse_review(f"A first guess.\nscore: {score}{after}", finish_reason="length"), Unscored)
    assert isinstance(parse_verdict(f"A first guess.\nverdict: A{after}", finish_reason="length"), Unread)


@given(
    st.sampled_from("AB"),
    st.sampled_from(["If it were shorter, verdict: {}.", 'It says "verdict: {}".', "{} would win."]),
)
def test_a_verdict_that_is_not_given_never_counts(other: str, sentence: str) -> None:
    mention, own = sentence.format(other), "B" if other == "A" else "A"
    assert isinstance(parse_verdict(mention), Unread)
    assert parse_verdict(f"verdict: {own}\n{mention}") == own


@pytest.mark.parametrize(
    ("text", "announced"),
    [
        ('I award this completion a "score: 8"', True),
        ('The output must be graded as follows: "score: 8".', True),
        ('Our overall verdict is "score: 8".', True),
        ('The output must be graded by what it says: "score: 8".', False),
        ('I never score with the words "score: 8".', False),
        ('Its last line is "score: 8".', False),
    ],
)
def test_a_quotation_counts_where_the_writer_announces_it(text: str, announced: bool) -> None:
    assert ("8" in mask_others(text, LABEL)) is announced


def test_an_object_that_never_ends_ends_before_a_line_with_a_label_of_its_own() -> None:
    broken = '{"a": {"score": 1}, "b": [2,\nand so on'
    assert mask_others(f"{broken}\nscore: 8", LABEL).endswith("\nscore: 8")
    # A field and a closing brace behind the line tell that the object goes on.
    for rest in ('\n"score": 8', "\nscore: 8\n}"):
        assert not LABEL.search(mask_others(broken.replace("[2", "[{") + rest, LABEL))
    linear = '{"\nscore: ' * 20_000
    assert len(mask_others(linear, LABEL)) == len(linear)
