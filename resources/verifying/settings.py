"""The section `verifier` of an experiment's file: what judges completions, and how that is mixed with reviews."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lance_assets.algorithms.reviews.answer_kinds import AnswerKind, AnswerRule
from lance_assets.algorithms.reviews.label_matching import build_labels
from lance_assets.algorithms.verifying.rules import check_rules
from lance_assets.extras import require_extra

VerifierKind = Literal["answer", "code", "rules", "function"]
"""What a completion is held against: a gold answer, tests, rules, or a person's function."""

Isolation = Literal["namespaces", "landlock", "limits"]
"""How a program is kept in: by everything that `jail.py` has; without namespaces, but kept from files by Landlock; or
without either where the kernel has no Landlock, so that it can read, change and delete files."""

OF_KIND = {
    "answer": ("reader", "answer_kind", "labels", "answer_mark", "without_gold", "min_agreement", "min_votes"),
    "code": ("isolation",),
    "rules": ("rules", "counts_parts"),
    "function": ("name",),
}
"""The settings that belong to one kind alone."""


class VerifierSettings(BaseModel):
    """What verifies completions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: VerifierKind = Field(
        description="answer: against the seed's gold answer; code: by running the seed's tests in a sandbox; rules: "
        "against rules of form; function: by a function of your own."
    )
    weight: float = Field(
        1.0,
        gt=0,
        le=1,
        description="The verdict's part of a review score; the model's review has the rest. 1: no model is asked.",
    )
    without_verdict: Literal["unscored", "review"] = Field(
        "unscored",
        description="A row that cannot be verified, such as a new prompt without a gold answer: it has no score, or "
        "its 'review' alone, which needs a weight below 1.",
    )
    reader: Literal["own", "math_verify"] = Field(
        "own",
        description="For answers: this project's readers of numbers, labels and texts; or the library math-verify, "
        "which also tells equal expressions, sets and intervals, in a process that is killed where it hangs.",
    )
    answer_kind: AnswerKind = Field("number", description="For answers: numbers, one of some labels, or a few words.")
    labels: Mapping[str, tuple[str, ...]] = Field(
        default_factory=dict, description="For answer_kind label: each label with its further names."
    )
    answer_mark: str | None = Field(
        None,
        min_length=1,
        description="For answers: what announces the final answer in a completion. None: seeds.answer_after, or else "
        "the answer is looked for: after 'the answer is', or the last number.",
    )
    without_gold: Literal["unverified", "majority"] = Field(
        "unverified",
        description="For answers: a prompt without a gold answer is unverified, or the commonest answer of its samples "
        "counts as gold.",
    )
    min_agreement: float = Field(
        0.5, gt=0, le=1, description="For without_gold majority: share of a prompt's samples with the commonest answer."
    )
    min_votes: int = Field(3, ge=2, description="For without_gold majority: fewest samples with the commonest answer.")
    isolation: Isolation = Field(
        "namespaces",
        description="For code: how programs are kept in. The others are for machines without user namespaces. "
        "'landlock' keeps a program from your files by Landlock (Linux 6.2 or later). 'limits' does so where the "
        "kernel has it, and otherwise a program can read, change and delete the files that you can.",
    )
    rules: tuple[Mapping[str, Any], ...] = Field(
        (),
        description="For rules: those of every row, such as {kind: 'punctuation:no_comma'}; empty: each seed's own, in "
        "the column that seeds.answer_field names.",
    )
    counts_parts: bool = Field(
        False, description="For rules: whether a row's place on the scale is the share of its rules that hold."
    )
    name: str | None = Field(
        None,
        description="For function: package.module:NAME, or my_check.py:NAME in the experiment's folder. It is given "
        "prompt, completion and the seed's answer, and returns a bool, a share of 0 to 1, or one with a reason.",
    )
    timeout_seconds: int = Field(
        5, ge=1, le=600, description="Seconds for one row; a row that takes longer is unverified, or not passed."
    )
    memory_mib: int = Field(512, ge=64, description="Address space of a process that verifies.")
    num_processes: int = Field(2, ge=1, le=256, description="Rows that are verified at the same time.")

    @field_validator("labels", mode="before")
    @classmethod
    def _are_texts(cls, labels: Any) -> Any:
        for label in labels if isinstance(labels, dict) else ():
            if not isinstance(label, str):
                raise ValueError(f"a label must be a text, got {label!r}: YAML reads yes, no and 1 otherwise; quote it")
        return labels

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        for kind, names in OF_KIND.items():
            foreign = [name for name in names if name in self.model_fields_set and kind != self.kind]
            if foreign:
                raise ValueError(f"{', '.join(foreign)}: needs kind: {kind}, got {self.kind}; remove it")
        if self.kind == "function" and self.name is None:
            raise ValueError("kind: function needs a name, such as my_check.py:is_good")
        if self.without_verdict == "review" and self.weight == 1:
            raise ValueError("without_verdict: review needs a weight below 1: with 1 no model is asked to review")
        if self.answer_kind == "label":
            build_labels(self.labels)
        elif self.labels:
            raise ValueError(f"labels need answer_kind: label, got {self.answer_kind}")
        if self.reader == "math_verify" and self.answer_kind != "number":
            raise ValueError(f"reader: math_verify reads mathematics, got answer_kind: {self.answer_kind}")
        if self.reader == "math_verify":
            require_extra("math_verify", extra="verify", needed_by="verifier.reader: math_verify")
        check_rules(self.rules)
        return self

    @property
    def is_alone(self) -> bool:
        """Whether no model is asked to review."""
        return self.weight == 1

    def read_answers(self, mark: str | None) -> AnswerRule:
        """How answers are read, where the seeds' own mark is the default."""
        return AnswerRule(self.answer_kind, self.answer_mark or mark, self.labels)
