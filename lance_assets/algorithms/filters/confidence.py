"""CLEAR's Auto-Filter: rows whose completion the model trusts least are left out (`selection.confidence`).

Nothing is said about what is wrong with a row: a model that answers otherwise, or is not sure, may itself be wrong. So
the bar is a place within the set, by default its median, and every row has its confidence beside the reason.
"""

import re
from collections.abc import Sequence
from typing import Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lance_assets.algorithms.filters.contract import Candidate, Filter, Known
from lance_assets.algorithms.reviews.answer_kinds import AnswerRule
from lance_assets.algorithms.selection.confidence import (
    CONSISTENCY_WEIGHT,
    LIKENESS_WEIGHT,
    Confidence,
    combine_confidence,
    compute_consistency,
    list_reasons,
    read_choice,
)
from lance_assets.algorithms.similarity.words import compute_rouge_l, normalise_text
from lance_assets.conversations import show_prompt

SAMPLES = "confidence_samples"
"""The stage in which a model answers by itself."""
REFLECTIONS = ("confidence_reflection", "confidence_second_reflection")
"""The stages of both questions about a completion."""

_CHOICES = "(A) Correct (B) Incorrect (C) I am not sure"
QUESTIONS = (
    "Question: {prompt}\n\nProposed answer: {completion}\n\nIs the proposed answer correct? "
    + _CHOICES
    + "\nExplain in "
    'one or two sentences. Then write "answer: " and the letter on a line of its own.',
    "Question: {prompt}\n\nProposed answer: {completion}\n\nAre you really sure that the proposed answer is correct? "
    "Look at it once more. "
    + _CHOICES
    + '\nExplain in one or two sentences. Then write "answer: " and the letter on a '
    "line of its own.",
)
"""The two questions, in our words; what they are read by is `answer: <letter>`."""


class AskSamples(Protocol):
    """Asks a model for several samples of each prompt."""

    def __call__(
        self,
        asks: str,
        stage: str,
        asked: Sequence[tuple[str, str]],
        *,
        num_samples: int,
        temperature: float,
        max_new_tokens: int,
    ) -> Sequence[Sequence[str | None]]:
        """The texts of each prompt, in order; None for one that was cut or failed.

        Args:
            asks: "model" or "judge".
            stage: under which the samples are kept.
            asked: (row id, prompt) of each row.
            num_samples: of each prompt.
            temperature: 0 is greedy.
            max_new_tokens: tokens after which a sample is cut.
        """
        ...


Row = tuple[str, str, str]
"""A row's id, prompt and completion."""


