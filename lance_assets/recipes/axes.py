"""The axes on which the loops differ: a recipe's parameters begin with them, and everything else of a round is shared.

| axis | choices |
| --- | --- |
| `starts_from` | what a round's training begins with: the `base` model, or the `previous` round's checkpoint |
| `trains_on` | whose rows it trains on: those of `all` rounds, of the `last_two`, or of the `latest` alone |
| `losses` | `sft`; `dpo`, `kto`, `orpo` or `simpo` on pairs; `grpo` on a reward; or SFT and then one of these |
| `sft_on_seeds` | whether the seeds are trained on, as r0000 does, or only proposed from |

What is proposed and from what is the recipe's `generate`, and the quality signal its `review`: a recipe file is these
functions in the order of the paper's algorithm, with the paper's constants as defaults. A loss's own settings, such as
its beta, are the section of its name under `training` (`resources.training.stage_settings`).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self, get_args

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lance_assets.algorithms.measures.progress import format_round, parse_round
from lance_assets.records import PAIR_LOSSES, SECOND_LOSSES, SamplingSettings, SecondLoss

StartsFrom = Literal["base", "previous"]
TrainsOn = Literal["all", "last_two", "latest"]
Losses = Literal[
    "sft",
    "dpo",
    "kto",
    "orpo",
    "simpo",
    "grpo",
    "sft_then_dpo",
    "sft_then_kto",
    "sft_then_orpo",
    "sft_then_simpo",
    "sft_then_grpo",
]
Proposals = Literal["template", "magpie", "magpie_seeded"]

LOSSES: dict[Losses, tuple[str, ...]] = {choice: tuple(choice.split("_then_")) for choice in get_args(Losses)}
"""The stages of training, in their order."""
ON_PAIRS: tuple[Losses, ...] = PAIR_LOSSES
"""The choices of a recipe whose rounds bring pairs and no SFT rows."""
SFT_THEN_PAIRS: tuple[Losses, ...] = tuple(
    choice for choice, stages in LOSSES.items() if len(stages) > 1 and stages[-1] in PAIR_LOSSES
)
"""The choices of one whose rounds bring both."""
ON_REWARDS: tuple[Losses, ...] = ("grpo", "sft_then_grpo")
"""The choices of one whose SFT rows have prompts that a completion may be right or wrong for."""

STARTS_FROM = "What a round's training begins with."
TRAINS_ON = "Whose rows a round trains on: all rounds', the last two's, or its own alone."
SFT_ON_SEEDS = (
    "Whether r0000 trains on the seeds, and later rounds on them as far as trains_on keeps r0000's rows. false: r0000 "
    "trains on the EFT rows alone; without any, its checkpoint is the base model."
)
TRAINED_LOSSES = (
    "The stages of a round's training; with 'sft' or GRPO no pairs are built. training has a section for each stage."
)


class AxisSettings(BaseModel):
    """What the parameters of every recipe have; each recipe's own defaults are its paper's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    usable_losses: ClassVar[tuple[Losses, ...]] = get_args(Losses)
    """The choices that a recipe has data for."""

    starts_from: StartsFrom = Field("previous", description=STARTS_FROM)
    trains_on: TrainsOn = Field("all", description=TRAINS_ON)
    losses: Losses = Field("sft_then_dpo", description=TRAINED_LOSSES)
    sft_on_seeds: bool = Field(True, description=SFT_ON_SEEDS)

    @model_validator(mode="after")
    def _has_data_for_its_losses(self) -> Self:
        if self.losses not in self.usable_losses:
            usable = " or ".join(self.usable_losses)
            raise ValueError(f"losses: {self.losses}: this recipe has no data for it; use {usable}")
        return self

    @property
    def second_loss(self) -> SecondLoss | None:
        """The loss that follows SFT, or stands in its place; None for SFT alone."""
        return next((loss for loss in SECOND_LOSSES if loss in LOSSES[self.losses]), None)

    @property
    def builds_pairs(self) -> bool:
        """Whether preference pairs are built."""
        return self.second_loss in PAIR_LOSSES

    @property
    def losses_by_data(self) -> str:
        """`losses` with DPO in the place of any loss on pairs: what a round builds is the same for all of them."""
        if not self.builds_pairs:
            return "sft"
        return "_then_".join("dpo" if stage in PAIR_LOSSES else stage for stage in LOSSES[self.losses])

    @property
    def judges_pairs(self) -> bool:
        """Whether preference_pairs asks a model."""
        return False

    @property
    def reads_states(self) -> bool:
        """Whether `generate` reads rows or texts with a model (`RoundInputs.read_states`)."""
        return False

    @property
    def reviews_by_reading(self) -> bool:
        """Whether `review` and `score_rows` read rows with the round's model, in place of asking for reviews."""
        return False

    @property
    def has_reviews(self) -> bool:
        """Whether a round's rows are scored, so that a row without a score is a fault."""
        return True

    @property
    def has_scale(self) -> bool:
        """Whether reviews score on a scale, so that scores which are all the same are a fault; a verdict has two."""
        return self.has_reviews

    @property
    def trains_model(self) -> bool:
        """Whether rounds train a checkpoint; without it a round's sets are all that it brings."""
        return True

    @property
    def trains_without_news(self) -> bool:
        """Whether a round trains where it brought nothing new."""
        return False


