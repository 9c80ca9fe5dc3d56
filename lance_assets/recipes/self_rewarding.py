"""Self-Rewarding: a model completes new prompts, scores its completions, and prefers its best (arXiv 2401.10020).

One round, with the round's model M, which the round before trained:

    propose     new prompts in the manner of eight seeds, by a fixed prompter; M writes 4 completions of each
    signal      M scores every completion 0 to 5, three times; the mean is its review score
    pairs       each prompt's best completion against its worst, unless they tie
    train       DPO from M on the pairs of this round alone

Round r0000 is SFT on the seeds (IFT) and on examples of scoring (EFT), the paper's M1. Constants are the paper's.

Differences:

1.  The prompter is the role `prompter`; without one M writes the prompts. The paper's is a fixed Llama-2-Chat-70B. Its
    temperature of 0.6 is the default of the stage `new_prompt`.
2.  A review that cannot be read leaves its row out of the mean, and a completion without any score out of the pairs.
3.  Prompts and completions are cleaned as LANCE's are, against this and all earlier rounds: completions of one prompt
    that are alike are dropped too. There is no list of keywords.
4.  Learning rates, epochs and beta are the experiment's; no checkpoint within a round is chosen by a judge.
5.  The scale may be another than 0 to 5; the paper's points are then worded as one score. The compact templates show
    one seed alone, and name a scale that is not the small model's 0 to 10.

Unknown, and chosen here: how reviews are sampled, the longest completion (512 tokens), the bounds of lengths.
"""

from collections.abc import Mapping
from typing import ClassVar

import polars as pl
from pydantic import Field

from lance_assets.algorithms.selection.pairing import build_best_worst_pairs
from lance_assets.prompts import PromptStep
from lance_assets.recipes.axes import (
    ON_PAIRS,
    Losses,
    ProposingSettings,
    StageSampling,
    StartsFrom,
    TrainsOn,
    keep_rounds,
)
from lance_assets.recipes.contract import Recipe, RoundInputs, Stage
from lance_assets.recipes.forecasts.proposing import SELF_REWARDING, Proposing, forecast_proposing
from lance_assets.recipes.steps.reviewing import Rubric, build_ending_sampling, build_review_sampling, follow_settings
from lance_assets.recipes.steps.rows import (
    Seed,
    build_table,
    complete_new_prompts,
    find_kept,
    read_rows,
)
from lance_assets.recipes.steps.sets import (
    build_no_sft_rows,
    filter_by_words,
    score_by_rubric,
    start_sft_set,
    take_file_seeds,
)
from lance_assets.recipes.steps.user_turns import propose_prompts
from lance_assets.records import PREFERENCE_PAIRS, RAW_GENERATIONS, SamplingSettings


class SelfRewardingSettings(ProposingSettings):
    """Self-Rewarding's parameters; the defaults are the paper's constants."""

    usable_losses: ClassVar[tuple[Losses, ...]] = ON_PAIRS
    own_stages: ClassVar[Mapping[str, StageSampling]] = {"new_prompt": StageSampling(temperature=0.6)}

    starts_from: StartsFrom = "previous"
    trains_on: TrainsOn = "latest"
    losses: Losses = "dpo"
    max_seeds: int | None = Field(None, ge=1, description="Seeds that a round's prompts are modelled on; none: all.")
    num_examples: int = Field(
        8, ge=1, le=32, description="Seeds shown for one new prompt; the compact templates show one."
    )
    num_prompts: int = Field(1, ge=1, le=64, description="New prompts sampled for each seed.")
    num_completions: int = Field(4, ge=2, le=64, description="Completions sampled for each new prompt (N).")
    num_reviews: int = Field(3, ge=1, le=16, description="Reviews of each completion; the mean is its review score.")
    highest_score: int = Field(5, ge=1, le=10, description="The highest score that a reviewer may give.")
    rouge_l_threshold: float = Field(0.70, ge=0, le=1, description="Two texts above it are near-duplicates.")
    min_prompt_words: int = Field(3, ge=0, description="Shortest new prompt, in words.")
    min_completion_words: int = Field(1, ge=0, description="Shortest completion, in words.")
    max_words: int = Field(4096, ge=1, description="Longest prompt or completion, in words.")

    @property
    def rubric(self) -> Rubric:
        """What a review is asked for."""
        return Rubric("self_rewarding/review", self.lowest_score, self.highest_score)