class ConfidenceRule(BaseModel):
    """How a model's confidence in completions is measured, and what a row needs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    asks: Literal["model", "judge"] = Field(
        "model", description="Who is asked: the round's own model, or the judge of evaluation.judge."
    )
    min_confidence: Literal["median"] | float = Field(
        "median", description="The confidence, 0 to 1, that a row is kept with; median leaves the lower half out."
    )
    agreement: Literal["answer", "words"] = Field(
        "words",
        description="How own completions are held against a row's: by equal final answers behind answer_mark, or by "
        "ROUGE-L of their words.",
    )
    answer_mark: str | None = Field("####", min_length=1, description="For answer: what announces a final answer.")
    answer_kind: Literal["number", "text"] = Field("number", description="For answer: how final answers are compared.")
    num_samples: int = Field(5, ge=0, le=64, description="Own completions of each prompt (k); 0 asks for none.")
    temperature: float = Field(1.0, ge=0, le=5, description="Sampling temperature of the own completions.")
    max_new_tokens: int = Field(512, ge=8, description="Tokens after which an own completion is cut.")
    num_reflections: int = Field(2, ge=0, le=2, description="Questions about each completion; 0 asks none.")
    max_reflection_tokens: int = Field(128, ge=8, description="Tokens after which a reflection is cut.")
    consistency_weight: float = Field(
        CONSISTENCY_WEIGHT, ge=0, le=1, description="Weight of the own completions against the reflections (beta)."
    )
    likeness_weight: float = Field(
        LIKENESS_WEIGHT, ge=0, le=1, description="Weight of likeness against equality of two completions (alpha)."
    )
    unread: Literal["drop", "keep"] = Field("drop", description="What becomes of a row without any confidence.")

    @field_validator("min_confidence")
    @classmethod
    def _is_a_share(cls, bar: Literal["median"] | float) -> Literal["median"] | float:
        if bar != "median" and not 0 <= bar <= 1:
            raise ValueError(f"a confidence lies between 0 and 1, got {bar:g}; set one that does, or median")
        return bar

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.num_samples == self.num_reflections == 0:
            raise ValueError("num_samples and num_reflections are both 0, so that nothing is asked; set one of them")
        if self.agreement == "answer" and self.answer_mark is None and self.answer_kind == "number":
            raise ValueError("answer_mark: null needs answer_kind: text; a number is read behind a mark")
        return self

    def measure(self, rows: Sequence[Row], sample: AskSamples) -> dict[str, Confidence]:
        """The confidence in each row's completion by its id, from one request of several samples for each row."""
        own: Sequence[Sequence[str | None]] = [[]] * len(rows)
        if self.num_samples:
            own = sample(
                self.asks,
                SAMPLES,
                [(row_id, prompt) for row_id, prompt, _ in rows],
                num_samples=self.num_samples,
                temperature=self.temperature,
                max_new_tokens=self.max_new_tokens,
            )
        said = [
            sample(
                self.asks,
                stage,
                [(row_id, _word(question, prompt, completion)) for row_id, prompt, completion in rows],
                num_samples=1,
                temperature=0.0,
                max_new_tokens=self.max_reflection_tokens,
            )
            for stage, question in list(zip(REFLECTIONS, QUESTIONS, strict=True))[: self.num_reflections]
        ]
        found = {}
        for place, (row_id, _, completion) in enumerate(rows):
            reflections = [None if (text := one[place][0]) is None else read_choice(text) for one in said]
            consistency = self.hold_against(completion, own[place])
            found[row_id] = combine_confidence(consistency, reflections, consistency_weight=self.consistency_weight)
        return found

    def hold_against(self, completion: str, own: Sequence[str | None]) -> float | None:
        """The observed consistency of a completion with a model's own ones."""
        read = [text for text in own if text is not None]
        likeness = [self._compare(completion, text) for text in read]
        same = [normalise_text(completion) == normalise_text(text) for text in read]
        return compute_consistency(likeness, same, likeness_weight=self.likeness_weight)

    def _compare(self, completion: str, other: str) -> float | None:
        if self.agreement == "words":
            return compute_rouge_l(other, completion).f
        rule = AnswerRule(self.answer_kind, self.answer_mark)
        gold, answer = rule.read(completion), rule.read(other)
        # Of two texts without an answer nothing is known.
        return None if gold is None or answer is None else float(rule.match(gold, answer))


def _word(question: str, prompt: str, completion: str) -> str:
    parts = {"{prompt}": show_prompt(prompt), "{completion}": completion}
    # In one pass: a prompt may itself hold the word {completion}.
    return re.sub(r"\{prompt\}|\{completion\}", lambda found: parts[found[0]], question)


class LowConfidence(ConfidenceRule, Filter):
    """Drops rows whose completion the model trusts less than the bar: "low_confidence", or "confidence_unread"."""

    def mark(self, rows: Sequence[Candidate], known: Known) -> None:
        """Ask about each row that has a prompt and a completion; the median is that of these rows."""
        full = [row for row in rows if row.prompt is not None and row.completion is not None]
        asked = [(row.row_id, row.prompt or "", row.completion or "") for row in full]
        found = self.measure(asked, known.sample)
        reasons = list_reasons(found, self.min_confidence, keeps_unread=self.unread == "keep")
        for row in full:
            row.drop_reason = reasons.get(row.row_id)
