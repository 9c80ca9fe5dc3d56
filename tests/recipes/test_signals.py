"""Signals: what each asks, what it reads as a number, and the reason where there is none."""

import math
from collections.abc import Sequence
from dataclasses import replace

import polars as pl
import pytest

from lance_assets.algorithms.measures.signals import measure_signal
from lance_assets.algorithms.reviews.answer_kinds import AnswerRule
from lance_assets.algorithms.reviews.review_parsing import Unscored
from lance_assets.algorithms.reviews.signal_pairs import SignalPair
from lance_assets.recipes.asking import StateRow
from lance_assets.recipes.lance_settings import RUBRIC
from lance_assets.recipes.steps.rows import Example
from lance_assets.recipes.steps.signals import (
    CHOICE_PREFILL,
    SCORE_PREFILL,
    SIGNALS,
    VERDICT_PREFILL,
    SignalModels,
    compare_pairs,
    list_rows,
    read_choice,
    read_forced_digit,
    remember,
    score_comparisons,
    score_pairs,
)
from lance_assets.records import Request, Sample, SamplingSettings, TokenChoice
from tests.recipes.scripted_round import identify

RIGHT, WRONG = "It is 5.", "It is 7."
PAIR = SignalPair("p1", "gold", "answer", "s1", "What is 2 + 3?", RIGHT, WRONG)
ROWS = [Example("r1", PAIR.prompt, RIGHT), Example("r2", PAIR.prompt, WRONG)]
SAMPLING = SamplingSettings(0.7, 0.9, 40)


def choose(text: str, **probabilities: float) -> TokenChoice:
    return TokenChoice(text, {token.replace("_", " "): math.log(p) for token, p in probabilities.items()})


