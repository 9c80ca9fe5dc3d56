"""I-SHEEP: a model's own prompts and completions, where it scores them well, train the base model (arXiv 2408.08072).

One round, with the round's model M, which the round before trained:

    propose     M writes new prompts in the manner of some seeds, and one completion of each
    signal      M scores every completion; those at or above the bar are accepted
    train       SFT of the base model on what this round accepted

Round r0000 is the base model as it is: the seeds are shown, never trained on. The authors' code is not public.

Differences:

1.  Quality and instruction following are one score of 0 to 10; the paper has either or both.
2.  A completion without a readable score is left out.
3.  Prompts and completions are cleaned as LANCE's are, against this and all earlier rounds.
4.  EFT rows (examples of reviewing and proposing) are trained on in every round, r0000 too, where the experiment has
    them; the paper has none.

Unknown, and chosen here: the bar (8 of 10), the number of seeds shown (3; the compact templates show one), sampling
(temperature 0.7, nucleus 0.9).
"""

from typing import ClassVar, Literal

import polars as pl
from pydantic import Field

from lance_assets.prompts import PromptStep
from lance_assets.recipes.axes import Losses, ProposingSettings, StartsFrom, TrainsOn, keep_rounds
from lance_assets.recipes.contract import Recipe, RoundInputs, Stage
from lance_assets.recipes.forecasts.proposing import I_SHEEP, Proposing, forecast_proposing
from lance_assets.recipes.steps.reviewing import Rubric, build_ending_sampling, build_review_sampling, follow_settings
from lance_assets.recipes.steps.rows import (
    Seed,
    build_table,
    complete_new_prompts,
    find_kept,
    read_rows,
)
from lance_assets.recipes.steps.sets import (
    build_no_pairs,
    filter_by_words,
    reviewed_as_sft_rows,
    score_by_rubric,
    take_file_seeds,
)
from lance_assets.recipes.steps.user_turns import propose_prompts
from lance_assets.records import RAW_GENERATIONS, SFT_SET, SamplingSettings

_ROUNDING = 1e-9
"""Scores are means of several reviews: 5.199... of 2.2 and 8.2 is 5.2."""


class ISheepSettings(ProposingSettings):
    """I-SHEEP's parameters."""

    usable_losses: ClassVar[tuple[Losses, ...]] = ("sft",)
    scores: ClassVar[tuple[str, ...]] = ("accept_score",)

    starts_from: StartsFrom = "base"
    trains_on: TrainsOn = "latest"
    losses: Losses = "sft"
    sft_on_seeds: Literal[False] = Field(False, description="The seeds are shown and never trained on.")
    max_seeds: int | None = Field(None, ge=1, description="Seeds that a round's prompts are modelled on; none: all.")
    num_examples: int = Field(
        3, ge=1, le=32, description="Seeds shown for one new prompt; the compact templates show one."
    )
    num_prompts: int = Field(4, ge=1, le=64, description="New prompts sampled for each seed.")
    num_reviews: int = Field(1, ge=1, le=16, description="Reviews of each completion; the mean is its review score.")
    accept_score: float = Field(8.0, ge=0, le=10, description="A completion scoring this or more is accepted (C).")
    rouge_l_threshold: float = Field(0.70, ge=0, le=1, description="Two texts above it are near-duplicates.")
    min_prompt_words: int = Field(3, ge=0, description="Shortest new prompt, in words.")
    min_completion_words: int = Field(1, ge=0, description="Shortest completion, in words.")
    max_words: int = Field(4096, ge=1, description="Longest prompt or completion, in words.")

    @property
    def rubric(self) -> Rubric:
        """What a review is asked for."""
        return Rubric("i_sheep/review", self.lowest_score, self.highest_score)


Inputs = RoundInputs[ISheepSettings]


def sample_reviews(settings: ISheepSettings) -> SamplingSettings:
    """How completions are reviewed."""
    return build_review_sampling(settings.sampling, settings.rubric, score_from="text")


