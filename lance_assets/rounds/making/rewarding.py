"""GRPO in a round: the prompts whose reward can be told, where the reward comes from, and what was earned."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from lance_assets.algorithms.reviews.gold_answers import find_said_answer
from lance_assets.records import REWARD_PROMPTS, TRAINING_REWARDS
from lance_assets.rounds.gold import read_gold
from lance_assets.rounds.report import Losses, Report
from lance_assets.rounds.round import Round
from lance_assets.worlds import hash_world_file
from resources.training.stage_settings import AGREED, GOLD, REVIEW, RIGHT, ReviewSource, RewardSource


def trains_on_reward(this_round: Round) -> bool:
    """Whether a stage of this round's training is GRPO; r0000 is SFT alone, as it has no pairs either."""
    return not this_round.is_start and this_round.plan.settings.parameters.second_loss == "grpo"


def trains_sft(this_round: Round) -> bool:
    """Whether the SFT set is trained on; with GRPO alone it is only where the prompts come from."""
    return this_round.is_start or this_round.plan.settings.parameters.losses != "grpo"


def list_reward_prompts(this_round: Round, sft: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The table of the prompts that GRPO samples completions of; none where no stage is GRPO.

    Args:
        this_round: the round.
        sft: schema `SFT_SET`. Its prompts are asked in its order, each once; EFT rows ask for reviews and not for
            completions, and are left out.
    """
    if not trains_on_reward(this_round):
        return {}
    plan, gold = this_round.plan, read_gold(this_round)
    name, world = plan.settings.training.grpo.reward, plan.world
    rows = []
    for row_id, prompt, completion in (
        sft.filter(pl.col("source") != "eft")
        .select("row_id", "prompt", "completion")
        .unique("prompt", maintain_order=True)
        .iter_rows()
    ):
        answer = gold[prompt] if prompt in gold else None
        if name == AGREED:
            answer = find_said_answer(completion, mark=plan.settings.reward_mark)
        is_problem = world is not None and world.read_prompt(prompt) is not None
        # A review and a person's function can tell of any prompt.
        if is_problem if name == RIGHT else answer is not None or name not in (GOLD, AGREED):
            rows.append({"row_id": row_id, "prompt": prompt, "answer": answer})
    return {"reward_prompts": pl.DataFrame(rows, schema=REWARD_PROMPTS)}


def read_reward_prompts(this_round: Round) -> pl.DataFrame:
    """The prompts of the round that have a reward; no rows where no stage is GRPO."""
    return this_round.read("reward_prompts") if trains_on_reward(this_round) else this_round.empty("reward_prompts")


def describe_reward(this_round: Round) -> dict[str, Any]:
    """What a job is told of its prompts and their reward; nothing where no stage is GRPO."""
    if not trains_on_reward(this_round):
        return {}
    plan = this_round.plan
    name, world = plan.settings.training.grpo.reward, plan.settings.evaluation.world
    if name == REVIEW:
        review, content_hash = describe_review(this_round)
        source = RewardSource(name=name, folder=plan.folder, content_hash=content_hash, review=review)
    else:
        source = RewardSource(
            name=name,
            world=world.name if world is not None and name == RIGHT else None,
            folder=plan.folder,
            mark=plan.settings.reward_mark,
            content_hash=hash_world_file(world.name if world is not None and name == RIGHT else name, plan.folder),
        )
    path = this_round.platform.tables.path(plan.name, this_round.key, "reward_prompts")
    return {"prompts_path": path, "reward": source}


def describe_review(this_round: Round) -> tuple[ReviewSource, str | None]:
    """What the reviewer is asked of a completion, with the hash of a second model: the role reviewer, if there is one.

    Without it the model that is trained reviews its own completions.
    """
    plan, roles = this_round.plan, this_round.plan.settings.roles
    rubric, grpo = plan.rubric, plan.settings.training.grpo
    assert rubric is not None, "checked when the experiment loads"
    templates = plan.role_templates["reviewer"] if "reviewer" in plan.role_templates else plan.templates
    asked: dict[str, Any] = {"profile": templates.profile, "recipe": templates.recipe, "own": dict(templates.own)}
    asked |= {"step": rubric.step, "lowest": rubric.lowest, "highest": rubric.highest}
    asked["max_review_tokens"] = grpo.max_review_tokens
    if "reviewer" not in roles:
        return ReviewSource(**asked, batch_size=plan.settings.engine.batch_size), None
    role = roles["reviewer"]
    model, fingerprint = this_round.platform.find_role_model(role, base=plan.folder)
    if role.engine.openai is not None and role.engine.kind == "openai":
        return ReviewSource(**asked, server=role.engine.openai.model_dump(exclude={"load_adapters"})), fingerprint
    engine = role.engine.model_dump(include={"batch_size", "device", "dtype"})
    return ReviewSource(**asked, model=model, **engine), fingerprint


def build_rewards(steps: Sequence[Mapping[str, float]]) -> pl.DataFrame:
    """What was earned, by step. Schema `TRAINING_REWARDS`."""
    return pl.DataFrame([{**step, "step": int(step["step"])} for step in steps], schema=TRAINING_REWARDS)


def describe_rewards(steps: Sequence[Mapping[str, float]]) -> Report:
    """The mean reward of the first and last tenth of the steps, how many prompts taught nothing, and the curve."""
    rewards = [step["reward"] for step in steps]
    part = max(1, len(rewards) // 10)
    alike = sum(step["alike_rate"] for step in steps) / len(steps)
    return {
        "grpo_reward_first": round(sum(rewards[:part]) / part, 4),
        "grpo_reward_last": round(sum(rewards[-part:]) / part, 4),
        "grpo_alike_rate": round(alike, 4),
        "grpo_measures": Losses({}, measures={"GRPO reward (mean of the completions)": rewards}),
    }
