"""Reviews that are made to end in a score: what is asked, and what is read from the probabilities there."""

import math
from collections.abc import Sequence

import pytest

from lance_assets.algorithms.reviews.forced_endings import (
    build_number_grammar,
    build_prefill,
    choose_score,
    is_forced,
    weigh_numbers,
)
from lance_assets.algorithms.reviews.review_parsing import Unscored
from lance_assets.recipes.steps.reviewing import Rubric, ScoreFrom, force_endings, read_recorded, read_review
from lance_assets.records import Request, Sample, SamplingSettings, TokenChoice, TurnNotContinuedError

TEN, FIVE = Rubric("lance/review", 0, 10), Rubric("self_rewarding/review", 1, 5)


def choice(text: str, **shares: float) -> TokenChoice:
    """A token with the probabilities of others; `_` stands for a blank, `_7` for a token with one before it."""
    return TokenChoice(text, {name.replace("_", " ").replace("d", ""): math.log(p) for name, p in shares.items()})


def asked_of(reviews: Sequence[Sample]) -> list[Request]:
    return [Request(review.row_id, ({"role": "user", "content": "Review it."},), 7) for review in reviews]


class Reviewer:
    """Gives one ending by what the turn ends with, and keeps what it was asked."""

    def __init__(self, endings: dict[str, Sample]) -> None:
        self.endings = endings
        self.asked: list[Request] = []
        self.stages: list[str] = []

    def __call__(self, stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None):
        self.stages.append(stage)
        self.asked += requests
        return [
            next(sample for end, sample in self.endings.items() if request.prefill.endswith(end))
            for request in requests
        ]


def review(text: str, finish_reason="stop", row_id: str = "r") -> Sample:
    return Sample(row_id, text, finish_reason, 9, 5)


def ending(text: str, *tail: TokenChoice) -> Sample:
    return Sample("e", text, "stop", 9, 1, tail=tail)


@pytest.mark.parametrize(
    ("written", "prefill"),
    [
        ("Clear and right.", "Clear and right.\nscore: "),
        ("Clear.\n\n**Score:** 1", "Clear.\nscore: "),
        (
            "It has a score of 9, which is above 10%. And so it",
            "It has a score of 9, which is above 10%. And so it\nscore: ",
        ),
        ("", "score: "),
        ("<think>Is it right? Perhaps", "<think>Is it right? Perhaps\n</think>\nscore: "),
        ("[THINK]Is it", "[THINK]Is it\n[/THINK]\nscore: "),
        ("<|START_THINKING|>Is it", "<|START_THINKING|>Is it\n<|END_THINKING|>\nscore: "),
        ("<|begin_of_thought|>Is it", "<|begin_of_thought|>Is it\n<|end_of_thought|>\nscore: "),
        ("<seed:think>Is it", "<seed:think>Is it\n</seed:think>\nscore: "),
        ("◁think▷Is it", "◁think▷Is it\n◁/think▷\nscore: "),
        ("<thought process>Is it", "<thought process>Is it\n</thought process>\nscore: "),
        ('<thinking depth="2">Is it', '<thinking depth="2">Is it\n</thinking>\nscore: '),
        ("<think>Yes.</think>[THINK]Or <think>", "<think>Yes.</think>[THINK]Or <think>\n[/THINK]\nscore: "),
        (
            "<|channel|>analysis<|message|>Is it",
            "<|channel|>analysis<|message|>Is it\n<|channel|>final<|message|>\nscore: ",
        ),
        ("<think>Yes.</think>Right", "<think>Yes.</think>Right\nscore: "),
    ],
)
def test_the_turn_begins_with_the_review_and_the_label(written: str, prefill: str) -> None:
    assert build_prefill(written) == prefill


def test_one_and_ten_are_told_apart_by_what_follows_a_one() -> None:
    """P(1) = 0.4 (0.25 of it go on with 0, 0.05 with 5, which is no score here), P(7) = 0.2, P(the) = 0.4.

    So 10 has 0.4 * 0.25 = 0.1, 1 has 0.4 * 0.7 = 0.28, and the mean is (0.28 + 1.4 + 1.0) / (0.28 + 0.2 + 0.1).
    """
    first, after = choice("1", d1=0.4, d7=0.2, the=0.4), choice("0", d0=0.25, d5=0.05)
    mass = weigh_numbers([first], [after], lowest=0, highest=10)
    assert mass == pytest.approx({1: 0.28, 7: 0.2, 10: 0.1})
    assert choose_score(mass, is_expected=True) == pytest.approx(2.68 / 0.58)
    assert choose_score(mass, is_expected=False) == 1.0
    assert weigh_numbers([first], [after], lowest=1, highest=5) == pytest.approx({1: 0.4})


