"""GRPO in a round: whose prompts have a reward, what a job is told of it, and what a reward is part of."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from lance_assets.recipes.lance_settings import LanceSettings
from lance_assets.records import SEED_SET, SFT_SET
from lance_assets.rounds.making.rewarding import (
    build_rewards,
    describe_reward,
    describe_rewards,
    list_reward_prompts,
    read_reward_prompts,
    trains_sft,
)
from lance_assets.rounds.making.training import build_job, describe_rows, judge_training
from lance_assets.rounds.nouns import compute_fingerprint
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from lance_assets.settings.experiment import ExperimentSettings
from lance_assets.settings.file import check_files
from lance_assets.small_world import WORLD
from tests.rounds.test_training_report import ROW

PROBLEM = WORLD.draw_held_out(1)[0]
STEP = {"reward_std": 0.5, "alike_rate": 0.25, "completion_tokens": 9.5, "cut_off_rate": 0.0}


def read_settings(reward: str = "rule", *, losses: str = "sft_then_grpo", **changed: Any) -> ExperimentSettings:
    settings: dict[str, Any] = {
        "recipe": "lance",
        "parameters": {"losses": losses},
        "model": "small",
        "seeds": {"path": "seeds.jsonl", "answer_field": "answer"},
        "evaluation": {"world": {"name": "lance_assets.small_world:WORLD"}},
        "training": {"grpo": {"reward": reward}},
    }
    return ExperimentSettings.model_validate(settings | changed)


def open_round(folder: Path, settings: ExperimentSettings, key: str = "r0001") -> Round:
    """A round whose seeds are one problem of the world, a question with an answer and one without."""
    this_round = Round(Plan("mini", folder, settings), Platform(str(folder / "home")), key, lambda _: None)
    seeds = [("Capital of France?", "Paris."), ("How are you?", None), (PROBLEM.prompt, PROBLEM.answer)]
    rows = [{"row_id": str(n), "prompt": prompt, "answer": answer} for n, (prompt, answer) in enumerate(seeds)]
    table = pl.DataFrame([dict.fromkeys(SEED_SET) | row for row in rows], schema=SEED_SET)
    for one in {"r0000", key}:
        this_round.at(one).write("seed_set", table)
    return this_round


def build_sft() -> pl.DataFrame:
    prompts = [PROBLEM.prompt, "Capital of France?", "How are you?", PROBLEM.prompt, "Score this: 7"]
    rows = [{"row_id": f"s{n}", "prompt": prompt, "source": "seed"} for n, prompt in enumerate(prompts)]
    rows[-1]["source"] = "eft"
    return pl.DataFrame([dict.fromkeys(SFT_SET) | row for row in rows], schema=SFT_SET)


def test_agreed_takes_the_answer_of_the_rows_own_completion(tmp_path: Path) -> None:
    """A recipe's vote is in the SFT set; the seed's gold answer, Paris, has no part in it."""
    said = ["The answer is 3.", "The answer is Rome.", "Well.", "The answer is 4.", "score: 7"]
    sft = build_sft().with_columns(completion=pl.Series(said))
    this_round = open_round(tmp_path, read_settings("agreed"))
    found = list_reward_prompts(this_round, sft)["reward_prompts"]
    assert dict(found.select("row_id", "answer").iter_rows()) == {"s0": "3", "s1": "Rome"}
    this_round.write("reward_prompts", found)
    assert describe_reward(this_round)["reward"].name == "agreed"


@pytest.mark.parametrize(
    ("reward", "row_ids"),
    [
        ("rule", ["s0"]),
        ("gold", ["s0", "s1"]),
        ("my_reward.py:score", ["s0", "s1", "s2"]),
        ("review", ["s0", "s1", "s2"]),
    ],
)
def test_prompts_are_those_whose_reward_can_be_told(tmp_path: Path, reward: str, row_ids: list[str]) -> None:
    """Each prompt once, and no EFT row, which asks for a review."""
    this_round = open_round(tmp_path, read_settings(reward))
    found = list_reward_prompts(this_round, build_sft())["reward_prompts"]
    assert found["row_id"].to_list() == row_ids
    answers = dict(zip(found["row_id"], found["answer"], strict=True))
    assert answers["s0"] == PROBLEM.answer
    assert answers.get("s1", "Paris.") == "Paris."
    this_round.write("reward_prompts", found)
    assert read_reward_prompts(this_round).equals(found)
    told = describe_reward(this_round)
    assert pl.read_parquet(told["prompts_path"])["row_id"].to_list() == row_ids
    assert (told["reward"].name, told["reward"].folder) == (reward, tmp_path)
    assert told["reward"].world == ("lance_assets.small_world:WORLD" if reward == "rule" else None)


def test_who_reviews_is_the_trained_model_or_the_role(tmp_path: Path) -> None:
    """With the recipe's template and scale, and the words and the weights are part of what the round is made with."""
    own = open_round(tmp_path / "own", read_settings("review"))
    source = describe_reward(own)["reward"]
    assert (source.review.step, source.review.lowest, source.review.highest) == ("lance/review", 0, 10)
    assert (source.review.model, source.review.server, source.content_hash) == (None, None, None)
    role = {"model": "small", "prompt_profile": "compact", "engine": {"batch_size": 8}}
    other = open_round(tmp_path / "other", read_settings("review", roles={"reviewer": role}))
    source = describe_reward(other)["reward"]
    assert source.review.model is not None
    assert (source.review.profile, source.review.batch_size) == ("compact", 8)
    assert source.content_hash
    served = {"engine": {"kind": "openai", "openai": {"base_url": "http://localhost:1/v1", "model": "m"}}}
    server = open_round(tmp_path / "server", read_settings("review", roles={"reviewer": served}))
    source = describe_reward(server)["reward"]
    assert source.review.server["model"] == "m"
    assert source.review.model is None
    plans = [own.plan, other.plan, server.plan]
    short = read_settings("review", training={"grpo": {"reward": "review", "max_review_tokens": 0}})
    plans.append(Plan("mini", tmp_path, short))
    assert len({compute_fingerprint(plan, "checkpoint") for plan in plans}) == 4


