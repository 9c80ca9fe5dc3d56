"""Signals in place of written reviews: on the rubric's scale, in the order of the signal, and one asking a row."""

import math
from collections.abc import Sequence
from dataclasses import replace

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lance_assets.algorithms.measures.scales import squash
from lance_assets.algorithms.reviews.review_parsing import Unscored, parse_review
from lance_assets.recipes.asking import StateRow
from lance_assets.recipes.contract import RoundInputs
from lance_assets.recipes.lance import RECIPE, score_rows
from lance_assets.recipes.lance_settings import LanceSettings
from lance_assets.recipes.steps.reviewing import Rubric
from lance_assets.recipes.steps.signal_reviews import write_score
from lance_assets.recipes.steps.signals import CHOICE_PREFILL
from lance_assets.records import REVIEWED_SET, Request, Sample, SamplingSettings, TokenChoice
from lance_assets.settings.experiment import ExperimentSettings
from tests.recipes.scripted_round import identify

ROWS = pl.DataFrame(
    [(f"c{n}", "completion", "s", "p", f"Prompt {n}", text) for n, text in enumerate(("good", "bad", "unread"))],
    schema=["row_id", "kind", "seed_id", "parent_id", "prompt", "completion"],
    orient="row",
)


class YesSayer:
    """Says yes to what is good, no to what is bad, and neither to the rest."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def __call__(
        self, stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None
    ) -> list[Sample]:
        assert sampling is not None
        assert sampling.tail_tokens > 0
        self.requests += requests
        return [self.say(request) for request in requests]

    def say(self, request: Request) -> Sample:
        asked = request.messages[-1]["content"]
        p = {"yes": 0.8, "no": 0.2} if asked.endswith("good") else {"yes": 0.3, "no": 0.7}
        p = {"Maybe": 1.0} if asked.endswith("unread") else p
        tail = (TokenChoice("x", {f" {word.title()}": math.log(value) for word, value in p.items()}),)
        return Sample(request.row_id, " Yes", "length", 7, 3, tail=tail)


class Reader:
    """Good completions have a token likelier by log(3) nats after their prompt, bad ones are as likely without it."""

    def __init__(self) -> None:
        self.is_closed = False

    def measure_likelihood(self, rows: Sequence[StateRow]) -> pl.DataFrame:
        gains = [math.log(3) if text == "good" and messages[-1]["content"] else 0.0 for messages, text in rows]
        tokens = [0 if text == "unread" else 2 for _, text in rows]
        return pl.DataFrame({"log_likelihood": [2 * (gain - 4) for gain in gains], "num_tokens": tokens})

    def close(self) -> None:
        self.is_closed = True


def score(settings: LanceSettings, **given: object) -> pl.DataFrame:
    inputs = RoundInputs(
        identity=identify(), settings=settings, **{"ask": YesSayer(), "is_evaluation_prompt": lambda _: False, **given}
    )
    return score_rows(inputs, ROWS)


def test_yes_is_placed_on_the_scale_and_asked_once_a_row() -> None:
    ask = YesSayer()
    reviewed = score(LanceSettings(score_from="yes_no", num_reviews=2), ask=ask)
    assert reviewed.schema == REVIEWED_SET
    assert reviewed["scores"].to_list() == [[8.0, 8.0], [3.0, 3.0], [None, None]]
    assert reviewed["review_score"].to_list() == [8.0, 3.0, None]
    assert reviewed["reviews"][0].to_list() == ["signal: 0.8000\nscore: 8.0000"] * 2
    assert reviewed["reviews"][2][0] == "There is none: low_mass."
    assert [request.prefill for request in ask.requests] == [CHOICE_PREFILL] * 3


def test_information_is_placed_on_the_scale_and_the_model_is_given_back() -> None:
    """e to the log of 3 is 3, so the good completion gets 3 / 4 of the scale, and the bad one the middle."""
    reader = Reader()
    settings = LanceSettings(
        score_from="mutual_information", num_reviews=1, highest_score=4, branch_threshold=2, sft_threshold=3
    )
    reviewed = score(settings, read_states=lambda **_: reader)
    assert reviewed["review_score"].to_list() == pytest.approx([3.0, 2.0, None])
    assert reader.is_closed
    assert settings.reviews_by_reading
    assert settings.reads_states
    assert not LanceSettings(score_from="mutual_information", reviewer="random").reads_states
    assert LanceSettings(score_from="mutual_information", reviewer="random").counted_score == "text"


@given(st.lists(st.floats(-900, 900), min_size=2, max_size=8), st.integers(0, 4), st.integers(5, 10))
def test_the_scale_keeps_the_order_and_is_read_again(nats: list[float], lowest: int, highest: int) -> None:
    rubric = Rubric("lance/review", lowest, highest)
    scores = []
    for value in sorted(nats):
        text = write_score(value, squash(value), rubric)
        scores.append(parse_review(text, lowest=float(lowest), highest=float(highest)))
    assert all(isinstance(one, float) for one in scores)
    assert scores == sorted(scores)
    assert isinstance(parse_review(write_score(Unscored("cut_off", ""), 0.0, rubric)), Unscored)


def test_the_steps_that_are_asked_are_those_of_the_signal() -> None:
    def list_asked(**changed: object) -> set[str]:
        assert RECIPE.list_prompts is not None
        return {step.name for step in RECIPE.list_prompts(LanceSettings(**changed)) if step.is_asked}

    assert list_asked() == {"review", "new_prompt", "degrade"}
    assert list_asked(score_from="yes_no") == {"yes_no", "new_prompt", "degrade"}
    assert list_asked(score_from="mutual_information") == {"new_prompt", "degrade"}


def test_a_second_reviewer_cannot_read_for_the_rounds_model() -> None:
    attributes = {
        "recipe": "lance",
        "model": "small",
        "seeds": {"path": "seeds.jsonl"},
        "evaluation": {"world": {"name": "lance_assets.small_world:WORLD"}},
        "roles": {"reviewer": {"model": "small"}},
    }
    with pytest.raises(ValidationError, match=r"score_from: mutual_information reads with the round's own model"):
        ExperimentSettings.model_validate(attributes | {"parameters": {"score_from": "mutual_information"}})
    ExperimentSettings.model_validate(attributes | {"parameters": {"score_from": "yes_no"}})


def test_an_engine_that_fails_on_a_row_leaves_it_unscored() -> None:
    class Failing(YesSayer):
        def say(self, request: Request) -> Sample:
            return replace(super().say(request), finish_reason="error", text="", tail=(), error="gone")

    reviewed = score(LanceSettings(score_from="yes_no", num_reviews=1), ask=Failing())
    assert [reasons.to_list() for reasons in reviewed["unscored_reasons"]] == [["error"]] * 3