def test_tokens_with_blanks_whole_tens_and_marks_are_read() -> None:
    first = TokenChoice(" 7", {" 7": math.log(0.2), "7": math.log(0.1), "10": math.log(0.3), "8/": math.log(0.1)})
    assert weigh_numbers([first], [], lowest=0, highest=10) == pytest.approx({7: 0.3, 8: 0.1, 10: 0.3})
    blank = TokenChoice(" ", {" ": math.log(0.9), "3": math.log(0.01)})
    assert weigh_numbers([blank, choice("4", d4=0.5)], [], lowest=0, highest=10) == pytest.approx({4: 0.5})
    assert weigh_numbers([], [], lowest=0, highest=10) == {}


def test_only_reviews_that_were_cut_or_have_no_score_are_forced() -> None:
    reviews = [
        review("Right.\nscore: 8", row_id="scored"),
        review("It is right because", "length", "cut"),
        review("I cannot say.", row_id="none"),
        review("score: 7-8", row_id="range"),
        review("Score: 9\nIt goes on and", "length", "early"),
        Sample("failed", "", "error", 0, 0, "no"),
    ]
    ask = Reviewer({"score: ": ending("6", choice("6", d6=0.3, d2=0.1))})
    ended = force_endings(ask, "review", asked_of(reviews), reviews, rubric=TEN, score_from="text")
    assert ask.stages == ["review_ending"]
    assert [is_forced(sample.text) for sample in ended] == [False, True, True, True, True, False]
    read = [read_review(sample, rubric=TEN, score_from="text") for sample in ended]
    assert read[:5] == [8.0, 6.0, 6.0, 6.0, 6.0]
    assert isinstance(read[5], Unscored)
    assert ended[1].text == "It is right because\n(forced ending) score: 6"
    assert len({request.row_id for request in ask.asked} | {sample.row_id for sample in reviews}) == 4 + 6
    recorded = [read_recorded(one.text, one.finish_reason, None, None, rubric=TEN, score_from="text") for one in ended]
    assert recorded[:5] == read[:5]


def test_nothing_is_asked_where_every_review_has_its_score() -> None:
    reviews, ask = [review("score: 8")], Reviewer({})
    assert force_endings(ask, "review", asked_of(reviews), reviews, rubric=TEN, score_from="text") == reviews
    assert ask.asked == []


def test_an_expected_score_asks_how_likely_a_one_is_a_ten() -> None:
    reviews = [review("It is", "length")]
    after_label, after_one = ending("7", choice("7", d7=0.3, d1=0.2)), ending("0", choice("0", d0=0.5))
    ask = Reviewer({"score: ": after_label, "score: 1": after_one})
    [forced] = force_endings(ask, "review", asked_of(reviews), reviews, rubric=TEN, score_from="expected")
    assert [request.prefill[-8:] for request in ask.asked] == ["\nscore: ", "score: 1"]
    # 0.3 * 7, and half of 0.2 each for 1 and for 10
    assert read_review(forced, rubric=TEN, score_from="expected") == pytest.approx((2.1 + 0.1 + 1.0) / 0.5)
    five = Reviewer({"score: ": ending("3", choice("3", d3=0.1, d1=0.1))})
    [forced] = force_endings(five, "review", asked_of(reviews), reviews, rubric=FIVE, score_from="expected")
    assert len(five.asked) == 1
    assert read_review(forced, rubric=FIVE, score_from="expected") == 2.0


@pytest.mark.parametrize(
    ("written", "score_from", "score"),
    [(" 7", "text", 7.0), ("10", "text", 10.0), ("the", "text", None), ("77", "text", None), ("7", "expected", None)],
)
def test_without_probabilities_the_sampled_number_is_a_text_score(
    written: str, score_from: ScoreFrom, score: float | None
) -> None:
    reviews = [review("It is", "length")]
    ask = Reviewer({"score: ": ending(written), "score: 1": ending("")})
    [forced] = force_endings(ask, "review", asked_of(reviews), reviews, rubric=TEN, score_from=score_from)
    read = read_review(forced, rubric=TEN, score_from=score_from)
    assert read == score if score is not None else isinstance(read, Unscored)


def test_an_engine_that_does_not_go_on_leaves_the_review_unscored_for_a_reason_of_its_own() -> None:
    def ask(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
        raise TurnNotContinuedError(stage)

    reviews = [review("It is", "length"), review("score: 3")]
    ended = force_endings(ask, "review", asked_of(reviews), reviews, rubric=TEN, score_from="text")
    first, second = (read_review(sample, rubric=TEN, score_from="text") for sample in ended)
    assert isinstance(first, Unscored)
    assert (first.reason, second) == ("not_continued", 3.0)
    assert not is_forced(ended[0].text)


def test_the_grammar_is_one_number_of_the_scale() -> None:
    assert build_number_grammar(lowest=1, highest=5) == " ?(5|4|3|2|1)"