class FairModel:
    """Finds 5 right and 7 wrong, and favours what it is shown first a little."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Request, SamplingSettings | None]] = []

    def __call__(
        self, stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None
    ) -> list[Sample]:
        self.asked += [(stage, request, sampling) for request in requests]
        return [self.say(stage, request) for request in requests]

    def say(self, stage: str, request: Request) -> Sample:
        asked = request.messages[-1]["content"]
        is_right = asked.rfind("5.") > asked.rfind("7.")
        sample = Sample(request.row_id, "", "stop", 10, 3)
        if stage == "review":
            digit = "9" if is_right else "2"
            tail = (TokenChoice("score: ", {}), choose(digit, **{digit: 0.5, "5": 0.5}))
            return replace(sample, text=f"Fine. score: {digit}", tail=tail)
        if stage == "forced_digit":
            first = choose(" ", _=1.0)
            return replace(sample, text=" 8", tail=(first, choose("8", **{"8": 0.5, "9" if is_right else "1": 0.5})))
        if stage == "yes_no":
            return replace(sample, text=" Yes", tail=(choose(" Yes", _Yes=0.6, _No=0.2 if is_right else 0.4),))
        if stage == "pairwise":
            is_first = asked.find("5.") < asked.find("7.")
            return replace(
                sample, text=" A", tail=(choose(" A", _A=0.9 if is_first else 0.6, _B=0.1 if is_first else 0.4),)
            )
        return replace(sample, text="It is 5." if request.sampling_seed % 2 else "I think that it is 5.")


class ScriptedReader:
    """Right completions are likelier after their prompt: 1 nat a token against 3, and 2 without a prompt."""

    def __init__(self) -> None:
        self.rows: list[StateRow] = []

    def measure_likelihood(self, rows: Sequence[StateRow]) -> pl.DataFrame:
        self.rows += rows
        nats = [2.0 if not messages[-1]["content"] else 1.0 if text == RIGHT else 3.0 for messages, text in rows]
        return pl.DataFrame({"log_likelihood": [-4 * value for value in nats], "num_tokens": [4] * len(rows)})


def open_models(**changed: object) -> SignalModels:
    given = {"ask": FairModel(), "reader": ScriptedReader(), **changed}
    return SignalModels(identity=identify(), rubric=RUBRIC, sampling=SAMPLING, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sampled", [9.0, 2.0]),
        ("expected", [7.0, 3.5]),
        ("forced_digit", [8.5, 4.5]),
        ("yes_no", [0.75, 0.6]),
        ("likelihood", [-1.0, -3.0]),
        ("mutual_information", [1.0, -1.0]),
        ("ifd", [-0.5, -1.5]),
    ],
)
def test_numbers_by_hand(name: str, expected: list[float]) -> None:
    assert SIGNALS[name].score(open_models(), ROWS) == pytest.approx(expected)


def test_agreement_is_likeness_to_samples_or_the_share_of_equal_answers() -> None:
    model = FairModel()
    by_words = SIGNALS["agreement"].score(open_models(ask=model), ROWS)
    assert by_words[0] > by_words[1] > 0
    # Both rows share the samples of their prompt, which are sampled and not greedy.
    assert [(stage, sampling) for stage, _, sampling in model.asked] == [("agreement", SAMPLING)] * 4
    by_answer = SIGNALS["agreement"].score(open_models(answer_rule=AnswerRule("number", " is")), ROWS)
    assert by_answer == [1.0, 0.0]
    unread = SIGNALS["agreement"].score(open_models(answer_rule=AnswerRule("number", "####")), ROWS)
    assert [one.reason for one in unread if isinstance(one, Unscored)] == ["no_score"] * 2


def test_what_is_forced_begins_the_models_turn() -> None:
    for name, prefill in (("forced_digit", SCORE_PREFILL), ("yes_no", CHOICE_PREFILL), ("sampled", "")):
        model = FairModel()
        SIGNALS[name].score(open_models(ask=model), ROWS)
        assert [request.prefill for _, request, _ in model.asked] == [prefill] * 2
    model = FairModel()
    compare_pairs(open_models(ask=model), [PAIR])
    assert [request.prefill for _, request, _ in model.asked] == [VERDICT_PREFILL] * 2
    sampling = model.asked[0][2]
    assert sampling is not None
    # Nothing is drawn, and the tail covers all that is written.
    assert (sampling.temperature, sampling.tail_tokens) == (0.0, sampling.max_new_tokens)


def test_likelihoods_are_read_with_the_words_of_training_and_each_once() -> None:
    reader = ScriptedReader()
    models = open_models(reader=reader)
    for name in ("likelihood", "mutual_information", "ifd"):
        SIGNALS[name].score(models, ROWS)
    assert len(reader.rows) == 4
    build = models.identity.templates.build_messages
    assert reader.rows == [(build(prompt), text) for prompt in (PAIR.prompt, "") for text in (RIGHT, WRONG)]


def test_a_completion_of_which_nothing_is_read_has_a_reason() -> None:
    class CutReader(ScriptedReader):
        def measure_likelihood(self, rows: Sequence[StateRow]) -> pl.DataFrame:
            return pl.DataFrame({"log_likelihood": [0.0] * len(rows), "num_tokens": [0] * len(rows)})

    for name in ("likelihood", "mutual_information", "ifd"):
        scores = SIGNALS[name].score(open_models(reader=CutReader()), ROWS)
        assert [one.reason for one in scores if isinstance(one, Unscored)] == ["cut_off"] * 2


def test_a_comparison_counts_both_orders_and_a_swap_turns_it_over() -> None:
    """Right first: 0.9 for it. Wrong first: 0.6 for the wrong one, so 0.4 for the right: 0.65 in the mean."""
    (own,) = compare_pairs(open_models(), [PAIR])
    assert own.value == pytest.approx(0.65)
    assert own.first_shown == pytest.approx((0.9, 0.6))
    (turned,) = compare_pairs(open_models(), [replace(PAIR, better=WRONG, worse=RIGHT)])
    assert turned.value == pytest.approx(0.35)
    (scored,) = score_comparisons([PAIR], [own])
    assert (scored.better, scored.worse) == pytest.approx((0.65, 0.35))
    assert measure_signal([scored], is_comparison=True).overall.auc.value == 1.0


def test_one_order_that_cannot_be_read_leaves_the_pair_without_a_number() -> None:
    class Silent(FairModel):
        def say(self, stage: str, request: Request) -> Sample:
            said = super().say(stage, request)
            asked = request.messages[-1]["content"]
            return said if asked.find("5.") < asked.find("7.") else replace(said, tail=())

    (found,) = compare_pairs(open_models(ask=Silent()), [PAIR])
    assert isinstance(found.value, Unscored)
    assert len(found.first_shown) == 1
    assert score_comparisons([PAIR], [found])[0].better is None


def test_pairs_share_their_texts() -> None:
    other = replace(PAIR, row_id="p2", kind="truncated", worse="It")
    rows = list_rows([PAIR, other])
    assert [row.completion for row in rows.values()] == [RIGHT, WRONG, "It"]
    assert len({row.row_id for row in rows.values()}) == 3
    scored = score_pairs(SIGNALS["sampled"], open_models(), [PAIR, other])
    assert [(pair.kind, pair.better, pair.worse) for pair in scored] == [("gold", 9.0, 2.0), ("truncated", 9.0, 2.0)]
    assert [(pair.better_length, pair.worse_length) for pair in scored] == [(3, 3), (3, 1)]


def test_reviews_are_asked_once_for_the_score_as_written_and_as_expected() -> None:
    model = FairModel()
    models = open_models(ask=remember(model))
    first = SIGNALS["sampled"].score(models, ROWS)
    assert SIGNALS["expected"].score(models, ROWS) == pytest.approx([7.0, 3.5])
    assert SIGNALS["sampled"].score(models, ROWS[::-1]) == first[::-1]
    assert len(model.asked) == 2


def test_reviews_without_a_score_are_forced_to_one_where_rounds_force_them() -> None:
    """A reviewer that never ends: as written nothing is scored, and forced the right completion has 8."""

    class Endless(FairModel):
        def say(self, stage: str, request: Request) -> Sample:
            if stage == "review":
                return Sample(request.row_id, "It goes on and on", "length", 10, 3)
            digit = "8" if RIGHT in request.messages[-1]["content"] else "3"
            return Sample(request.row_id, digit, "length", 10, 1, tail=(choose(digit, **{digit: 0.9, "5": 0.1}),))

    model = Endless()
    models = open_models(ask=remember(model))
    assert [score.reason for score in SIGNALS["sampled"].score(models, ROWS)] == ["cut_off"] * 2  # type: ignore[union-attr]
    assert SIGNALS["sampled"].score(replace(models, force_ending=True), ROWS) == [8.0, 3.0]
    assert [stage for stage, _, _ in model.asked] == ["review"] * 2 + ["review_ending"] * 2


SAMPLE = Sample("r", "", "length", 9, 3)


def test_a_forced_digit_that_is_none_has_a_reason() -> None:
    def read(*tail: TokenChoice, finish: str = "length") -> float | str:
        text = "".join(choice.text for choice in tail)
        found = read_forced_digit(replace(SAMPLE, text=text, finish_reason=finish, tail=tail), rubric=RUBRIC)
        return found.reason if isinstance(found, Unscored) else found

    eight = choose("8", **{"8": 0.75, "4": 0.25})
    assert read(eight) == pytest.approx(7.0)
    # A cut "8/1" is no other scale, and "10" in two tokens is ten.
    assert read(eight, choose("/", **{"/": 1.0}), choose("1", **{"1": 1.0})) == pytest.approx(7.0)
    assert read(choose("1", **{"1": 1.0}), choose("0", **{"0": 1.0})) == pytest.approx(10.0)
    assert read(choose(" good", _good=1.0)) == "no_score"
    assert read() == "no_tail"
    assert read(eight, finish="error") == "error"
    assert read(choose("8", **{"8": 0.2, "the": 0.8})) == "low_mass"


def test_a_choice_is_read_where_the_word_begins() -> None:
    def read(*tail: TokenChoice, finish: str = "length") -> float | str:
        found = read_choice(replace(SAMPLE, tail=tail, finish_reason=finish), ("yes", "no"))
        return found.reason if isinstance(found, Unscored) else found

    assert read(choose(" Yes", _Yes=0.4, YES=0.2, _no=0.2)) == pytest.approx(0.75)
    # A word that is not listed is at most as likely as the least likely of those that are.
    assert read(choose("Yes", Yes=0.8, Maybe=0.2)) == pytest.approx(0.8)
    assert read(choose("No", No=0.8, Maybe=0.2)) == pytest.approx(0.2)
    assert read(choose("\n", **{"\n": 1.0}), choose("No", No=0.75, Yes=0.25)) == pytest.approx(0.25)
    # "It" begins another reply, and a yes inside it is none.
    assert read(choose("It", It=1.0), choose(" yes", _yes=1.0)) == "low_mass"
    assert read() == "no_tail"
    assert read(choose("Yes", Yes=1.0), finish="error") == "error"