def start_sft_set(inputs: Inputs, seeds: pl.DataFrame, eft: pl.DataFrame) -> pl.DataFrame:
    """The EFT rows, where the experiment has them: the seeds are not trained on. Schema `SFT_SET`."""
    return eft


def sample_endings(settings: ISheepSettings) -> SamplingSettings:
    """How the endings of reviews are forced."""
    return build_ending_sampling(settings.rubric)


def generate(inputs: Inputs, seeds: pl.DataFrame, trained: pl.DataFrame) -> pl.DataFrame:
    """New prompts, each with a completion, schema `RAW_GENERATIONS`."""
    new_prompts = propose_prompts(
        inputs.identity,
        inputs.ask,
        read_rows(Seed, seeds),
        step="i_sheep/new_prompt",
        num_examples=inputs.settings.num_examples,
        num_samples=inputs.settings.num_prompts,
        proposals=inputs.settings.proposals,
    )
    completions = complete_new_prompts(inputs.identity, inputs.ask, new_prompts, 1)
    return build_table(new_prompts + completions, RAW_GENERATIONS)


def review(inputs: Inputs, cleaned: pl.DataFrame, seeds: pl.DataFrame, raw_generations: pl.DataFrame) -> pl.DataFrame:
    """M's own score of every completion, schema `REVIEWED_SET`."""
    return score_by_rubric(inputs, find_kept(cleaned, kinds=("completion",)))


def build_sft_set(inputs: Inputs, reviewed: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """What this round accepted, the rows that `trains_on` keeps, and the EFT rows. Schema `SFT_SET`."""
    settings, round_key = inputs.settings, inputs.round_key
    accepted = reviewed.filter(pl.col("review_score") >= settings.accept_score - _ROUNDING)
    kept = keep_rounds(earlier, trains_on=settings.trains_on, round_key=round_key)
    eft = earlier.filter(pl.col("source") == "eft")
    rows = pl.concat([reviewed_as_sft_rows(accepted, round_key=round_key), kept, eft]).cast(SFT_SET)
    return rows.unique("row_id", maintain_order=True)


def list_prompts(settings: ISheepSettings) -> tuple[PromptStep, ...]:
    """What M is asked with."""
    both = ("prompt", "completion")
    return (
        PromptStep("new_prompt", ("raw_generations",), (), (*both, "examples"), {}, settings.proposals == "template"),
        PromptStep("review", ("reviewed_set",), both, given=settings.rubric.scale),
    )


def describe(settings: ISheepSettings) -> Proposing:
    """What a plan reads of the settings."""
    return Proposing(settings.max_seeds, settings.num_prompts, 1, settings.num_reviews)


RECIPE: Recipe[ISheepSettings] = Recipe(
    name="i_sheep",
    settings=ISheepSettings,
    stages=(
        Stage("new_prompt", asked_in="raw_generations"),
        Stage("completion", asked_in="raw_generations", mixes=True),
        Stage("review", sampling=sample_reviews, follow_up=follow_settings("review"), asked_in="reviewed_set"),
        Stage("review_ending", sampling=sample_endings, asked_in="reviewed_set"),
    ),
    settings_of_step={
        "seed_set": ("max_seeds",),
        "raw_generations": ("num_examples", "num_prompts", "proposals"),
        "cleaned_set": ("rouge_l_threshold", "min_prompt_words", "min_completion_words", "max_words"),
        "reviewed_set": ("num_reviews", "lowest_score", "highest_score", "force_ending"),
        "sft_set": ("accept_score", "trains_on", "sft_on_seeds"),
        "preference_pairs": ("losses",),
        "checkpoint": ("starts_from",),
    },
    build_seed_set=take_file_seeds,
    start_sft_set=start_sft_set,
    generate=generate,
    list_filters=filter_by_words,
    review=review,
    score_rows=score_by_rubric,
    build_sft_set=build_sft_set,
    build_pairs=build_no_pairs,
    list_prompts=list_prompts,
    forecast=forecast_proposing(I_SHEEP, describe, pairs=False, words={"review": "reviewer"}),
)
