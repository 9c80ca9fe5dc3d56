"""How far a model trusts a completion that somebody else wrote: CLEAR's confidence in a row of a data set.

Sources: CLEAR (Chen and Mueller, arXiv 2403.12776), step Auto-Filter, and BSDetector (arXiv 2308.16175), the score that
it takes: C = beta * O + (1 - beta) * S. O is the observed consistency, how well a model's own completions of the prompt
agree with the one that is judged; S is the self-reflection, what the model says when it is asked about it twice.

Differences:

1. What a natural language inference model says of contradiction is replaced by a rule: final answers that are equal or
   not, or ROUGE-L of both texts. No such model is packaged.
2. An own completion without a final answer is left out of the mean, and a reflection that names no choice too; they
   count both as half right. A row of which neither is left has no confidence, which is no number.
3. Both questions are asked by themselves; BSDetector asks the second one after the first.
4. Rows at the bar are kept, so that a set of equal confidences keeps all of its rows. But where no row lies below the
   median, since half of the set or more has the lowest confidence, these rows are left out.
5. The own completions are asked for by the prompt alone. The paper tells the model to reason step by step before it
   answers (from notes); a prompt that says so gets such completions here.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

Bar = Literal["median"] | float
"""What a confidence must reach: the median of its set, or a number from 0 to 1."""

CONSISTENCY_WEIGHT = 0.7
"""BSDetector's beta."""
LIKENESS_WEIGHT = 0.8
"""BSDetector's alpha: of the two parts of a consistency, that of what texts mean."""

_CHOICES = {"A": 1.0, "B": 0.0, "C": 0.5}
_CHOICE = re.compile(
    r"(?:\banswer|答案)(?:[ \t]+is)?[ \t*_]*[:：]?[ \t*_]*\(?[ \t]*([A-Ca-c])\b(?![ \t]*[a-z'’])", re.I
)
_ALONE = re.compile(r"\A[\s*_(]*([A-C])[\s*_).:]*(?:correct|incorrect|i am not sure|i'm not sure)?[\s*_.]*\Z", re.I)


@dataclass(frozen=True)
class Confidence:
    """How far one completion is trusted."""

    value: float | None
    """0..1; None where neither part could be measured."""
    consistency: float | None
    """The part of the model's own completions, 0..1; None where none of them could be compared."""
    reflection: float | None
    """The part of what it says of the completion, 0..1; None where it was not asked or not understood."""


def read_choice(text: str) -> float | None:
    r"""What a reflection comes to: 1 for (A) correct, 0 for (B) incorrect, 0.5 for (C) not sure; None for no choice.

    The last choice counts.

    >>> read_choice("It adds up.\nanswer: (A)"), read_choice("B"), read_choice("I cannot say.")
    (1.0, 0.0, None)
    """
    found = _CHOICE.findall(text) or _ALONE.findall(text)
    return _CHOICES[found[-1].upper()] if found else None


def compute_consistency(
    likeness: Sequence[float | None], equal: Sequence[bool], *, likeness_weight: float = LIKENESS_WEIGHT
) -> float | None:
    """The observed consistency: the mean of alpha * likeness + (1 - alpha) * equality over the own completions.

    Args:
        likeness: of each own completion to the one that is judged, 0..1: BSDetector's 1 - p(contradiction); None where
            it cannot be compared.
        equal: whether it is the same text.
        likeness_weight: alpha, 0..1.

    Returns:
        0..1; None where no completion can be compared.

    Raises:
        ValueError: as many likenesses as equalities are needed.

    >>> round(compute_consistency([1.0, 0.0, None], [True, False, False]), 6)
    0.5
    """
    if len(likeness) != len(equal):
        raise ValueError(f"likeness and equal must be as many, got {len(likeness)} and {len(equal)}")
    each = [
        likeness_weight * like + (1 - likeness_weight) * same
        for like, same in zip(likeness, equal, strict=True)
        if like is not None
    ]
    return fmean(each) if each else None


def combine_confidence(
    consistency: float | None,
    reflections: Sequence[float | None],
    *,
    consistency_weight: float = CONSISTENCY_WEIGHT,
) -> Confidence:
    """Both parts as one confidence; a part that is missing leaves the other one alone.

    Args:
        consistency: as `compute_consistency` gives it.
        reflections: what each question came to, 0..1, None where it was not understood; none where nothing was asked.
        consistency_weight: beta, 0..1.

    >>> round(combine_confidence(0.5, [1.0, None]).value, 2)
    0.65
    """
    said = [value for value in reflections if value is not None]
    reflection = fmean(said) if said else None
    if consistency is None or reflection is None:
        return Confidence(reflection if consistency is None else consistency, consistency, reflection)
    value = consistency_weight * consistency + (1 - consistency_weight) * reflection
    return Confidence(value, consistency, reflection)


def find_bar(confidences: Sequence[float | None], bar: Bar) -> float | None:
    """The confidence that a row must reach; None where no row has one.

    Where the median is the lowest confidence, the bar is the next one above it, if there is one.

    >>> find_bar([0.2, None, 0.6, 0.4], "median"), find_bar([0.0, 0.0, 0.6], "median"), find_bar([0.2], 0.5)
    (0.4, 0.6, 0.5)
    """
    known = [value for value in confidences if value is not None]
    if not known:
        return None
    if bar != "median":
        return bar
    middle = median(known)
    return min((value for value in known if value > middle), default=middle) if min(known) == middle else middle


def list_reasons(confidences: Mapping[str, Confidence], bar: Bar, *, keeps_unread: bool = False) -> dict[str, str]:
    """Why rows are left out, by their ids: "low_confidence" below the bar, "confidence_unread" without a confidence.

    Args:
        confidences: of every row of the set.
        bar: what a row must reach.
        keeps_unread: whether rows without a confidence are kept.
    """
    needed = find_bar([one.value for one in confidences.values()], bar)
    reasons = {}
    for row_id, one in confidences.items():
        if one.value is None:
            if not keeps_unread:
                reasons[row_id] = "confidence_unread"
        elif needed is not None and one.value < needed:
            reasons[row_id] = "low_confidence"
    return reasons