def test_a_recipe_without_a_rubric_has_no_review_as_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(LanceSettings, "rubric")
    with pytest.raises(ValidationError, match="review needs a recipe with a rubric, and lance has none"):
        read_settings("review")


def test_a_round_without_grpo_has_no_prompts_and_r0000_is_sft(tmp_path: Path) -> None:
    without = open_round(tmp_path / "dpo", read_settings(losses="sft_then_dpo", training={}))
    start = open_round(tmp_path / "start", read_settings(losses="grpo"), key="r0000")
    for this_round in (without, start):
        assert list_reward_prompts(this_round, build_sft()) == {}
        assert read_reward_prompts(this_round).is_empty()
        assert describe_reward(this_round) == {}
        assert trains_sft(this_round)
    assert not trains_sft(open_round(tmp_path / "alone", read_settings(losses="grpo")))
    job = build_job(start, tmp_path, start.plan.settings.training)
    assert (job.second_loss, job.prompts_path, job.reward) == ("grpo", None, None)


def test_what_was_earned_is_a_table_and_figures() -> None:
    steps = [STEP | {"step": float(number), "reward": reward} for number, reward in enumerate((0.25, 0.5, 0.75), 1)]
    assert build_rewards(steps)["step"].to_list() == [1, 2, 3]
    told = describe_rewards(steps)
    assert (told["grpo_reward_first"], told["grpo_reward_last"], told["grpo_alike_rate"]) == (0.25, 0.75, 0.25)


def test_grpo_is_judged_by_its_weights_and_told_by_its_prompts() -> None:
    """Its loss is 0 at every step where completions are equally long, and says nothing."""
    row = ROW | {"dpo_losses": [0.0, 0.0], "dpo_change": 0.1}
    assert judge_training(row, second_loss="grpo").passed
    assert not judge_training(row, second_loss="simpo").passed
    still = judge_training(row | {"dpo_change": 0.0}, second_loss="grpo")
    assert "raise training.grpo.learning_rate" in (still.description or "")
    assert describe_rows(row, num_prompts=12) == "7 SFT rows, then 12 prompts with a reward"


def test_a_reward_is_part_of_the_sft_set_and_the_checkpoint_alone(tmp_path: Path) -> None:
    (tmp_path / "my_reward.py").write_text("def score(prompt, completion, answer): return 1.0")

    def find(reward: str) -> dict[str, str]:
        plan = Plan("mini", tmp_path, read_settings(reward))
        return {noun: compute_fingerprint(plan, noun) for noun in ("sft_set", "checkpoint", "reviewed_set")}

    before, gold = find("my_reward.py:score"), find("gold")
    assert {noun for noun in before if before[noun] != gold[noun]} == {"sft_set", "checkpoint"}
    (tmp_path / "my_reward.py").write_text("def score(prompt, completion, answer): return 2.0")
    after = find("my_reward.py:score")
    assert {noun for noun in before if before[noun] != after[noun]} == {"sft_set", "checkpoint"}


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        (
            {"evaluation": {"judge": {"path": "p.jsonl", "model": "small"}}},
            "reward: rule is that of a world, and evaluation.world is none",
        ),
        (
            {"seeds": {"path": "s.jsonl"}, "training": {"grpo": {"reward": "gold"}}},
            "gold compares with the seeds' answers, and they have none; set seeds.answer_field or seeds.answer_after",
        ),
        (
            {"training": {"grpo": {"reward": "best"}}},
            "'best' is none of rule, gold, agreed, review, and names no",
        ),
        (
            {
                "training": {"grpo": {"reward": "review"}},
                "roles": {"reviewer": {"model": "small", "engine": {"kind": "vllm"}}},
            },
            "roles.reviewer has engine.kind vllm, which takes the memory; use kind transformers, or a server",
        ),
        ({"training": {"grpo": {"batch_size": 12}}}, "batch_size 12 is no multiple of num_generations 8"),
        ({"training": {"grpo": {"max_new_tokens": 2048}}}, "leaves no room for a prompt in max_length 2048"),
        ({"training": {"grpo": {"gamma": 1}}}, r"training\.grpo\.gamma"),
    ],
)
def test_a_reward_that_cannot_be_is_refused(changed: dict, error: str) -> None:
    with pytest.raises(ValidationError, match=error):
        read_settings(**changed)


def test_a_reward_function_that_is_not_there_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "seeds.jsonl").write_text("{}")
    file = tmp_path / "defs.yaml"
    file.write_text("attributes:\n  training:\n    grpo:\n      reward: mine.py:score\n")
    settings = read_settings("mine.py:score")
    with pytest.raises(
        ValueError, match=r"defs\.yaml:4: attributes\.training\.grpo\.reward: no reward 'mine\.py:score'"
    ):
        check_files(settings, file)
    (tmp_path / "mine.py").write_text("def score(prompt, completion, answer): return 1.0")
    check_files(settings, file)
