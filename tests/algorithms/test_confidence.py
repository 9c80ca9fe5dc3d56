"""CLEAR's confidence worked by hand from its specification, and the filter on scripted answers."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lance_assets.algorithms.filters.confidence import ConfidenceRule, LowConfidence
from lance_assets.algorithms.filters.contract import Candidate, Known
from lance_assets.algorithms.selection.confidence import (
    Confidence,
    combine_confidence,
    compute_consistency,
    find_bar,
    list_reasons,
    read_choice,
)
from lance_assets.settings.filters import find_filter


def test_consistency_is_the_mean_over_the_own_completions() -> None:
    """alpha 0.8; likeness 1, 0.5, 0; the first is equal: (0.8 + 0.2) + 0.4 + 0 is 1.4, over 3."""
    assert compute_consistency([1.0, 0.5, 0.0], [True, False, False]) == pytest.approx(1.4 / 3)


def test_both_parts_are_weighed_seven_to_three() -> None:
    """0.7 * 0.5 + 0.3 * (1 + 0) / 2 = 0.35 + 0.15."""
    assert combine_confidence(0.5, [1.0, 0.0]) == Confidence(pytest.approx(0.5), 0.5, 0.5)


def test_what_cannot_be_read_is_no_half() -> None:
    """BSDetector counts an unreadable reflection as 0.5, so that a model that never answers rates all rows alike."""
    assert combine_confidence(0.8, [None, None]) == Confidence(0.8, 0.8, None)
    assert combine_confidence(None, [1.0, None]) == Confidence(1.0, None, 1.0)
    assert combine_confidence(None, []) == Confidence(None, None, None)
    assert compute_consistency([None], [False]) is None
    assert compute_consistency([None, 1.0], [False, True]) == 1.0


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("The sum is right.\nanswer: A", 1.0),
        ("answer: (B) Incorrect", 0.0),
        ("**Answer:** C", 0.5),
        ("First I thought answer: A. But no.\nanswer: B", 0.0),
        ("(A)", 1.0),
        ("B.", 0.0),
        ("(C) I am not sure", 0.5),
        ("The answer is a number.", None),
        ("A is the first letter of the answer", None),
        ("答案：B", 0.0),
        ("", None),
    ],
)
def test_a_reflection_is_read_by_its_letter(text: str, choice: float | None) -> None:
    assert read_choice(text) == choice


def test_the_lower_half_is_left_out_and_rows_at_the_median_stay() -> None:
    """Of 0.1, 0.4, 0.4, 0.9 the median is 0.4."""
    values = {"a": 0.1, "b": 0.4, "c": 0.4, "d": 0.9, "e": None}
    rated = {name: Confidence(value, value, None) for name, value in values.items()}
    assert find_bar(list(values.values()), "median") == 0.4
    assert list_reasons(rated, "median") == {"a": "low_confidence", "e": "confidence_unread"}
    assert list_reasons(rated, 0.5, keeps_unread=True) == dict.fromkeys("abc", "low_confidence")
    assert list_reasons({}, "median") == {}


def test_a_set_of_which_half_has_the_lowest_confidence_loses_that_half() -> None:
    """Shares of five answers are often 0: with 0, 0, 0, 0.4, 1 the median is the lowest one, and would drop nothing."""
    assert find_bar([0.0, 0.0, 0.0, 0.4, 1.0], "median") == 0.4
    assert find_bar([0.5, 0.5, 0.5], "median") == 0.5, "of equal ones all stay"


@given(st.dictionaries(st.text(max_size=3), st.one_of(st.none(), st.floats(0, 1)), max_size=20))
def test_the_median_keeps_some_rows_and_no_row_below_one_that_it_drops(values: dict[str, float | None]) -> None:
    rated = {name: Confidence(value, value, None) for name, value in values.items()}
    reasons = list_reasons(rated, "median")
    known = [value for value in values.values() if value is not None]
    assert len(set(reasons)) < len(values) or not known, "some row is kept"
    if known and sorted(known)[len(known) // 2] > min(known) and len(known) % 2:
        assert sum(reason == "low_confidence" for reason in reasons.values()) <= len(known) / 2
    assert sum(reason == "confidence_unread" for reason in reasons.values()) == len(values) - len(known)
    kept = [value for name, value in values.items() if name not in reasons]
    dropped = [value for name, value in values.items() if reasons.get(name) == "low_confidence"]
    assert not kept or not dropped or min(kept) > max(dropped)


@given(st.floats(0, 1), st.lists(st.floats(0, 1), max_size=2), st.floats(0, 1))
def test_a_confidence_lies_between_its_parts(consistency: float, said: list[float], weight: float) -> None:
    found = combine_confidence(consistency, said, consistency_weight=weight)
    parts = [part for part in (found.consistency, found.reflection) if part is not None]
    assert min(parts) - 1e-12 <= found.value <= max(parts) + 1e-12


class Answers:
    """A model whose own completions and reflections the test wrote."""

    def __init__(self, own: dict[str, list[str | None]], said: dict[str, list[str | None]]) -> None:
        self.own, self.said, self.asked = own, said, dict[str, list[tuple[str, str]]]()

    def __call__(
        self, asks: str, stage: str, asked: Sequence[tuple[str, str]], *, num_samples: int, **_: object
    ) -> list[list[str | None]]:
        self.asked[stage] = list(asked)
        if stage == "confidence_samples":
            return [self.own[row_id][:num_samples] for row_id, _ in asked]
        return [[self.said[row_id]["second" in stage]] for row_id, _ in asked]


def write_rows() -> list[Candidate]:
    good = Candidate("good", "completion", "s", "p", "What is 2 and 2? {completion}", "It is so.\n#### 4")
    bad = Candidate("bad", "completion", "s", "p", "What is 3 and 3?", "#### 7")
    return [Candidate("p", "new_prompt", "s", "s", "What is 2 and 2?", None), good, bad]


ANSWERS = {"good": ["#### 4", "#### 4.0", "no idea"], "bad": ["#### 6", "#### 7", "#### 6"]}
SAID = {"good": ["answer: A", None], "bad": ["answer: B", "answer: C"]}


def test_the_filter_drops_the_row_that_the_model_contradicts() -> None:
    """Good: of two answers both match, neither is the same text: 0.8; it is sure: 0.7 * 0.8 + 0.3 = 0.86.

    Bad: of three one matches and is the same text: 1 / 3; it says wrong and unsure: 0.7 / 3 + 0.3 * 0.25 = 0.308.
    """
    own, answers = LowConfidence(agreement="answer", num_samples=3), Answers(ANSWERS, SAID)
    rows = write_rows()
    own.mark(rows, Known(rows, sample=answers))
    assert [row.drop_reason for row in rows] == [None, None, "low_confidence"]
    texts = [(row.row_id, row.prompt or "", row.completion or "") for row in rows[1:]]
    found = own.measure(texts, answers)
    assert found["good"].value == pytest.approx(0.86)
    assert found["bad"].value == pytest.approx(0.7 / 3 + 0.075)
    question = dict(answers.asked["confidence_reflection"])["good"]
    assert "{completion}\n\nProposed answer: It is so.\n#### 4" in question, "a prompt's own braces are text"


def test_by_words_a_completion_of_another_prompt_is_unlike_the_own_ones() -> None:
    rule = ConfidenceRule(num_reflections=0)
    own = ["The capital of France is Paris.", "Paris is the capital of France."]
    assert rule.hold_against("The capital of France is Paris.", own) > 0.6
    assert rule.hold_against("Mix flour and eggs, then bake the cake.", own) < 0.2


def test_a_row_that_says_nothing_is_unread_and_may_be_kept() -> None:
    silent = Answers({"good": [None], "bad": [None]}, {"good": [None, None], "bad": ["?", "?"]})
    for unread, reason in (("drop", "confidence_unread"), ("keep", None)):
        rows = write_rows()
        LowConfidence(num_samples=1, unread=unread).mark(rows, Known(rows, sample=silent))
        assert [row.drop_reason for row in rows[1:]] == [reason, reason]


def test_the_filter_has_a_name_and_tells_wrong_settings() -> None:
    assert find_filter("confidence") is LowConfidence
    assert find_filter("confidence").model_validate({"name": "confidence"}).min_confidence == "median"
    for given_, told in (
        ({"min_confidence": 1.5}, "a confidence lies between 0 and 1, got 1.5; set one that does, or median"),
        ({"num_samples": 0, "num_reflections": 0}, "are both 0, so that nothing is asked; set one of them"),
        ({"agreement": "answer", "answer_mark": None}, "answer_mark: null needs answer_kind: text"),
    ):
        with pytest.raises(ValidationError, match=told):
            ConfidenceRule.model_validate(given_)
    with pytest.raises(RuntimeError, match="nothing was given that samples texts, but a filter asked the model"):
        LowConfidence().mark(write_rows(), Known(write_rows()))
