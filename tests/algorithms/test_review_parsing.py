import json
import math
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.reviews.review_parsing import (
    UNSCORED_REASONS,
    ReviewResult,
    Unscored,
    combine_reviews,
    parse_review,
    read_score,
)

GOLDEN = [
    json.loads(line)
    for line in (Path(__file__).parent / "golden_reviews.jsonl").read_text(encoding="utf-8").splitlines()
]


@pytest.mark.parametrize("row", GOLDEN, ids=[f"{i}-{row['text'][-30:]!a}" for i, row in enumerate(GOLDEN)])
def test_golden(row: dict) -> None:
    parsed = parse_review(row["text"], finish_reason=row["finish_reason"])
    assert parsed == (row["score"] if row["reason"] is None else Unscored(row["reason"], row["text"]))


def test_golden_covers_every_reason_but_those_of_expected_scores() -> None:
    assert {row["reason"] for row in GOLDEN} == {None, *UNSCORED_REASONS} - {"no_tail", "low_mass", "not_continued"}
    assert len({(row["text"], row["finish_reason"]) for row in GOLDEN}) == len(GOLDEN) >= 160


def test_other_scale() -> None:
    assert parse_review("score: 4/5", highest=5.0) == 4.0
    assert parse_review("score: 0", lowest=1.0, highest=5.0).reason == "out_of_range"


@given(
    st.integers(0, 10),
    st.sampled_from(["score: {}", "Score = {}/10", "**Score:** {}", "score：{}", "<score>{}</score>"]),
)
def test_any_rationale_before_is_harmless(score: int, form: str) -> None:
    rationale = "It starts at score: 3, then has 12 steps (7-8 of 9) and ends well."
    assert parse_review(f"{rationale}\n{form.format(score)}") == score


@given(st.text(), st.sampled_from(["stop", "length", "error"]))
def test_never_raises_and_stays_in_range(text: str, finish_reason: str) -> None:
    for written in (text, f"score: {text}", f"Score {text} 8"):
        parsed = parse_review(written, finish_reason=finish_reason)
        if isinstance(parsed, Unscored):
            assert parsed.reason in UNSCORED_REASONS
            assert parsed.raw_text == written
        else:
            assert 0 <= parsed <= 10


@given(st.text(alphabet="score: 0123456789.,/-+=()[]<>|~of\n ", max_size=60))
def test_never_raises_on_near_scores(text: str) -> None:
    parsed = parse_review("score" + text)
    assert isinstance(parsed, Unscored) or 0 <= parsed <= 10


@pytest.mark.parametrize(
    "text",
    [
        "score " * 20_000,
        "score: (" * 15_000,
        "score for the " + "a" * 50_000,
        "score" + ")" * 50_000,
        "score for the " + "word " * 20_000,
        "score: " + "1" * 100_000,
        "score: " + "1+" * 50_000,
        "1/" * 50_000,
        "score:" + " " * 100_000 + "x",
        "score:" + "\n" * 100_000 + "x",
        "[<" * 50_000,
        "8 " * 50_000,
        "8 of " * 25_000,
        "8/10" * 25_000,
        "8/10" + "!" * 50_000 + "x",
        "评分" * 50_000,
        "<think>" * 20_000,
        "</think>" * 20_000,
        "<b " * 30_000,
        "\n---" * 30_000,
        "7 1/2 " * 20_000,
        "eight " * 30_000,
        "score: eight out of " * 8_000,
        "I give it a " * 15_000,
        "10点満点中" * 20_000,
        "question score: 4 " * 8_000,
        "not a score of 8 " * 8_000,
        "Note: 8/10 x " * 8_000,
        "score: 1. x " * 8_000,
        "score: 1. x\n" * 8_000,
        "score: 8 (good " * 8_000,
        "7/10 " * 8_000 + "8/10",
    ],
)
def test_long_text_takes_linear_time(text: str) -> None:
    started = time.process_time()
    parse_review(text)
    assert time.process_time() - started < 3


@pytest.mark.parametrize(
    ("text", "written", "num_later"),
    [
        ("Fine. score: 8", "8", 0),
        ("7 of 9 are right. **Score: 8.5/10**", "8.5", 2),
        ("score: 10\n\n1. Clear\n2. Right", "10", 2),
        ("Score: eight", "eight", 0),
        ("4 + 5 = 9", None, None),
        ("score: 4 + 5 = 9", "9", 0),
    ],
)
def test_where_a_score_stands(text: str, written: str | None, num_later: int | None) -> None:
    read = read_score(text)
    assert (getattr(read, "written", None), getattr(read, "num_later", None)) == (written, num_later)


def test_reviews_on_another_scale() -> None:
    texts = ("score: 4/5", "score: 7", "score: 4/10")
    result = combine_reviews([parse_review(text, lowest=0.0, highest=5.0) for text in texts])
    assert result == ReviewResult([4.0, None, None], [None, "out_of_range", "ambiguous"], 4.0)


def test_the_mean_is_that_of_the_scores_alone() -> None:
    """(9 + 7) / 2 = 8; the unread one is neither 0 nor in the count."""
    result = combine_reviews([parse_review(text) for text in ("score: 9", "score: 7", "no idea")])
    assert result == ReviewResult([9.0, 7.0, None], [None, None, "no_score"], 8.0)


def test_without_any_score_there_is_no_mean() -> None:
    reviews = [parse_review(""), parse_review("score", finish_reason="length")]
    assert combine_reviews(reviews) == ReviewResult([None, None], ["empty", "cut_off"], None)
    assert combine_reviews([]) == ReviewResult([], [], None)


def test_mean_of_three() -> None:
    score = combine_reviews([9.0, 8.0, 8.0]).review_score
    assert score is not None
    assert math.isclose(score, 25 / 3)


@pytest.mark.parametrize(
    ("before", "statement", "after"),
    [
        ("", "This response gets a score of 9. ", "It goes on about the topic. " * 20),
        ("It is clear and it is right in most points. " * 6, "\nscore: 3\n", "Now to the second point. " * 20),
    ],
)
def test_a_score_in_the_midst_of_a_review_is_none(before: str, statement: str, after: str) -> None:
    read = parse_review(before + statement + after)
    assert isinstance(read, Unscored)
    assert read.reason == "no_score"
    assert isinstance(parse_review(before + statement), float)
    assert isinstance(parse_review("Score: 7\n" + after), float)
