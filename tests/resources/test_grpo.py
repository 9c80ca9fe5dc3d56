"""GRPO on a tiny model: the loss by hand, what is earned by step, prompts as at serving, and a kill."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import torch
from transformers import AutoTokenizer

from lance_assets.algorithms.reviews.thoughts import strip_thinking
from lance_assets.prompts import build_messages
from lance_assets.records import REWARD_PROMPTS
from lance_assets.worlds import run_file
from resources.models.chat_format import encode_messages
from resources.training import grpo, train_worker
from resources.training.gpu.choosing import GpuChoices
from resources.training.grpo import encode_prompts, fit_batch, order_prompts
from resources.training.rewards import find_reward, score_batch, score_reviews
from resources.training.stage_settings import GrpoSettings, LoraSettings, RewardSource
from resources.training.trainer import TrainJob, find_job_folder, fingerprint_job
from tests.resources.chat_templates import Family, make_tokenizer
from tests.resources.test_resuming import KilledError, kill_at
from tests.resources.test_trainer import train_here, weights_of

REWARD = """
SEEN = []


def length(prompt, completion, answer):
    SEEN.append((prompt, completion, answer))
    return len(completion) % 7


def broken(prompt, completion, answer):
    return float("nan")
"""
SETTINGS = GrpoSettings(
    batch_size=8, num_generations=4, max_new_tokens=6, max_length=64, learning_rate=5e-3, num_epochs=2, warmup_steps=0
)


def write_prompts(path: Path, number: int) -> Path:
    rows = [{"row_id": str(n), "prompt": f"Reverse {n} 2.", "answer": f"2 {n}"} for n in range(number)]
    pl.DataFrame(rows, schema=REWARD_PROMPTS).write_parquet(path)
    return path


def describe_job(model: Path, folder: Path, **named: Any) -> TrainJob:
    folder.mkdir(exist_ok=True)
    (folder / "rewards.py").write_text(REWARD)
    given: dict[str, Any] = {
        "start_checkpoint": model,
        "prompts_path": write_prompts(folder / "prompts.parquet", 5),
        "staging": folder / "staging",
        "second_loss": "grpo",
        "reward": RewardSource(name="rewards.py:length", folder=folder),
        "grpo": SETTINGS,
        "num_threads": 1,
        "dtype": "float32",
        "save_dtype": "float32",
        "save_every_minutes": None,
    }
    return TrainJob(**given | named)


def test_the_loss_is_minus_the_advantages_of_the_tokens_and_rewards_are_kept_by_step(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two prompts of four completions a step. A completion's advantage is its reward less its group's mean, over the
    group's standard deviation and 0.0001; every ratio is 1, so the loss is minus their mean over the batch's tokens.
    """
    batches: list[dict] = []
    real = grpo.TokenGRPOTrainer._generate_and_score_completions

    def note(self: Any, inputs: Any) -> Any:
        batches.append(real(self, inputs))
        return batches[-1]

    monkeypatch.setattr(grpo.TokenGRPOTrainer, "_generate_and_score_completions", note)
    result = train_here(describe_job(tiny_model, tmp_path / "job"))
    seen = run_file(tmp_path / "job" / "rewards.py")["SEEN"]
    # Two passes over five prompts are five steps of two.
    assert len(result.dpo_losses) == len(result.rewards) == len(batches) == 5
    assert len(seen) == 5 * 8
    assert [row["step"] for row in result.rewards] == [1, 2, 3, 4, 5]
    passes = [{prompt for prompt, _, _ in seen[first : first + 20]} for first in (0, 20)]
    assert [len(one) for one in passes] == [5, 5]
    for number, row in enumerate(result.rewards):
        asked = seen[8 * number : 8 * number + 8]
        assert [len({prompt for prompt, _, _ in asked[first : first + 4]}) for first in (0, 4)] == [1, 1]
        earned = torch.tensor([float(len(text) % 7) for _, text, _ in asked]).view(2, 4)
        assert row["reward"] == pytest.approx(earned.mean().item())
        assert row["reward_std"] == pytest.approx(earned.std().item(), rel=1e-4)
        assert 1 <= row["completion_tokens"] <= 6
        advantages = (earned - earned.mean(dim=1, keepdim=True)) / (earned.std(dim=1, keepdim=True) + 1e-4)
        lengths = batches[number]["completion_mask"].sum(dim=1)
        by_hand = -(advantages.flatten() * lengths).sum() / lengths.sum()
        assert result.dpo_losses[number] == pytest.approx(by_hand.item(), abs=2e-4)
    assert all(answer == f"2 {prompt.split()[1]}" for prompt, _, answer in seen)
    assert result.dpo_change is not None
    assert result.dpo_change > 0
    assert result.sft_losses == []


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_reference_that_trl_loads_has_the_attention_of_the_model(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attention: str
) -> None:
    made = []
    monkeypatch.setattr(train_worker, "train_on", lambda trainer, states, stage: made.append(trainer))
    monkeypatch.setattr(train_worker, "choose_gpu_paths", lambda *_: GpuChoices(attention=attention))
    settings = SETTINGS.model_copy(update={"beta": 0.04})
    job = describe_job(tiny_model, tmp_path / "job", grpo=settings)
    rows = pl.read_parquet(job.prompts_path).to_dicts()
    train_worker.run_stage("grpo", job, settings, tiny_model, rows, tmp_path)
    models = [made[0].model, made[0].ref_model]
    assert [model.config._attn_implementation for model in models] == [attention, attention]


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LoraSettings(r=2, alpha=4)], ids=["full", "lora"])
def test_a_killed_stage_ends_with_the_same_weights(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: LoraSettings | None
) -> None:
    """What is sampled after the kill is what would have been sampled without it."""
    whole = train_here(describe_job(tiny_model, tmp_path / "whole", lora=lora))
    job = describe_job(tiny_model, tmp_path / "killed", lora=lora, save_every_minutes=0.0)
    with monkeypatch.context() as killing:
        kill_at(killing, 3)
        with pytest.raises(KilledError):
            train_here(job)
    resumed = train_here(job)
    assert resumed.rewards == whole.rewards
    assert resumed.dpo_losses == whole.dpo_losses
    assert resumed.num_tokens == whole.num_tokens
    assert weights_of(resumed.path) == weights_of(whole.path)
    assert not (find_job_folder(job) / train_worker.STATES).exists()