Inputs = RoundInputs[SelfRewardingSettings]


def sample_reviews(settings: SelfRewardingSettings) -> SamplingSettings:
    """How completions are reviewed."""
    return build_review_sampling(settings.sampling, settings.rubric, score_from="text")


def sample_endings(settings: SelfRewardingSettings) -> SamplingSettings:
    """How the endings of reviews are forced."""
    return build_ending_sampling(settings.rubric)


def generate(inputs: Inputs, seeds: pl.DataFrame, trained: pl.DataFrame) -> pl.DataFrame:
    """New prompts and their completions, schema `RAW_GENERATIONS`."""
    settings = inputs.settings
    new_prompts = propose_prompts(
        inputs.identity.of_role("prompter"),
        inputs.ask,
        read_rows(Seed, seeds),
        step="self_rewarding/new_prompt",
        num_examples=inputs.settings.num_examples,
        num_samples=inputs.settings.num_prompts,
        proposals=inputs.settings.proposals,
    )
    completions = complete_new_prompts(inputs.identity, inputs.ask, new_prompts, settings.num_completions)
    return build_table(new_prompts + completions, RAW_GENERATIONS)


def review(inputs: Inputs, cleaned: pl.DataFrame, seeds: pl.DataFrame, raw_generations: pl.DataFrame) -> pl.DataFrame:
    """M's own scores of its completions, schema `REVIEWED_SET`."""
    return score_by_rubric(inputs, find_kept(cleaned, kinds=("completion",)))


def build_pairs(inputs: Inputs, reviewed: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """Each prompt's best completion against its worst, schema `PREFERENCE_PAIRS`."""
    pairs = build_best_worst_pairs(reviewed, round_key=inputs.round_key)
    kept = keep_rounds(earlier, trains_on=inputs.settings.trains_on, round_key=inputs.round_key)
    return pl.concat([pairs, kept.cast(PREFERENCE_PAIRS)])


def list_prompts(settings: SelfRewardingSettings) -> tuple[PromptStep, ...]:
    """What the prompter and M are asked with."""
    both = ("prompt", "completion")
    return (
        PromptStep("new_prompt", ("raw_generations",), (), (*both, "examples"), {}, settings.proposals == "template"),
        PromptStep("review", ("reviewed_set",), both, given=settings.rubric.scale),
    )


def describe(settings: SelfRewardingSettings) -> Proposing:
    """What a plan reads of the settings."""
    sizes = (settings.num_prompts, settings.num_completions, settings.num_reviews)
    return Proposing(settings.max_seeds, *sizes, prompter="prompter")


RECIPE: Recipe[SelfRewardingSettings] = Recipe(
    name="self_rewarding",
    settings=SelfRewardingSettings,
    stages=(
        Stage("new_prompt", role="prompter", asked_in="raw_generations"),
        Stage("completion", asked_in="raw_generations", mixes=True),
        Stage(
            "review",
            role="reviewer",
            sampling=sample_reviews,
            follow_up=follow_settings("review"),
            asked_in="reviewed_set",
        ),
        Stage("review_ending", role="reviewer", sampling=sample_endings, asked_in="reviewed_set"),
    ),
    settings_of_step={
        "seed_set": ("max_seeds",),
        "raw_generations": ("num_examples", "num_prompts", "num_completions", "proposals"),
        "cleaned_set": ("rouge_l_threshold", "min_prompt_words", "min_completion_words", "max_words"),
        "reviewed_set": ("num_reviews", "lowest_score", "highest_score", "force_ending"),
        "sft_set": ("sft_on_seeds",),
        "preference_pairs": ("trains_on", "losses"),
        "checkpoint": ("starts_from",),
    },
    build_seed_set=take_file_seeds,
    start_sft_set=start_sft_set,
    generate=generate,
    list_filters=filter_by_words,
    review=review,
    score_rows=score_by_rubric,
    build_sft_set=build_no_sft_rows,
    build_pairs=build_pairs,
    list_prompts=list_prompts,
    forecast=forecast_proposing(
        SELF_REWARDING, describe, pairs=True, words={"review": "reviewer", "new_prompt": "prompter"}
    ),
)
