"""LLM2LLM's parameters, which its own steps and the teacher's read."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from lance_assets.algorithms.reviews.answer_kinds import AnswerKind, AnswerRule
from lance_assets.algorithms.reviews.label_matching import build_labels
from lance_assets.algorithms.selection.wrong_seeds import AugmentSource
from lance_assets.recipes.axes import Losses, RecipeSettings, StartsFrom
from lance_assets.records import SamplingSettings


class Llm2LlmSettings(RecipeSettings):
    """LLM2LLM's parameters; the defaults are the authors' constants where the differences do not say otherwise."""

    usable_losses: ClassVar[tuple[Losses, ...]] = ("sft",)

    starts_from: StartsFrom = "base"
    trains_on: Literal["all"] = Field(
        "all", description="The seeds and all lessons: a seed that is not trained on would not be tried again."
    )
    losses: Losses = "sft"
    sft_on_seeds: Literal[True] = Field(True, description="r0000 trains on the seeds, which the student is tried on.")
    temperature: float = Field(1.0, ge=0, le=5, description="Sampling temperature of the teacher.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass of the teacher.")
    max_new_tokens: int = Field(2149, ge=1, description="Tokens after which the teacher is cut.")
    student_max_new_tokens: int = Field(256, ge=1, description="Tokens after which the student's answer is cut.")
    seed_share: float = Field(1.0, gt=0, le=1, description="Share of the seed file that is used.")
    num_lessons: int = Field(1, ge=1, le=64, description="New problems for each seed shown to the teacher (k).")
    num_examples: int = Field(
        3,
        ge=0,
        le=32,
        description="Other seeds given to the teacher's templates; those of the profile small show them.",
    )
    max_attempts: int = Field(5, ge=1, le=50, description="Times the teacher is asked about a seed in a round.")
    rouge_l_threshold: float = Field(0.95, ge=0, le=1, description="ROUGE-L F above which a problem is a copy.")
    augment_source: AugmentSource = Field("seed", description="Whether only seeds are shown, or all wrong rows.")
    targeted: bool = Field(True, description="Whether only rows answered wrong are shown; false takes every one.")
    show_mistake: bool = Field(False, description="Whether the teacher sees what the student wrote.")
    answer_kind: AnswerKind = Field(
        "number",
        description="What the task's answers are: numbers, which are worked out; one of some labels; or a few words.",
    )
    labels: Mapping[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="For answer_kind label: each label with its further names, such as {spam: [junk], ham: []}.",
    )
    answer_mark: str | None = Field(
        "####",
        min_length=1,
        description="What announces the final answer in a completion. None: the whole completion is the answer, which "
        "is no number.",
    )
    teacher_writes: Literal["lesson", "prompt_then_completion", "prompt"] = Field(
        "lesson",
        description="Problem and answer in one text; or first the prompt and then its completion; or, for labels, the "
        "prompt alone, whose completion is its seed's.",
    )
    num_votes: int = Field(1, ge=1, le=32, description="Completions sampled for a prompt the teacher wrote alone.")
    min_agreement: float = Field(0.5, ge=0, le=1, description="Share of them that must have the commonest answer.")

    @field_validator("labels", mode="before")
    @classmethod
    def _are_texts(cls, labels: Any) -> Any:
        for label in labels if isinstance(labels, dict) else ():
            if not isinstance(label, str):
                raise ValueError(
                    f"a label must be a text, got {label!r}: YAML reads yes, no, on and 1 otherwise; quote it"
                )
        return labels

    @model_validator(mode="after")
    def _has_answers(self) -> Self:
        if self.answer_kind == "label":
            build_labels(self.labels)
        elif self.labels:
            raise ValueError(f"labels need answer_kind: label, got {self.answer_kind}")
        if self.answer_mark is None and self.answer_kind == "number":
            raise ValueError("answer_mark: null needs answer_kind: label or text; a number is read behind a mark")
        return self

    @model_validator(mode="after")
    def _reads_what_is_set(self) -> Self:
        if self.show_mistake and self.teacher_writes != "lesson":
            raise ValueError(
                f"show_mistake needs teacher_writes: lesson, got {self.teacher_writes}, whose prompt shows no mistake"
            )
        for name in ("num_votes", "min_agreement"):
            value, default = getattr(self, name), type(self).model_fields[name].default
            if self.teacher_writes != "prompt_then_completion" and value != default:
                raise ValueError(
                    f"{name}: {value} needs teacher_writes: prompt_then_completion, got {self.teacher_writes}; "
                    "otherwise there is one completion for each prompt"
                )
        if self.teacher_writes == "prompt" and self.answer_kind != "label":
            raise ValueError(
                f"teacher_writes: prompt needs answer_kind: label, got {self.answer_kind}: a new problem has another "
                "answer than its seed, and only a label can stay the same"
            )
        return self

    @property
    def answers(self) -> AnswerRule:
        """How answers are read and matched."""
        return AnswerRule(self.answer_kind, self.answer_mark, self.labels)

    @property
    def label_stays(self) -> str:
        """For templates: "yes" where a new prompt has the label of its seed, else empty."""
        return "yes" if self.teacher_writes == "prompt" else ""

    @property
    def has_reviews(self) -> bool:
        """Nothing is reviewed: the gold answer is the signal."""
        return False

    @property
    def student_sampling(self) -> SamplingSettings:
        """How the student is tried."""
        return SamplingSettings(0.0, 1.0, self.student_max_new_tokens)
