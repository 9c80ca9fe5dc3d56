"""Self-Rewarding: a model completes new prompts, scores its completions, and prefers its best (arXiv 2401.10020).

One round, with the round's model M, which the round before trained:

    propose     new prompts in the manner of eight seeds, by a fixed prompter; M writes 4 completions of each
    signal      M scores every completion 0 to 5, three times; the mean is its review score
    pairs       each prompt's best completion against its worst, unless they tie
    train       DPO from M on the pairs of this round alone

Round r0000 is SFT on the seeds (IFT) and on examples of scoring (EFT), the paper's M1. Constants are the paper's.

Differences:

1.  The prompter is the role `prompter`; without one M writes the prompts. The paper's is a fixed Llama-2-Chat-70B,
    sampled at temperature 0.6.
2.  A review that cannot be read leaves its row out of the mean, and a completion without any score out of the pairs.
3.  Prompts and completions are cleaned as LANCE's are, against this and all earlier rounds: completions of one prompt
    that are alike are dropped too. There is no list of keywords.
4.  Learning rates, epochs and beta are the experiment's; no checkpoint within a round is chosen by a judge.
5.  `highest_score` may be another than 5; the paper's points are then worded as one score. The compact templates show
    one seed alone, and name a scale that is not the small model's 10.

Unknown, and chosen here: how reviews are sampled, the longest completion (512 tokens), the bounds of lengths.
"""

from typing import ClassVar

import polars as pl
from pydantic import Field

from lance_assets.algorithms.selection.pairing import build_best_worst_pairs
from lance_assets.recipes import steps
from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.axes import Losses, RecipeSettings, StartsFrom, TrainsOn, keep_rounds
from lance_assets.recipes.reviewing import Rubric
from lance_assets.recipes.steps import build_reviewed_row, complete_new_prompts, propose_in_manner_of, review_rows
from lance_assets.records import PREFERENCE_PAIRS, RAW_GENERATIONS, REVIEWED_SET, Ask


class SelfRewardingSettings(RecipeSettings):
    """Self-Rewarding's parameters; the defaults are the paper's constants."""

    usable_losses: ClassVar[tuple[Losses, ...]] = ("dpo",)

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
    highest_score: int = Field(5, ge=1, le=10, description="The scale's upper end; 0 is the lower.")
    rouge_l_threshold: float = Field(0.70, ge=0, le=1, description="Two texts above it are near-duplicates.")
    min_prompt_words: int = Field(3, ge=0, description="Shortest new prompt, in words.")
    min_completion_words: int = Field(1, ge=0, description="Shortest completion, in words.")
    max_words: int = Field(4096, ge=1, description="Longest prompt or completion, in words.")

    @property
    def rubric(self) -> Rubric:
        """What a review is asked for."""
        return Rubric("self_rewarding/review", 0, self.highest_score)


SETTINGS = SelfRewardingSettings
ROLES = ("prompter", "reviewer")
ROLE_OF_STAGE = {"new_prompt": "prompter", "review": "reviewer"}
SETTINGS_OF_JUDGING = ()
SETTINGS_OF_STEP: dict[str, tuple[str, ...]] = {
    "seed_set": ("max_seeds",),
    "raw_generations": ("num_examples", "num_prompts", "num_completions", "temperature", "top_p", "max_new_tokens"),
    "cleaned_set": ("rouge_l_threshold", "min_prompt_words", "min_completion_words", "max_words"),
    "reviewed_set": ("num_reviews", "highest_score", "temperature", "top_p", "max_new_tokens"),
    "preference_pairs": ("trains_on", "losses"),
    "checkpoint": ("starts_from",),
}

build_seed_set = steps.take_file_seeds
clean = steps.clean_by_words
start_sft_set = steps.start_sft_set
build_sft_set = steps.build_no_sft_rows


def generate(
    seeds: pl.DataFrame, *, settings: SelfRewardingSettings, identity: RoundIdentity, ask: Ask, **_: object
) -> pl.DataFrame:
    """New prompts and their completions, schema `RAW_GENERATIONS`."""
    new_prompts = propose_in_manner_of(
        identity.of_role("prompter"),
        ask,
        seeds.to_dicts(),
        step="self_rewarding/new_prompt",
        num_examples=settings.num_examples,
        num_samples=settings.num_prompts,
    )
    completions = complete_new_prompts(identity, ask, new_prompts, settings.num_completions)
    return pl.DataFrame(new_prompts + completions, schema=RAW_GENERATIONS)


def review(
    cleaned: pl.DataFrame,
    seeds: pl.DataFrame,
    raw_generations: pl.DataFrame,
    *,
    settings: SelfRewardingSettings,
    identity: RoundIdentity,
    ask: Ask,
) -> pl.DataFrame:
    """M's own scores of its completions, schema `REVIEWED_SET`."""
    del seeds, raw_generations
    kept = cleaned.filter(pl.col("drop_reason").is_null() & (pl.col("kind") == "completion")).to_dicts()
    reviews = review_rows(
        identity, ask, kept, rubric=settings.rubric, num_reviews=settings.num_reviews, sampling=settings.sampling
    )
    rows = [
        build_reviewed_row(row, branch="low", texts=texts, result=result)
        for row, (texts, result) in zip(kept, reviews, strict=True)
    ]
    return pl.DataFrame(rows, schema=REVIEWED_SET)


def build_pairs(
    reviewed: pl.DataFrame, earlier: pl.DataFrame, *, settings: SelfRewardingSettings, round_key: str
) -> pl.DataFrame:
    """Each prompt's best completion against its worst, schema `PREFERENCE_PAIRS`."""
    pairs = build_best_worst_pairs(reviewed, round_key=round_key)
    kept = keep_rounds(earlier, trains_on=settings.trains_on, round_key=round_key)
    return pl.concat([pairs, kept.cast(PREFERENCE_PAIRS)])
