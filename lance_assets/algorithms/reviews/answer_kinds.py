"""Kinds of final answers: how one is read out of a completion, and when it is the gold one.

| kind | an answer is | two are equal |
| --- | --- | --- |
| number | a number, or any text | as exact numbers where both are, else as texts (`answer_matching`) |
| label | one of some labels | as labels (`label_matching`); an answer that names no single one equals nothing |
| text | a few words | as words, without case, punctuation and a leading article |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Literal

from lance_assets.algorithms.reviews.answer_matching import extract_final_answer, normalise_answer
from lance_assets.algorithms.reviews.label_matching import Labels, build_labels, split_label
from lance_assets.algorithms.reviews.thoughts import strip_thinking

AnswerKind = Literal["number", "label", "text"]
"""What a task's answers are."""

_ARTICLES = ("a", "an", "the")


@dataclass(frozen=True)
class AnswerRule:
    """How a task's answers are read and matched."""

    kind: AnswerKind = "number"
    """What the answers are."""
    mark: str | None = "####"
    """What announces the final answer; None: the whole completion is the answer."""
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """For labels: each with its further names."""

    @cached_property
    def _labels(self) -> Labels:
        return build_labels(self.labels)

    def read(self, completion: str) -> str | None:
        """The final answer of a completion as it is written, without the stop that ends its sentence; None without one.

        What a model thinks before it answers is no part of its answer.

        >>> AnswerRule("label", None, {"yes": (), "no": ()}).read(" Yes. ")
        'Yes'
        """
        said = strip_thinking(completion)
        answer = said if self.mark is None else extract_final_answer(said, self.mark)
        return None if answer is None else answer.strip().rstrip(" .") or None

    def normalise(self, answer: str) -> Fraction | str | None:
        """What equal answers have in common; None for one that names no single label."""
        if self.kind == "label":
            return self._labels.read(answer)
        if self.kind == "number":
            return normalise_answer(answer)
        words = split_label(answer)
        kept = words[1:] if len(words) > 1 and words[0] in _ARTICLES else words
        # Of an answer of signs alone, such as "++", nothing else is left to compare.
        return " ".join(kept) or answer.strip() or None

    def match(self, gold: str, answer: str | None) -> bool:
        """Whether an answer is the gold one.

        Raises:
            ValueError: the gold answer has no text, or names no single label.

        >>> rule = AnswerRule("label", None, {"AddToPlaylist": ("add a song",), "PlayMusic": ()})
        >>> rule.match("AddToPlaylist", "add a song"), rule.match("PlayMusic", "AddToPlaylist or PlayMusic")
        (True, False)
        """
        wanted = self.normalise(gold) if gold.strip() else None
        if wanted is None:
            known = f" ({', '.join(self.labels)})" if self.kind == "label" else ""
            raise ValueError(f"a gold answer must be a {self.kind}{known}, got {gold!r}: correct or leave out the row")
        return answer is not None and self.normalise(answer) == wanted
