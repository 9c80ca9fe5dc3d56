"""CLEAR's parameters."""

from typing import ClassVar, Literal

from pydantic import Field

from lance_assets.recipes.axes import Losses, ScoredSettings, StageSampling, StartsFrom
from lance_assets.recipes.steps.reviewing import Rubric


class ClearSettings(ScoredSettings):
    """CLEAR's parameters."""

    usable_losses: ClassVar[tuple[Losses, ...]] = ("sft",)
    own_stages: ClassVar = {"own_completion": StageSampling(temperature=0.0)}

    starts_from: StartsFrom = "base"
    trains_on: Literal["latest"] = Field("latest", description="The corrected set, which has every row that is used.")
    losses: Losses = "sft"
    sft_on_seeds: Literal[True] = Field(True, description="The seeds are the set that is corrected.")
    temperature: float = Field(1.0, ge=0, le=5, description="Sampling temperature of verdicts and reviews.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass of every step.")
    compares_by: Literal["verdict", "score"] = Field(
        "verdict", description="Whether the judge is shown both completions, or each of them is reviewed by itself."
    )
    num_votes: int = Field(3, ge=1, le=32, description="Verdicts in each order, or reviews of each completion.")
    min_confidence: float = Field(
        0.8, ge=0.5, le=1, description="Share of the votes with which an own completion replaces the set's (eta)."
    )

    @property
    def has_scale(self) -> bool:
        """A vote is for one completion or the other."""
        return False

    @property
    def rubric(self) -> Rubric:
        """What a review is asked for."""
        return Rubric("clear/review", self.lowest_score, self.highest_score)
