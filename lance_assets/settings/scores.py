"""Which scores of an evaluation decide: those of the headline, and floors for single ones."""

from typing import Self

from pydantic import Field, model_validator

from lance_assets.algorithms.measures.headline import ALL_TASKS, Wanted, name_metric, name_score
from lance_assets.settings.values import Settings


class ScoreSettings(Settings):
    """One score of the evaluation."""

    benchmark: str = Field(description="The world's name, a task of the harness, or 'judge'.")
    metric: str = Field(description="Such as 'greedy', or the harness's metric, such as 'exact_match'.")
    filter: str | None = Field(
        None, description="The harness's filter of the metric, such as 'flexible-extract'. None: the one named none."
    )
    task: str = Field(ALL_TASKS, description="A task of the world; 'all' for every task.")
    stratum: int | None = Field(None, description="A stratum of the world. None: every stratum.")

    @property
    def wanted(self) -> Wanted:
        """The score by the names of eval_report."""
        return Wanted(self.benchmark, name_metric(self.metric, self.filter), self.task, self.stratum)


class HeadlineSettings(ScoreSettings):
    """One score of the headline."""

    weight: float = Field(1.0, gt=0, description="Its weight in the mean of the headline's scores.")

    @property
    def wanted(self) -> Wanted:
        """The score by the names of eval_report, with its weight."""
        named = super().wanted
        return Wanted(named.benchmark, named.metric, named.task, named.stratum, self.weight)


class FloorSettings(ScoreSettings):
    """The worst that one score may become."""

    worst: float | None = Field(
        None, description="The worst score allowed: the smallest, or the largest where a lower one is better."
    )
    max_fall: float | None = Field(
        None, ge=0, description="The largest fall allowed from the best of the earlier rounds, in the score's unit."
    )

    @model_validator(mode="after")
    def _has_a_bar(self) -> Self:
        if self.worst is None and self.max_fall is None:
            raise ValueError(f"the floor of {name_score(self.wanted)} sets no bar; give it worst or max_fall")
        return self


def check_named_once(scores: tuple[ScoreSettings, ...], *, what: str) -> None:
    """No score is named twice.

    Raises:
        ValueError: one is.
    """
    names = [name_score(score.wanted) for score in scores]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{what} names {', '.join(twice)} twice; name each score once")
