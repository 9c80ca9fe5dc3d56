"""SELF-GUIDE's rules for inputs, annotations and classes, worked by hand from its specification."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.reviews.label_matching import build_labels
from lance_assets.algorithms.selection.annotated_inputs import (
    GREETINGS,
    choose_consistent,
    find_fault,
    find_surplus,
    measure_bounds,
    select_inputs,
)

ENTAILMENT = build_labels({"entailment": (), "not entailment": ()})


def test_bounds_are_two_standard_deviations_of_the_population_around_the_mean() -> None:
    """Lengths 10, 20, 30: mean 20, variance 200/3, deviation 8.165; 20 -+ 16.33 is 3.67 to 36.33."""
    assert measure_bounds(["a" * 10, "b" * 20, "c" * 30]) == (3, 36)


def test_a_lower_bound_is_never_negative() -> None:
    """Lengths 1 and 41: mean 21, deviation 20; 21 - 40 is below zero."""
    assert measure_bounds(["a", "b" * 41]) == (0, 61)


def test_demonstrations_of_one_length_allow_that_length_and_one_alone_bounds_nothing() -> None:
    """The released upper bound is not allowed, so that such demonstrations would drop everything."""
    assert measure_bounds(["abcd", "efgh"]) == (4, 4)
    assert find_fault("ijkl", bounds=(4, 4), noise=()) is None
    assert measure_bounds(["abcd"]) is None


def test_inputs_pass_the_rules_in_their_order() -> None:
    """Of an input that breaks several rules the first one counts: empty, length, noise, repeated."""
    texts = [
        None,
        "",
        "Of course!",
        "Of course! Sort it.",
        "Sort 3 1.",
        "Sort 3 1.",
        "Sort 2 9.",
        "Add 1 2 3 4 5 6 7 8 9.",
    ]
    reasons = select_inputs(texts, ["Sort 2 9."], bounds=(9, 19), noise=GREETINGS)
    assert reasons == ["empty", "empty", "noise", "noise", None, "repeated", "repeated", "odd_length"]


def test_the_noise_of_one_task_is_not_that_of_the_next() -> None:
    """The released list grows at every call."""
    assert len(GREETINGS) == 14
    assert find_fault("input", bounds=None, noise=(*GREETINGS, "input")) == "noise"
    assert find_fault("input", bounds=None, noise=GREETINGS) is None


def test_the_commonest_output_is_chosen_and_the_shortest_on_ties() -> None:
    """Of ten, two are left out by noise; of the eight left three say "12", three "the 12", two others."""
    said = ["the 12", "12", "12", "the 12", "Of course! 12", "the 12", "12", "7", "8", "Of course!"]
    found = choose_consistent(said, min_agreement=0.3, noise=GREETINGS)
    assert (found.output, found.agreement, found.reason) == ("12", 3 / 8, None)
    assert [place for place, reason in enumerate(found.reasons) if reason] == [4, 9]
    assert choose_consistent(said, min_agreement=0.4, noise=GREETINGS).reason == "no_agreement"


def test_what_is_left_out_does_not_count_as_disagreement() -> None:
    """1 of 10 is below 0.3, and 1 of the 1 that is left is not."""
    assert choose_consistent(["5", *[None] * 9], min_agreement=0.3).output == "5"
    nothing = choose_consistent([None, " "], min_agreement=0.0)
    assert (nothing.output, nothing.agreement, nothing.reason) == (None, None, "no_annotation")


def test_a_label_within_another_one_is_not_named() -> None:
    """The released rule reads "not entailment" as "entailment", whose name comes first and is a part of it."""
    said = ["not entailment", "It is not entailment.", "entailment", "perhaps"]
    found = choose_consistent(said, min_agreement=0.3, labels=ENTAILMENT)
    assert (found.output, found.agreement) == ("not entailment", 2 / 3)
    assert found.reasons == (None, None, None, "no_label")


def test_classes_are_balanced_down_to_the_smallest() -> None:
    classes = {f"a{number}": "yes" for number in range(7)} | {f"b{number}": "no" for number in range(3)}
    surplus = find_surplus(classes, salt="0")
    left = [name for row_id, name in classes.items() if row_id not in surplus]
    assert (left.count("yes"), left.count("no")) == (3, 3)
    assert find_surplus(dict(reversed(classes.items())), salt="0") == surplus, "the order of the rows does not matter"
    assert find_surplus(classes, salt="1") != surplus
    assert find_surplus({}, salt="0") == set()


@given(st.dictionaries(st.text(min_size=1, max_size=4), st.sampled_from("xyz"), max_size=30))
def test_after_balancing_every_class_has_as_many(classes: dict[str, str]) -> None:
    surplus = find_surplus(classes, salt="s")
    kept = [name for row_id, name in classes.items() if row_id not in surplus]
    counts = {kept.count(name) for name in set(classes.values())}
    assert len(counts) <= 1
    if classes:
        assert counts == {min(list(classes.values()).count(name) for name in set(classes.values()))}


@given(st.lists(st.sampled_from(["a", "bb", "c", None, ""]), max_size=12), st.floats(0, 1))
def test_a_chosen_output_is_one_that_no_other_outnumbers(said: list[str | None], share: float) -> None:
    found = choose_consistent(said, min_agreement=share)
    assert len(found.reasons) == len(said)
    left = [text for text, reason in zip(said, found.reasons, strict=True) if reason is None]
    assert (found.output is None) == (found.reason is not None)
    if found.output is not None:
        assert found.agreement == pytest.approx(left.count(found.output) / len(left))
        assert all(left.count(text) <= left.count(found.output) for text in left)
        assert found.agreement >= share
