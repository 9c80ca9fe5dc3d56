"""The axes on which the loops differ: a recipe's parameters begin with them, and everything else of a round is shared.

| axis | choices |
| --- | --- |
| `starts_from` | what a round's training begins with: the `base` model, or the `previous` round's checkpoint |
| `trains_on` | whose rows it trains on: those of `all` rounds, of the `last_two`, or of the `latest` alone |
| `losses` | `sft`, `dpo`, or `sft_then_dpo` |

What is proposed and from what is the recipe's `generate`, and the quality signal its `review`: a recipe file is these
functions in the order of the paper's algorithm, with the paper's constants as defaults.
"""

from typing import ClassVar, Literal, Self, get_args

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lance_assets.algorithms.measures.progress import format_round, parse_round
from lance_assets.records import SamplingSettings

StartsFrom = Literal["base", "previous"]
TrainsOn = Literal["all", "last_two", "latest"]
Losses = Literal["sft", "dpo", "sft_then_dpo"]

LOSSES = {"sft": ("sft",), "dpo": ("dpo",), "sft_then_dpo": ("sft", "dpo")}
"""The stages of training, in their order."""

STARTS_FROM = "What a round's training begins with."
TRAINS_ON = "Whose rows a round trains on: all rounds', the last two's, or its own alone."
TRAINED_LOSSES = "The stages of a round's training; without 'dpo' no pairs are built."


class AxisSettings(BaseModel):
    """What the parameters of every recipe have; each recipe's own defaults are its paper's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    usable_losses: ClassVar[tuple[Losses, ...]] = get_args(Losses)
    """The choices that a recipe has data for."""

    starts_from: StartsFrom = Field("previous", description=STARTS_FROM)
    trains_on: TrainsOn = Field("all", description=TRAINS_ON)
    losses: Losses = Field("sft_then_dpo", description=TRAINED_LOSSES)

    @model_validator(mode="after")
    def _has_data_for_its_losses(self) -> Self:
        if self.losses not in self.usable_losses:
            usable = " or ".join(self.usable_losses)
            raise ValueError(f"losses: {self.losses}: this recipe has no data for it; use {usable}")
        return self

    @property
    def builds_pairs(self) -> bool:
        """Whether preference pairs are built."""
        return "dpo" in LOSSES[self.losses]

    @property
    def judges_pairs(self) -> bool:
        """Whether preference_pairs asks a model."""
        return False

    @property
    def has_reviews(self) -> bool:
        """Whether a round's rows are scored, so that a row without a score is a fault."""
        return True

    @property
    def trains_without_news(self) -> bool:
        """Whether a round trains where it brought nothing new."""
        return False


class RecipeSettings(AxisSettings):
    """What the parameters of a recipe have that asks a model; one that samples nothing has `AxisSettings` alone."""

    temperature: float = Field(0.7, ge=0, le=5, description="Sampling temperature of every step.")
    top_p: float = Field(0.9, gt=0, le=1, description="Nucleus mass of every step.")
    max_new_tokens: int = Field(512, ge=1, description="Tokens after which a sample is cut.")

    @property
    def sampling(self) -> SamplingSettings:
        """How every step samples that says nothing else."""
        return SamplingSettings(self.temperature, self.top_p, self.max_new_tokens)


def keep_rounds(earlier: pl.DataFrame, *, trains_on: TrainsOn, round_key: str) -> pl.DataFrame:
    """The rows of an earlier training set that a round trains on, beside its own.

    Args:
        earlier: the set of the round before, with the column `source_round`.
        trains_on: the axis.
        round_key: the round that trains.

    >>> earlier = pl.DataFrame({"source_round": ["r0000", "r0001"]})
    >>> keep_rounds(earlier, trains_on="last_two", round_key="r0002")["source_round"].to_list()
    ['r0001']
    """
    if trains_on == "all":
        return earlier
    if trains_on == "latest":
        return earlier.clear()
    previous = format_round(parse_round(round_key) - 1)
    return earlier.filter(pl.col("source_round") == previous)
