"""Comparisons that are made to end in a verdict: what is asked, what is read, and what is left as it is."""

import math
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.reviews.forced_endings import (
    VERDICT_LABEL,
    VERDICTS,
    build_prefill,
    choose_verdict,
    read_forced_verdict,
    write_forced_verdict,
)
from lance_assets.recipes.lance import RECIPE, judge_pairs
from lance_assets.recipes.lance_settings import LanceSettings
from lance_assets.records import Request, Sample, SamplingSettings, TokenChoice, TurnNotContinuedError
from lance_assets.rounds.judging.asking import compare_together, review_each
from lance_assets.rounds.overrides import Overrides
from lance_assets.rounds.round import Round
from tests.assets.tiny_experiment import plan_tiny, write_tiny_experiment
from tests.recipes.scripted_round import build_inputs
from tests.recipes.test_judging import PAIRS


class Judge:
    """Is cut in the middle of each comparison, and prefers what is good where it is made to say so."""

    def __init__(
        self, said: str = "Both speak of the same thing, and", *, finish: str = "length", continues: bool = True
    ):
        self.said, self.finish, self.continues = said, finish, continues
        self.asked: dict[str, list[Request]] = {}

    def __call__(
        self, stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None
    ) -> list[Sample]:
        assert sampling is None, "LANCE's stages are sampled as they are declared"
        self.asked[stage] = list(requests)
        if stage == "judge_pair":
            return [Sample(request.row_id, self.said, self.finish, 9, 5) for request in requests]  # type: ignore[arg-type]
        if not self.continues:
            raise TurnNotContinuedError(stage)
        return [self.end(request) for request in requests]

    def end(self, request: Request) -> Sample:
        better, worse = (" A", " B") if "A: good" in request.messages[-1]["content"] else (" B", " A")
        shares = {better: math.log(0.3), worse: math.log(0.2), " neither": math.log(0.4)}
        return Sample(request.row_id, worse, "length", 9, 1, tail=(TokenChoice(worse, shares),))


def judge(ask: Judge, **settings: object) -> pl.DataFrame:
    inputs = build_inputs(LanceSettings(num_judged_pairs=3, **settings), ask=ask)
    return judge_pairs(inputs, PAIRS.head(3))


def test_a_comparison_that_was_cut_ends_in_the_likeliest_verdict() -> None:
    ask = Judge()
    judged = judge(ask)
    assert judged["outcome"].to_list() == ["chosen"] * 3
    assert judged["chosen_first_text"][0] == f"{ask.said}\n(forced ending) verdict: A"
    endings, asked = ask.asked["judge_pair_ending"], ask.asked["judge_pair"]
    assert {request.prefill for request in endings} == {f"{ask.said}\nverdict: "}
    assert [request.messages for request in endings] == [request.messages for request in asked]
    assert not {request.row_id for request in endings} & {request.row_id for request in asked}
    assert RECIPE.find_role("judge_pair_ending") == "reviewer"
    sampling = RECIPE.find_sampling("judge_pair_ending", LanceSettings())
    assert (sampling.temperature, sampling.tail_tokens > 0) == (0.0, True)


def test_one_that_ended_in_a_verdict_is_not_asked_again_and_off_leaves_all_as_it_is() -> None:
    ended = Judge("A is right.\nverdict: A", finish="stop")
    assert judge(ended)["outcome"].to_list() == ["flipped"] * 3
    assert "judge_pair_ending" not in ended.asked
    off = Judge()
    judged = judge(off, force_ending=False)
    assert judged["outcome"].to_list() == ["unread"] * 3
    assert judged["chosen_first_reason"].to_list() == ["cut_off"] * 3
    assert "judge_pair_ending" not in off.asked


def test_a_refusal_is_ended_too_and_an_engine_that_does_not_go_on_says_so() -> None:
    assert judge(Judge("I cannot judge this.", finish="stop"))["outcome"].to_list() == ["chosen"] * 3
    judged = judge(Judge(continues=False))
    assert judged["outcome"].to_list() == ["unread"] * 3
    assert judged["rejected_first_reason"].to_list() == ["not_continued"] * 3
    failed = judge(Judge("", finish="error"))
    assert failed["chosen_first_reason"].to_list() == ["error"] * 3


@pytest.mark.parametrize(
    ("written", "prefill"),
    [
        ("A is right.", "A is right.\nverdict: "),
        ("A is right.\n**Verdict:** A", "A is right.\nverdict: "),
        ("", "verdict: "),
        ("<think>Is A right", "<think>Is A right\n</think>\nverdict: "),
    ],
)
def test_the_turn_begins_with_the_comparison_and_the_label(written: str, prefill: str) -> None:
    assert build_prefill(written, VERDICT_LABEL) == prefill


@given(st.text(), st.sampled_from([*VERDICTS, None]))
def test_what_is_written_is_read_again(text: str, verdict: str | None) -> None:
    written = write_forced_verdict(text, verdict, reason="no_verdict")  # type: ignore[arg-type]
    assert read_forced_verdict(written) == (verdict, None if verdict else "no_verdict")


def test_a_tie_may_come_in_several_tokens_and_words_that_begin_alike_are_none() -> None:
    def tail(**shares: float) -> list[TokenChoice]:
        return [TokenChoice(" x", {f" {name}": math.log(share) for name, share in shares.items()})]

    assert choose_verdict(tail(t=0.3, ti=0.1, A=0.35), "") == "tie"
    assert choose_verdict(tail(Although=0.9, B=0.1), "") == "B"
    assert choose_verdict(tail(the=0.9), "the") is None


class EvaluationJudge(Judge):
    """The same for an evaluation, which says how each stage is sampled."""

    def __call__(
        self, stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None
    ) -> list[Sample]:
        assert sampling is not None
        self.asked[stage] = list(requests)
        if not stage.endswith("_ending"):
            return [Sample(request.row_id, self.said, "length", 9, 5) for request in requests]
        assert (sampling.temperature, sampling.tail_tokens > 0) == (0.0, True)
        if requests[0].prefill.endswith("score: "):
            tail = (TokenChoice("7", {"7": math.log(0.6), "2": math.log(0.4)}),)
            return [Sample(request.row_id, "7", "length", 9, 1, tail=tail) for request in requests]
        return [self.end(request) for request in requests]


@pytest.mark.parametrize("force_ending", [True, False])
def test_an_evaluations_judge_is_made_to_end_its_verdicts_and_reviews(force_ending: bool, tmp_path: Path) -> None:
    folder = write_tiny_experiment(tmp_path / "tiny")
    judge = {"path": "seeds.jsonl", "completion_field": "completion", "model": "small", "force_ending": force_ending}
    plan = plan_tiny(folder, evaluation={"judge": judge})
    this_round = Round(plan, None, "r0001", lambda _: None, begins_with=Overrides())  # type: ignore[arg-type]
    rows = [{"prompt": "Prompt p", "completion": "good p", "opponent_completion": "bad p"}]
    (compared,) = compare_together(EvaluationJudge(), this_round, rows, stage="checkpoint_judged")
    (reviewed,) = review_each(EvaluationJudge(), this_round, rows, stage="checkpoint_judged")
    assert compared["outcome"] == ("win" if force_ending else "unread")
    assert reviewed["judge_score"] == (7.0 if force_ending else None)
    assert (reviewed["unscored_reason"] is None) == force_ending