class StageSampling(BaseModel):
    """How one stage of asking samples where it differs; a field that is left out is as everywhere else."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float | None = Field(None, ge=0, le=5, description="Sampling temperature; 0 is greedy.")
    top_p: float | None = Field(None, gt=0, le=1, description="Nucleus mass.")
    max_new_tokens: int | None = Field(None, ge=1, description="Tokens after which a sample is cut.")
    repetition_penalty: float | None = Field(None, gt=0, le=10, description="Penalty on repeated tokens; 1 is none.")

    stop: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        None,
        max_length=4,
        description="Texts that end a sample and are no part of it. A server of the OpenAI API takes four at most.",
    )

    def apply(self, sampling: SamplingSettings) -> SamplingSettings:
        """The settings with what this stage says in place of theirs."""
        return replace(sampling, **self.model_dump(exclude_none=True))


SAMPLING = ("temperature", "top_p", "max_new_tokens", "repetition_penalty", "stages")
"""The settings that say how stages are sampled."""


class RecipeSettings(AxisSettings):
    """What the parameters of a recipe have that asks a model; one that samples nothing has `AxisSettings` alone."""

    own_stages: ClassVar[Mapping[str, StageSampling]] = {}
    """How the paper samples single stages; what an experiment's file says of a stage comes before it."""

    temperature: float = Field(0.7, ge=0, le=5, description="Sampling temperature of every step.")
    top_p: float = Field(0.9, gt=0, le=1, description="Nucleus mass of every step.")
    max_new_tokens: int = Field(512, ge=1, description="Tokens after which a sample is cut.")
    repetition_penalty: float = Field(
        1.0, gt=0, le=10, description="Penalty on tokens of the prompt and of what was written; 1 is none."
    )
    stages: Mapping[str, StageSampling] = Field(
        default_factory=dict,
        validate_default=True,
        description="Sampling of single stages of asking, by the recipe's names of them: temperature, top_p, "
        "max_new_tokens and repetition_penalty, each where it differs from the above, and stop.",
    )

    @field_validator("stages")
    @classmethod
    def _begin_with_the_papers(cls, stages: Mapping[str, StageSampling]) -> Mapping[str, StageSampling]:
        """The paper's sampling of each stage under the file's, so that what is shown and kept is what is used."""
        given = {name: own.model_dump(exclude_none=True) for name, own in stages.items()}
        papers = {name: own.model_dump(exclude_none=True) for name, own in cls.own_stages.items()}
        names = dict.fromkeys([*papers, *given])
        return {name: StageSampling(**(papers.get(name, {}) | given.get(name, {}))) for name in names}

    @property
    def sampling(self) -> SamplingSettings:
        """How every step samples that says nothing else."""
        return SamplingSettings(
            self.temperature, self.top_p, self.max_new_tokens, repetition_penalty=self.repetition_penalty
        )


class ScoredSettings(RecipeSettings):
    """What the parameters of a recipe have whose reviewer scores on a scale.

    The scale is a number's; the criteria are words, and lie with the prompt templates.
    """

    scores: ClassVar[tuple[str, ...]] = ()
    """The settings that are scores, and so have to lie on the scale."""
    gaps: ClassVar[tuple[str, ...]] = ()
    """The settings that are differences of two scores."""

    lowest_score: int = Field(0, ge=0, le=9, description="The lowest score that a reviewer may give.")
    highest_score: int = Field(10, ge=1, le=10, description="The highest score that a reviewer may give.")
    force_ending: bool = Field(
        True,
        description="Whether a review that was cut or has no score is made to end in one: the model goes on from "
        "'score: ', and the probabilities of the scale's numbers there count.",
    )

    @property
    def scale(self) -> tuple[float, float]:
        """The lowest and the highest score."""
        return float(self.lowest_score), float(self.highest_score)

    @model_validator(mode="after")
    def _has_its_scores_on_the_scale(self) -> Self:
        low, high = self.lowest_score, self.highest_score
        if low >= high:
            raise ValueError(f"lowest_score: {low} has to be below highest_score: {high}")
        for name in self.scores:
            if not low <= (value := getattr(self, name)) <= high:
                raise ValueError(f"{name}: {value:g} is no score on the scale {low} to {high}; set one that is")
        for name in self.gaps:
            if (value := getattr(self, name)) > high - low:
                raise ValueError(f"{name}: {value:g} is more than two scores from {low} to {high} can differ; lower it")
        return self


class ProposingSettings(ScoredSettings):
    """What the parameters of a recipe have that proposes prompts from seeds and scores their completions."""

    proposals: Proposals = Field(
        "template",
        description="How new prompts are proposed: asked for by the template; or written by the model as the user's "
        "turn of its own chat template, after nothing (magpie) or after the seed and others (magpie_seeded).",
    )


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
