"""I-SHEEP: a model's own prompts and completions, where it scores them well, train the base anew (arXiv 2408.08072).

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

from typing import ClassVar

import polars as pl
from pydantic import Field

from lance_assets.recipes import steps
from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.axes import Losses, RecipeSettings, StartsFrom, TrainsOn, keep_rounds
from lance_assets.recipes.reviewing import Rubric
from lance_assets.recipes.steps import (
    build_reviewed_row,
    complete_new_prompts,
    propose_in_manner_of,
    review_rows,
    reviewed_as_sft_rows,
)
from lance_assets.records import RAW_GENERATIONS, REVIEWED_SET, SFT_SET, Ask

RUBRIC = Rubric("i_sheep/review", 0, 10)
_ROUNDING = 1e-9
"""Scores are means of several reviews: 5.199... of 2.2 and 8.2 is 5.2."""


class ISheepSettings(RecipeSettings):
    """I-SHEEP's parameters."""

    usable_losses: ClassVar[tuple[Losses, ...]] = ("sft",)

    starts_from: StartsFrom = "base"
    trains_on: TrainsOn = "latest"
    losses: Losses = "sft"
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


SETTINGS = ISheepSettings
ROLES = ()
ROLE_OF_STAGE: dict[str, str] = {}
SETTINGS_OF_JUDGING = ()
SETTINGS_OF_STEP: dict[str, tuple[str, ...]] = {
    "seed_set": ("max_seeds",),
    "raw_generations": ("num_examples", "num_prompts", "temperature", "top_p", "max_new_tokens"),
    "cleaned_set": ("rouge_l_threshold", "min_prompt_words", "min_completion_words", "max_words"),
    "reviewed_set": ("num_reviews", "temperature", "top_p", "max_new_tokens"),
    "sft_set": ("accept_score", "trains_on"),
    "preference_pairs": ("losses",),
    "checkpoint": ("starts_from",),
}

build_seed_set = steps.take_file_seeds
clean = steps.clean_by_words
build_pairs = steps.build_no_pairs


def start_sft_set(
    seeds: pl.DataFrame, eft: pl.DataFrame, *, settings: ISheepSettings, identity: RoundIdentity
) -> pl.DataFrame:
    """The EFT rows, where the experiment has them: the seeds are not trained on. Schema `SFT_SET`."""
    del seeds, settings, identity
    return eft


def generate(
    seeds: pl.DataFrame, *, settings: ISheepSettings, identity: RoundIdentity, ask: Ask, **_: object
) -> pl.DataFrame:
    """New prompts, each with a completion, schema `RAW_GENERATIONS`."""
    new_prompts = propose_in_manner_of(
        identity,
        ask,
        seeds.to_dicts(),
        step="i_sheep/new_prompt",
        num_examples=settings.num_examples,
        num_samples=settings.num_prompts,
    )
    completions = complete_new_prompts(identity, ask, new_prompts, 1)
    return pl.DataFrame(new_prompts + completions, schema=RAW_GENERATIONS)


def review(
    cleaned: pl.DataFrame,
    seeds: pl.DataFrame,
    raw_generations: pl.DataFrame,
    *,
    settings: ISheepSettings,
    identity: RoundIdentity,
    ask: Ask,
) -> pl.DataFrame:
    """M's own score of every completion, schema `REVIEWED_SET`."""
    del seeds, raw_generations
    kept = cleaned.filter(pl.col("drop_reason").is_null() & (pl.col("kind") == "completion")).to_dicts()
    reviews = review_rows(
        identity, ask, kept, rubric=RUBRIC, num_reviews=settings.num_reviews, sampling=settings.sampling
    )
    rows = [
        build_reviewed_row(row, branch="low", texts=texts, result=result)
        for row, (texts, result) in zip(kept, reviews, strict=True)
    ]
    return pl.DataFrame(rows, schema=REVIEWED_SET)


def build_sft_set(
    reviewed: pl.DataFrame, earlier: pl.DataFrame, *, settings: ISheepSettings, round_key: str
) -> pl.DataFrame:
    """What this round accepted, the rows that `trains_on` keeps, and the EFT rows. Schema `SFT_SET`."""
    accepted = reviewed.filter(pl.col("review_score") >= settings.accept_score - _ROUNDING)
    kept = keep_rounds(earlier, trains_on=settings.trains_on, round_key=round_key)
    eft = earlier.filter(pl.col("source") == "eft")
    rows = pl.concat([reviewed_as_sft_rows(accepted, round_key=round_key), kept, eft]).cast(SFT_SET)
    return rows.unique("row_id", maintain_order=True)
