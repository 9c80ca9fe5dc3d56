"""CLLM's parameters: the table, how rows are asked for, and how they are curated."""

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lance_assets.algorithms.tabular.boosting import Booster, require_booster
from lance_assets.algorithms.tabular.columns import Given, Kind
from lance_assets.algorithms.tabular.written_rows import RowFormat
from lance_assets.recipes.axes import Losses, RecipeSettings, StartsFrom, TrainsOn

Teaches = Literal["nothing", "labels", "rows"]


class ColumnSettings(BaseModel):
    """What is said of one column; what is not said is read off the real rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str = Field("", description="What the column means, as the model is told.")
    kind: Kind | None = Field(None, description="How its values are read. None: as the real rows have them.")
    low: float | None = Field(None, description="Smallest value allowed. None: by range_slack.")
    high: float | None = Field(None, description="Largest value allowed. None: by range_slack.")
    values: tuple[str, ...] = Field((), description="All values of a category. Empty: those of the real rows.")

    @model_validator(mode="after")
    def _has_one_kind_of_bounds(self) -> Self:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low: {self.low:g} is above high: {self.high:g}; exchange them")
        if self.values and self.kind not in (None, "category"):
            raise ValueError(f"values are those of a category, and kind is {self.kind}; remove one of them")
        return self

    @property
    def given(self) -> Given:
        """The same for the reader of columns."""
        return Given(self.description, self.kind, self.low, self.high, self.values)


class CllmSettings(RecipeSettings):
    """CLLM's parameters; the defaults are the authors' constants."""

    usable_losses: ClassVar[tuple[Losses, ...]] = ("sft",)

    starts_from: StartsFrom = "base"
    trains_on: TrainsOn = "latest"
    losses: Losses = "sft"
    sft_on_seeds: bool = Field(
        False, description="Whether the real rows are in r0000's set, and in later ones as far as trains_on keeps them."
    )
    teaches: Teaches = Field(
        "nothing",
        description="What rounds train the model on: 'nothing', so that the curated table is all that comes out; "
        "'labels', the label of each row's features; or 'rows', to write such rows.",
    )
    temperature: float = Field(0.75, ge=0, le=5, description="Sampling temperature.")
    top_p: float = Field(0.95, gt=0, le=1, description="Nucleus mass.")
    max_new_tokens: int = Field(1000, ge=1, description="Tokens after which a text of rows is cut.")

    label: str = Field("label", min_length=1, description="The name of the label, which is the seeds' completion.")
    label_description: str = Field("", description="What the label means, as the model is told.")
    columns: Mapping[str, ColumnSettings] = Field(
        default_factory=dict,
        description="What is said of columns, such as {age: {description: in years, low: 0, high: 120}}.",
    )
    domain: str = Field("", description="What the model shall use its knowledge of, such as 'diabetes in adults'.")
    range_slack: float | None = Field(
        0.5,
        ge=0,
        description="How far a number may lie beyond the real ones, as a share of their range. None: anywhere.",
    )
    row_format: RowFormat = Field(
        "json", description="How rows are written: 'json' as objects, 'lines' as values in the order of the columns."
    )
    num_requests: int = Field(10, ge=1, le=10_000, description="Requests, each with other examples.")
    num_samples: int = Field(10, ge=1, le=1024, description="Texts sampled of each request.")
    num_examples: int = Field(20, ge=1, le=1000, description="Real rows that a request shows.")
    num_rows: int = Field(1000, ge=1, le=100_000, description="Rows that a text is asked for.")
    max_rows: int | None = Field(1000, ge=1, description="Most rows that a round keeps for curation. None: all.")

    booster: Booster = Field(
        "sklearn", description="Whose boosted trees curate: 'sklearn', or 'xgboost' as in the paper (extra tabular)."
    )
    num_trees: int = Field(100, ge=2, le=10_000, description="Trees; each but the last is a checkpoint.")
    min_margin: float = Field(0.2, gt=0, lt=0.5, description="A confidence within it of 0 or 1 is sure.")
    max_aleatoric: float | None = Field(
        0.2,
        ge=0,
        le=0.25,
        description="A row of more aleatoric uncertainty is ambiguous. None: 0.75 of the range over the rows.",
    )

    @model_validator(mode="after")
    def _can_be_run(self) -> Self:
        if self.label in self.columns:
            raise ValueError(f"columns describes {self.label}, which is the label; use label_description")
        require_booster(self.booster)
        return self

    @property
    def trains_model(self) -> bool:
        """Whether rounds train: with "nothing" the model stays as it is."""
        return self.teaches != "nothing"

    @property
    def has_scale(self) -> bool:
        """A score is ten times a confidence, and of a clean round all may be alike."""
        return False
