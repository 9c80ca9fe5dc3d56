import math
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.reviews.review_parsing import Unscored, parse_review
from lance_assets.prompts import Templates
from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.lance_settings import RUBRIC
from lance_assets.recipes.steps.reviewing import (
    Rubric,
    build_review_requests,
    build_review_sampling,
    build_score_grammar,
    read_recorded,
    read_review,
    record_expected,
)
from lance_assets.recipes.steps.rows import Example, Origin, record_samples
from lance_assets.records import Request, Sample, SamplingSettings, TokenChoice
from lance_assets.small_world.jobs import JOB_SHARES, draw_example
from tests.recipes.scripted_round import identify

ORIGIN = Origin("a", "a", 0, "Add 1 and 2.", "It is 3.")
STARS = Rubric("lance/review", 1, 5)
"""A rubric on another scale."""


@given(st.from_regex(RUBRIC.grammar, fullmatch=True))
def test_what_the_grammar_allows_is_always_a_score(text: str) -> None:
    score = parse_review(text)
    assert isinstance(score, float), (score, text)
    assert 0 <= score <= 10


@given(st.from_regex(STARS.grammar, fullmatch=True))
def test_what_another_rubrics_grammar_allows_is_a_score_on_its_scale(text: str) -> None:
    score = parse_review(text, lowest=1.0, highest=5.0)
    assert isinstance(score, float), (score, text)
    assert 1 <= score <= 5


@given(
    st.lists(st.sampled_from(["score: 3", "his ", "score: N/A", "max ", "<think>", "question ", "\n", ". ", "7/", "|"]))
)
def test_nothing_in_a_rationale_hides_the_score(words: list[str]) -> None:
    for text in (f"a{''.join(words)}\nscore: 8", f"a{''.join(words)}. **Score: 8/10**"):
        assert re.fullmatch(RUBRIC.grammar, text)
        assert parse_review(text) == 8


def test_the_small_models_reviews_are_allowed() -> None:
    rng = random.Random(0)
    reviews = [draw_example(rng, shares={"review": 1.0}).completion for _ in range(300)]
    assert set(JOB_SHARES) >= {"review"}
    assert all(re.fullmatch(RUBRIC.grammar, review) for review in reviews)
    assert {parse_review(review) for review in reviews} > {0.0, 10.0}


@pytest.mark.parametrize(
    "text",
    [
        "The question is clear, the answer (a < b) right.\n\nscore: 9",
        "Clear.\n\n- 1 point: directive\n- 0 points: no depth\n\n**Score: 8/10**",
        "Good, but **padded**.\r\n\r\nscore: 7.5",
        "回答完整。\n\nscore: 8",
        'It says "score: 3" in the text! Score: **10**',
        "Fine.\nscore: 8.\n",
        "Fine.\n**Score:** 8/10.",
    ],
)
def test_good_reviews_are_allowed(text: str) -> None:
    assert re.fullmatch(RUBRIC.grammar, text)


@pytest.mark.parametrize(
    "text", ["score: 8", "Fine. score: 11", "Fine. score: 8 of 10", "<think>Hm.\nscore: 8", "Fine."]
)
def test_what_has_no_rationale_or_no_score_is_not_allowed(text: str) -> None:
    assert not re.fullmatch(RUBRIC.grammar, text)


def test_a_grammar_allows_its_own_scale_alone() -> None:
    allowed = [
        n
        for n in ("5", "5.0", "4.5", "4/5", "0", "6", "5.5", "4/10")
        if re.fullmatch(STARS.grammar, f"Fine. score: {n}")
    ]
    assert allowed == ["5", "5.0", "4.5", "4/5"]


@pytest.mark.parametrize(("lowest", "highest"), [(0, 100), (5, 5), (-1, 5)])
def test_a_scale_that_tokens_cannot_tell_is_refused(lowest: int, highest: int) -> None:
    with pytest.raises(ValueError, match=f"within 0 to 10, got {lowest} to {highest}"):
        build_score_grammar(lowest=lowest, highest=highest)


def test_the_reviewer_has_templates_of_its_own_where_it_is_another_model() -> None:
    rows = [Example("a", "Add 1 and 2.", "It is 3.")]
    own = build_review_requests(
        RoundIdentity("mini", "r0001", 0, Templates("compact")), "review", rows, rubric=RUBRIC, num_reviews=2
    )
    other = build_review_requests(identify(reviewer="full"), "review", rows, rubric=RUBRIC, num_reviews=2)
    assert own[0].messages[-1]["content"].startswith("Review this.")
    assert other[0].messages[-1]["content"].startswith("Review the question and the response below.")
    assert [request.row_id for request in own] == [request.row_id for request in other]


def test_sampling_asks_for_probabilities_only_where_they_count() -> None:
    plain = SamplingSettings(0.7, 0.9, 128)
    assert build_review_sampling(plain, RUBRIC, score_from="text") == SamplingSettings(0.7, 0.9, 128, RUBRIC.grammar, 0)
    assert build_review_sampling(plain, RUBRIC, score_from="expected").tail_tokens == 8


def test_what_is_recorded_reads_as_what_was_sampled() -> None:
    place = TokenChoice(" 4", {" 4": math.log(0.5), " 5": math.log(0.5)})
    samples = [
        Sample("a", "Fine. score: 4", "stop", 1, 1, tail=(place,)),
        Sample("b", "Fine. score: 4", "stop", 1, 1),
        Sample("c", "Fine.", "stop", 1, 1),
        Sample("d", "", "error", 1, 0, error="out of memory"),
        Sample("e", "score: 7", "stop", 1, 1),
    ]
    read = {
        score_from: [read_review(sample, rubric=STARS, score_from=score_from) for sample in samples]
        for score_from in ("text", "expected")
    }
    reasons = ["no_score", "error", "out_of_range"]
    texts = [sample.text for sample in samples]
    unread = [Unscored(reason, text) for reason, text in zip(reasons, texts[2:], strict=True)]
    assert read == {
        "text": [4.0, 4.0, *unread],
        "expected": [pytest.approx(4.5), Unscored("no_tail", texts[1]), *unread],
    }
    for score_from, reviews in read.items():
        for sample, review in zip(samples, reviews, strict=True):
            (plain,) = record_samples("review", [ORIGIN], [Request("a", (), 1)], [sample])
            row = record_expected(plain, sample, rubric=STARS, score_from=score_from)
            read_from = (row.raw_text, row.finish_reason, row.expected_score, row.unscored_reason)
            again = read_recorded(*read_from, rubric=STARS, score_from=score_from)
            assert again == review


def test_a_table_recorded_without_expected_scores_is_told() -> None:
    with pytest.raises(ValueError, match="materialize raw_generations again"):
        read_recorded("score: 4", "stop", None, None, rubric=STARS, score_from="expected")
