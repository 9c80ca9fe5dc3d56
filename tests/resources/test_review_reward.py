"""A review as GRPO's reward: what is asked, what is read of the probabilities, and a training with the model's own."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lance_assets.records import Request, Sample, SamplingSettings, TokenChoice
from lance_assets.rewards import RewardError
from resources.machine.processes import MemoryPeak
from resources.training.review_reward import ReviewReward
from resources.training.stage_settings import ReviewSource, RewardSource
from resources.training.trainer import fingerprint_job
from tests.resources.test_grpo import SETTINGS, describe_job
from tests.resources.test_trainer import train_here

LANCE = ReviewSource(profile="compact", recipe="lance", step="lance/review", lowest=0, highest=10, max_review_tokens=0)


class ScriptedReviewer:
    """Gives each completion the probabilities that it is told, and notes what it is asked."""

    def __init__(self, numbers: dict[str, dict[str, float]], *, goes_on: bool = True) -> None:
        self.numbers, self.goes_on = numbers, goes_on
        self.asked: list[Request] = []

    def generate(self, requests: Sequence[Request], sampling: SamplingSettings) -> Iterator[list[Sample]]:
        self.asked += requests
        for request in requests:
            shown = request.messages[-1]["content"]
            if not request.prefill:
                yield [Sample(request.row_id, "It is clear.\nscore: 3", "stop", 1, 1)]
                continue
            found = next((by for text, by in self.numbers.items() if text in shown), {})
            place = {"0": 0.5, " ": 0.5} if request.prefill.endswith("1") else found
            tail = (TokenChoice("x", {token: math.log(share) for token, share in place.items()}),)
            yield [Sample(request.row_id, "x", "length", 1, 1, tail=tail)]

    def can_constrain(self) -> bool:
        return False

    def can_prefill(self) -> bool:
        return self.goes_on

    def measure_peak(self) -> MemoryPeak:
        return MemoryPeak(0.0, 0.0)

    def measure_start(self) -> float:
        return 0.0

    def close(self) -> None:
        return None


def test_a_completion_earns_the_mean_over_the_scale_s_numbers() -> None:
    """2 and 8 with probabilities of 3 to 1 are 3.5; a 1 that goes on to a 0 half of the time is 1 and 10 alike."""
    reviewer = ScriptedReviewer({"two": {"2": 0.3, "8": 0.1, "so": 0.6}, "one": {"1": 0.2}, "mute": {"so": 1.0}})
    reward = ReviewReward(LANCE)
    reward.engine = reviewer
    found = reward.score(["What?", "What?", "What?"], ["<think>mute</think>two", "one", "mute"])
    assert found == pytest.approx([0.35, 0.55, 0.0])
    assert {request.prefill for request in reviewer.asked} == {"score: ", "score: 1"}
    shown = reviewer.asked[0].messages
    assert shown[-1]["content"] == "Review this.\nTask: What?\nCompletion: two", "without what it thinks first"


def test_a_rationale_is_written_first_and_its_own_score_is_not_read() -> None:
    reviewer = ScriptedReviewer({"two": {"8": 0.5}})
    reward = ReviewReward(LANCE.model_copy(update={"max_review_tokens": 9, "highest": 8}))
    reward.engine = reviewer
    assert reward.score(["What?"], ["two"]) == [1.0]
    assert [request.prefill for request in reviewer.asked] == ["", "It is clear.\nscore: "]


def test_reviews_that_have_no_score_are_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    """Some of them earn 0; where none has a score, the reviewer cannot review."""
    reward = ReviewReward(LANCE)
    reward.engine = ScriptedReviewer({"two": {"2": 0.3}, "mute": {"so": 1.0}})
    assert reward.score(["What?", "What?"], ["two", "mute"]) == pytest.approx([0.2, 0.0])
    assert "1 of 2 reviews have no score and earn 0 (it goes on with 'x')" in capsys.readouterr().out
    with pytest.raises(RewardError, match=r"none of 2 reviews has a score from 0 to 10 .*reward: rule or gold"):
        reward.score(["What?", "What?"], ["mute", "mute"])
    reward.engine = ScriptedReviewer({}, goes_on=False)
    with pytest.raises(RewardError, match="does not go on from a turn that has begun"):
        reward.score(["What?"], ["two"])


def test_the_trained_model_reviews_without_dropout_and_trains_on(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).train()
    modes: list[bool] = []
    model.register_forward_pre_hook(lambda *_: modes.append(model.training))
    reward = ReviewReward(LANCE)
    reward.follow(model, tokenizer)
    state = torch.get_rng_state()
    first, again = (reward.score(["What is 1 + 1?", "What is 2 + 2?"], ["2", "5"]) for _ in range(2))
    assert modes
    assert not any(modes)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state), "what is sampled next does not depend on the reviews"
    assert first == again
    assert all(0 <= score <= 1 for score in first)


def test_a_round_of_grpo_with_the_model_s_own_review(tiny_model: Path, tmp_path: Path) -> None:
    """The rewards are reviews of what it sampled. Another scale is another job, another folder of a model is not."""
    source = RewardSource(name="review", folder=tmp_path, review=LANCE)
    job = describe_job(tiny_model, tmp_path / "job", reward=source, grpo=SETTINGS.model_copy(update={"num_epochs": 1}))
    result = train_here(job)
    assert len(result.rewards) == 2
    assert all(0 <= row["reward"] <= 1 for row in result.rewards)
    assert any(row["reward_std"] > 0 for row in result.rewards), "the mean over probabilities tells completions apart"

    def fingerprint(**changed: Any) -> str:
        review = LANCE.model_copy(update=changed)
        return fingerprint_job(job.model_copy(update={"reward": source.model_copy(update={"review": review})}))

    assert fingerprint(highest=5) != fingerprint()
    assert fingerprint(model=Path("there")) == fingerprint(model=Path("elsewhere"))
