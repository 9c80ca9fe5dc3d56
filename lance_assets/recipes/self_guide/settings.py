"""SELF-GUIDE's parameters, which its own steps and the writing of inputs and annotations read."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from lance_assets.algorithms.reviews.label_matching import Labels, build_labels
from lance_assets.algorithms.selection.annotated_inputs import GREETINGS
from lance_assets.recipes.axes import Losses, RecipeSettings, StageSampling, StartsFrom, TrainsOn


class SelfGuideSettings(RecipeSettings):
    """SELF-GUIDE's parameters; the defaults are the authors' constants."""

    usable_losses: ClassVar[tuple[Losses, ...]] = ("sft",)
    own_stages: ClassVar[Mapping[str, StageSampling]] = {"annotation": StageSampling(temperature=0.2)}

    starts_from: StartsFrom = "base"
    trains_on: TrainsOn = "latest"
    losses: Losses = "sft"
    sft_on_seeds: Literal[False] = Field(False, description="The demonstrations are shown and never trained on.")
    temperature: float = Field(0.7, ge=0, le=5, description="Sampling temperature of inputs; of annotations it is 0.2.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass of every step.")
    max_new_tokens: int = Field(500, ge=1, description="Tokens after which a sample is cut.")
    instruction: str = Field("", description="What the task is. Empty: the demonstrations alone say it.")
    labels: Mapping[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="Of a classification, each label with its further names, such as {spam: [junk], ham: []}. Empty: "
        "the outputs are any texts.",
    )
    num_demos: int = Field(3, ge=1, le=64, description="Demonstrations: the first seeds of the file.")
    num_waves: int = Field(40, ge=1, le=1000, description="Waves of inputs; each shows some of the waves before.")
    wave_size: int = Field(10, ge=1, le=4096, description="Inputs requested in a wave.")
    max_shown: int = Field(10, ge=0, le=64, description="Most inputs of earlier waves that a request shows.")
    max_shown_chars: int = Field(
        12_000, ge=0, description="Characters of instruction, demonstrations and earlier inputs that a request shows."
    )
    num_annotations: int = Field(10, ge=1, le=256, description="Annotations of each input.")
    min_agreement: float = Field(
        0.3, ge=0, le=1, description="Smallest share of an input's annotations that have to say the same."
    )
    filters_input_length: bool = Field(
        True, description="Whether inputs lie within two standard deviations of the demonstrations' lengths."
    )
    filters_output_length: bool = Field(
        True, description="The same of outputs; it does not hold for a classification, whose outputs are labels."
    )
    noise: tuple[str, ...] = Field(
        (), description="Parts that neither an input nor an output may have, beside the 14 greetings that none has."
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _are_texts(cls, labels: Any) -> Any:
        for label in labels if isinstance(labels, dict) else ():
            if not isinstance(label, str):
                raise ValueError(
                    f"a label must be a text, got {label!r}: YAML reads yes, no, on and 1 otherwise; quote it"
                )
        return labels

    @field_validator("noise")
    @classmethod
    def _are_parts(cls, noise: tuple[str, ...]) -> tuple[str, ...]:
        if "" in noise:
            raise ValueError("noise has an empty text, which every text contains; remove it")
        return noise

    @model_validator(mode="after")
    def _can_choose(self) -> Self:
        if self.labels:
            build_labels(self.labels)
        return self

    @property
    def has_reviews(self) -> bool:
        """Nothing is reviewed: the agreement of a model's own annotations is the signal."""
        return False

    @property
    def all_noise(self) -> tuple[str, ...]:
        """The authors' greetings, and what the experiment adds to them."""
        return (*GREETINGS, *self.noise)

    @property
    def read_labels(self) -> Labels | None:
        """What reads the label of an output; None where outputs are any texts."""
        return build_labels(self.labels) if self.labels else None
