import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.decontamination import (
    build_evaluation_index,
    find_evaluation_overlap,
    normalise_text,
    overlaps_evaluation,
)

DATA = Path(__file__).parents[3] / "shared" / "data"
LONG = "a b c d e f g h i j k l m n"


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise_text(text)
    assert normalise_text(once) == once


@pytest.mark.parametrize(
    ("left", "right", "are_equal"),
    [
        ("What is  5 + 3?", "what is 5 + 3", True),
        ("“Ｓort 3 1 2.”", "sort 3 1 2", True),
        ("(Say hi!)", "say hi", True),
        ("-5 + 3", "5 + 3", False),
        ("take 50%", "take 50", False),
        ("sort 3, 1", "sort 3 1", False),
    ],
)
def test_normalised_equality(left: str, right: str, are_equal: bool) -> None:
    assert (normalise_text(left) == normalise_text(right)) == are_equal
    assert overlaps_evaluation(left, build_evaluation_index([right])) == are_equal


def test_thirteen_words_in_a_row() -> None:
    """14 letters: 13 of them inside other words overlap, 12 do not, nor 13 with one changed in the middle."""
    index = build_evaluation_index([LONG])
    assert overlaps_evaluation("please: b, c d e f g h i j k l m n now", index)
    assert not overlaps_evaluation("please c d e f g h i j k l m n now", index)
    assert not overlaps_evaluation("b c d e f g X i j k l m n", index)


def test_short_prompts_only_by_equality() -> None:
    index = build_evaluation_index(["Add 2 and 3."])
    assert not overlaps_evaluation("First: add 2 and 3.", index)
    assert overlaps_evaluation("add 2 and 3", index)
    assert overlaps_evaluation("First: add 2 and 3.", build_evaluation_index(["Add 2 and 3."], ngram=4))


def test_empty() -> None:
    index = build_evaluation_index(["", "..."])
    assert not overlaps_evaluation("", index)
    assert find_evaluation_overlap(["?", LONG], index) == find_evaluation_overlap([], index) == []
    with pytest.raises(ValueError, match="ngram must be at least 1, got 0"):
        build_evaluation_index([LONG], ngram=0)


@pytest.mark.skipif(not DATA.is_dir(), reason="real data at ../shared/data is absent")
def test_gsm8k_test_questions_are_found_and_training_ones_are_not() -> None:
    def read(name: str) -> list[str]:
        return [json.loads(line)["question"] for line in (DATA / name).read_text(encoding="utf-8").splitlines()]

    held_out = read("gsm8k_test.jsonl")
    index = build_evaluation_index(held_out)
    assert len(find_evaluation_overlap([f"Solve this. {q.upper()}" for q in held_out[:200]], index)) == 200
    train = read("gsm8k_train.jsonl")[:2000]
    assert len(find_evaluation_overlap(train, index)) / len(train) < 0.02