def test_prompts_are_asked_as_at_serving_and_those_without_room_are_counted(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = [{"prompt": "Add 1 2.", "answer": "3"}, {"prompt": "Add " + "1 " * 90, "answer": None}]
    encoded, lengths = encode_prompts(tokenizer, rows, "Be brief.", SETTINGS)
    (kept,) = encoded
    assert kept["prompt"] == list(encode_messages(tokenizer, build_messages("Be brief.", "Add 1 2.")))
    assert (kept["question"], kept["answer"]) == ("Add 1 2.", "3")
    assert lengths[0] == len(kept["prompt"]) + 6
    assert lengths[1] > 64
    with pytest.raises(ValueError, match="no prompt leaves room for max_new_tokens=6 within max_length=64 tokens"):
        encode_prompts(tokenizer, rows[1:], "", SETTINGS)


def test_each_pass_has_an_order_of_its_own_and_a_part_of_one_is_a_batch_at_least() -> None:
    rows = [{"prompt": [number]} for number in range(20)]
    ordered = order_prompts(rows, SETTINGS, rng_seed=0)
    assert len(ordered) == 40
    assert ordered[:20] != ordered[20:]
    assert all(sorted(row["prompt"][0] for row in part) == list(range(20)) for part in (ordered[:20], ordered[20:]))
    assert order_prompts(rows, SETTINGS.model_copy(update={"num_epochs": 0.01}), rng_seed=0) == ordered[:2]


def test_a_batch_is_no_larger_than_the_prompts_fill() -> None:
    """TRL leaves out a batch that is not full: of one prompt and batches of two there would be no step at all."""
    assert fit_batch(SETTINGS, 1).batch_size == 4
    assert fit_batch(SETTINGS, 2) is SETTINGS


def test_rewards_by_rule_gold_answer_and_function(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(REWARD)
    gold = find_reward(RewardSource(name="gold", mark="####"))
    assert [gold("?", text, "7") for text in ("#### 7", "#### 8", "Who knows.")] == [1.0, 0.0, 0.0]
    rule = find_reward(RewardSource(name="rule", world="lance_assets.small_world:WORLD"))
    assert rule("Is it known?", "Yes.", None) == 0.0
    assert find_reward(RewardSource(name="rewards.py:length", folder=tmp_path))("?", "four", None) == 4.0
    broken = find_reward(RewardSource(name="rewards.py:broken", folder=tmp_path))
    with pytest.raises(ValueError, match=r"reward rewards\.py:broken must return a finite number or None, got nan for"):
        broken("What?", "", None)
    for name, told in (
        ("rewards.py:nothing", "nothing is no function"),
        ("none.py:length", "No such file"),
        ("no.such.package:length", "cannot be imported"),
    ):
        with pytest.raises(ValueError, match=told):
            find_reward(RewardSource(name=name, folder=tmp_path))


@pytest.mark.parametrize(
    ("tags", "is_special", "is_opened"),
    [
        (("[THINK]", "[/THINK]"), True, False),
        (("<ponder>", "</ponder>"), False, False),
        (("<|START_PONDERING|>", "<|END_PONDERING|>"), True, False),
        (("<think>", "</think>"), False, True),
        (("[MUSE]", "[/MUSE]"), True, True),
    ],
)
def test_a_thought_earns_nothing_whatever_its_tags_are(
    tags: tuple[str, str], is_special: bool, is_opened: bool
) -> None:
    """A thought that the limit cut at the gold answer has not answered; of one that is closed what follows counts."""
    opened, closed = tags
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['reasoning_content'] %}"
        f"{opened}{{{{ m['reasoning_content'] }}}}{closed}{{% endif %}}"
        "{{ m['content'] }}<|im_end|>\n{% endfor %}"
        f"{{% if add_generation_prompt %}}<|im_start|>assistant\n{opened if is_opened else ''}{{% endif %}}"
    )
    special = ("<|im_start|>", *(tags if is_special else ()))
    tokenizer = make_tokenizer(Family(template, "<|im_end|>", special, whole=() if is_special else tags))
    begins = "" if is_opened else opened
    written = [
        f"{begins}6 + 5, so maybe 12",
        f"{begins}So maybe 12{closed}It is 11.<|im_end|>",
        f"{begins}So maybe 11{closed}It is 12.<|im_end|>",
    ]
    batch = {
        "completion_ids": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in written],
        "question": ["6 + 6?"] * 3,
    }
    reward = score_batch(find_reward(RewardSource(name="gold")), tokenizer)
    assert reward(**batch, answer=["12"] * 3, completions=written) == [0.0, 0.0, 1.0]

    shown: list[str] = []
    reviewer: Any = SimpleNamespace(score=lambda _, texts: shown.extend(map(strip_thinking, texts)) or [0.5] * 3)
    assert score_reviews(reviewer, tokenizer)(**batch) == [0.5] * 3
    assert shown == ["", "It is 11.", "It is 12."]


def test_another_reward_is_another_job(tiny_model: Path, tmp_path: Path) -> None:
    job = describe_job(tiny_model, tmp_path / "job")
    others = [
        {"reward": RewardSource(name="gold")},
        {"reward": job.reward.model_copy(update={"content_hash": "x"})},
        {"grpo": SETTINGS.model_copy(update={"temperature": 0.5})},
    ]
    found = {fingerprint_job(job.model_copy(update=other)) for other in others} | {fingerprint_job(job)}
    assert len(found) == 4
    elsewhere = job.model_copy(update={"reward": job.reward.model_copy(update={"folder": tmp_path})})
    assert fingerprint_job(elsewhere) == fingerprint_job(job)
