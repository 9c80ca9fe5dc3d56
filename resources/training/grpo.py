"""The stage that trains on a reward: GRPO by TRL's `GRPOTrainer`, which samples and trains in turns.

Source: DeepSeekMath (arXiv 2402.03300), section 4. For each prompt the model samples a group of completions, and each
completion's advantage is its reward less the group's mean, in standard deviations of the group. The loss is minus the
advantage times the ratio of the tokens' probabilities to those they were sampled with, clipped.

How it differs from the paper, as TRL 1.16 does by default:
1. The tokens of a batch count alike (`loss_type` dapo, arXiv 2503.14476), while in the paper each completion does, so
   that tokens of a long one weigh less.
2. There is no KL to a reference model unless `beta` is above 0; the paper has 0.04.
3. A batch is trained on once, so no ratio is ever clipped.

What is ours: prompts come as tokens (`resources.models.chat_format`), so that they are asked as everywhere else, and in
an order of ours (`order_prompts`), since TRL's sampler forgets in a stage that was killed which pass it was in. The
model samples with transformers' `generate` in float32 or autocast, as it is trained.
"""
# ruff: noqa: TID253 (runs in the trainer's process)

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from datasets import Dataset
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase, Trainer
from trl import GRPOConfig, GRPOTrainer

from lance_assets.prompts import build_messages
from resources.models.chat_format import encode_messages, require_turn_end
from resources.training.review_reward import ReviewReward
from resources.training.rewards import find_reward, score_batch, score_reviews
from resources.training.saving import build_lora, load_start
from resources.training.stage_settings import GrpoSettings
from resources.training.trainer import TrainJob


class TokenGRPOTrainer(GRPOTrainer):
    """GRPO on prompts that are tokens; the texts stand beside them, for the reward."""

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return prompts, None, {}


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping[str, Any]], system: str, settings: GrpoSettings
) -> tuple[list[dict[str, Any]], list[int]]:
    """Prompts as tokens with their texts and answers, and the tokens of each with its longest completion.

    Raises:
        ValueError: no prompt has room for a completion, one that the chat template cannot render, or a template without
            an end of the model's turn.
    """
    require_turn_end(tokenizer)
    encoded, lengths = [], []
    for place, row in enumerate(rows):
        try:
            tokens = list(encode_messages(tokenizer, build_messages(system, row["prompt"])))
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise ValueError(f"prompt {place}, {row['prompt'][:80]!r}, cannot be written as a chat: {error}") from error
        lengths.append(len(tokens) + settings.max_new_tokens)
        if lengths[-1] <= settings.max_length:
            encoded.append({"prompt": tokens, "question": row["prompt"], "answer": row["answer"]})
    if rows and not encoded:
        raise ValueError(
            f"no prompt leaves room for max_new_tokens={settings.max_new_tokens} within max_length="
            f"{settings.max_length} tokens; raise max_length, or lower max_new_tokens"
        )
    return encoded, lengths


def fit_batch(settings: GrpoSettings, num_prompts: int) -> GrpoSettings:
    """The settings with a batch of no more prompts than there are: TRL leaves out a batch that is not full."""
    most = num_prompts * settings.num_generations
    return settings if settings.batch_size <= most else settings.model_copy(update={"batch_size": most})


def order_prompts(
    encoded: Sequence[Mapping[str, Any]], settings: GrpoSettings, *, rng_seed: int
) -> list[Mapping[str, Any]]:
    """The prompts of all passes in the order they are asked, each pass in a new one; a batch of them at least."""
    rng, wanted = random.Random(rng_seed), round(settings.num_epochs * len(encoded))
    number = max(wanted, settings.batch_size // settings.num_generations)
    ordered: list[Mapping[str, Any]] = []
    while len(ordered) < number:
        ordered += rng.sample(list(encoded), len(encoded))
    return ordered[:number]


def build_grpo_trainer(
    job: TrainJob,
    settings: GrpoSettings,
    start: Path,
    encoded: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    arguments: Mapping[str, Any],
    loading: Mapping[str, Any] = MappingProxyType({}),
) -> Trainer:
    """The trainer of the job's prompts and reward.

    Args:
        job: what is trained.
        settings: GRPO's, with a batch that the prompts fill.
        start: the model that the stage begins with; with `beta` above 0 it is the reference.
        encoded: as `encode_prompts` gives them.
        tokenizer: the model's.
        arguments: what the configurations of all stages have in common.
        loading: further arguments of loading the model (`GpuChoices.loading`).

    Raises:
        ValueError: as `GrpoSettings.require_whole_groups_with_room`.
        WorldError, RewardError: there is no such reward.
    """
    settings.require_whole_groups_with_room()
    assert job.reward is not None, "a job with prompts has a reward"
    shared = {name: value for name, value in arguments.items() if name != "max_length"}
    config = GRPOConfig(
        **shared | {"num_train_epochs": 1.0, "shuffle_dataset": False},
        num_generations=settings.num_generations,
        max_completion_length=settings.max_new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        beta=settings.beta,
    )
    review = job.reward.review
    reviewer = ReviewReward(review) if review is not None else None
    score = score_batch(find_reward(job.reward), tokenizer) if reviewer is None else score_reviews(reviewer, tokenizer)
    trainer = TokenGRPOTrainer(
        load_start(start, job, getattr(torch, job.frozen_dtype), loading),
        reward_funcs=score,
        args=config,
        train_dataset=Dataset.from_list(order_prompts(encoded, settings, rng_seed=job.rng_seed)),
        processing_class=tokenizer,
        peft_config=build_lora(job),
    )
    if reviewer is not None:
        reviewer.follow(trainer.model, tokenizer)
    return trainer


def read_rewards(number: int, step: Mapping[str, float]) -> dict[str, float]:
    """A step's row of `TRAINING_REWARDS`, of what TRL logs of it."""
    return {
        "step": number,
        "reward": float(step["reward"]),
        "reward_std": float(step["reward_std"]),
        "alike_rate": float(step["frac_reward_zero_std"]),
        "completion_tokens": float(step["completions/mean_length"]),
        "cut_off_rate": float(step["completions/clipped_ratio"]),
    }
