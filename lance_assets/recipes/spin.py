"""SPIN: a model learns to distinguish the seeds' completions from its own, by preference training (arXiv 2401.01335).

One round, with the round's model M, which the round before trained:

    propose     M completes every seed prompt (sampled at temperature 1)
    signal      none: the seed's completion is chosen, M's own is rejected
    pairs       one a seed, of this round and the round before
    train       DPO from M, with M as the reference

Round r0000 is SFT on the seeds, which the paper's zephyr-7b-sft-full has behind it. Constants are those of the paper
and of the authors' configurations (uclaml/SPIN).

Differences from the authors' code:

1.  An own completion that is the seed's but for case, spaces and punctuation at its ends makes no pair; nor does one
    that was cut off, is empty, or has an evaluation's prompt.
2.  Learning rate and beta are the experiment's. Their configurations lower the rate from the third iteration on, and
    raise beta to 5 in the last: `training.by_round` can say so (`docs/methods/spin.md`), and by default does not.
3.  AdamW in place of RMSprop.

Unknown: epochs an iteration (2 in the paper, 3 in the configurations, 6 in the scripts), so the experiment says.
"""

from typing import ClassVar

import polars as pl
from pydantic import Field

from lance_assets.algorithms.filters.contract import Filter
from lance_assets.algorithms.filters.rules import Complete, EvaluationOverlap, SameAsSeed
from lance_assets.algorithms.selection.pairing import build_self_play_pairs
from lance_assets.recipes.axes import ON_PAIRS, Losses, RecipeSettings, StartsFrom, TrainsOn, keep_rounds
from lance_assets.recipes.contract import Recipe, RoundInputs, Stage, list_no_prompts
from lance_assets.recipes.forecasts.self_play import forecast_self_play
from lance_assets.recipes.steps.rows import (
    Seed,
    build_reviewed_row,
    build_table,
    complete_prompts,
    read_kept,
    read_rows,
)
from lance_assets.recipes.steps.sets import build_no_sft_rows, start_sft_set, take_file_seeds
from lance_assets.records import PREFERENCE_PAIRS, RAW_GENERATIONS, REVIEWED_SET


class SpinSettings(RecipeSettings):
    """SPIN's parameters; the defaults are the paper's constants."""

    usable_losses: ClassVar[tuple[Losses, ...]] = ON_PAIRS

    starts_from: StartsFrom = "previous"
    trains_on: TrainsOn = "last_two"
    losses: Losses = "dpo"
    temperature: float = Field(1.0, ge=0, le=5, description="Sampling temperature of the own completions.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass of the own completions.")
    max_new_tokens: int = Field(256, ge=1, description="Tokens after which an own completion is cut.")
    max_seeds: int | None = Field(None, ge=1, description="Seeds completed each round; none takes all.")

    @property
    def has_reviews(self) -> bool:
        """Nothing is reviewed: who wrote a completion is the signal."""
        return False


Inputs = RoundInputs[SpinSettings]


def generate(inputs: Inputs, seeds: pl.DataFrame, trained: pl.DataFrame) -> pl.DataFrame:
    """M's own completion of every seed prompt, schema `RAW_GENERATIONS`."""
    rows = complete_prompts(inputs.identity, inputs.ask, read_rows(Seed, seeds), stage="own_completion")
    return build_table(rows, RAW_GENERATIONS)


def list_filters(settings: SpinSettings) -> list[Filter]:
    """Drop what cannot be a rejected completion."""
    return [Complete(), EvaluationOverlap(), SameAsSeed()]


def review(inputs: Inputs, cleaned: pl.DataFrame, seeds: pl.DataFrame, raw_generations: pl.DataFrame) -> pl.DataFrame:
    """Seeds and own completions side by side, without scores. Schema `REVIEWED_SET`."""
    of_seeds = [build_reviewed_row(seed) for seed in read_rows(Seed, seeds)]
    return build_table(of_seeds + [build_reviewed_row(row) for row in read_kept(cleaned)], REVIEWED_SET)


def build_pairs(inputs: Inputs, reviewed: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """The seeds' completions against M's own, this round's and those that `trains_on` keeps."""
    pairs = build_self_play_pairs(reviewed, round_key=inputs.round_key)
    kept = keep_rounds(earlier, trains_on=inputs.settings.trains_on, round_key=inputs.round_key)
    return pl.concat([pairs, kept.cast(PREFERENCE_PAIRS)])


RECIPE: Recipe[SpinSettings] = Recipe(
    name="spin",
    settings=SpinSettings,
    stages=(Stage("own_completion", asked_in="raw_generations"),),
    settings_of_step={
        "seed_set": ("max_seeds",),
        "sft_set": ("sft_on_seeds",),
        "preference_pairs": ("trains_on", "losses"),
        "checkpoint": ("starts_from",),
    },
    build_seed_set=take_file_seeds,
    start_sft_set=start_sft_set,
    generate=generate,
    list_filters=list_filters,
    review=review,
    build_sft_set=build_no_sft_rows,
    build_pairs=build_pairs,
    list_prompts=list_no_prompts,
    forecast=forecast_self_play(lambda settings: settings.max_seeds),
)
