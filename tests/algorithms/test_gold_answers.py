"""Whether a completion says the gold answer; where that cannot be told, nothing is claimed."""

import json
from pathlib import Path

import pytest

from lance_assets.algorithms.reviews.gold_answers import says_gold_answer

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize(
    ("completion", "gold", "expected"),
    [
        ("48 / 2 = 24\n#### 24", "24", True),
        ("48 / 2 = 24\n#### 25", "24", False),
        ("The answer is 18 dollars.", "18", True),
        ("The answer is 1,800.", "1800", True),
        ("So the answer is 7, because 3 + 4 = 7 and not 8.", "7", True),
        ("The answer is 8. No, the answer is 7.", "7", True),
        ("First 12 eggs, then 7 left", "7", True),
        ("First 12 eggs, then 7 left", "12", False),
        ("I do not know.", "7", None),
        ("", "7", None),
        ("<think>It is 8.</think>It is 7.", "7", True),
        ("Answer: B", "B", True),
        ("The answer is C", "B", False),
        ("That would be Paris.", "Paris", True),
        ("Somewhere in the south of France, by the sea.", "Paris", None),
        ("The answer is a city on the river Seine.", "Paris", None),
        ("答案：巴黎。", "巴黎", True),
    ],
)
def test_worked_by_hand(completion: str, gold: str, expected: bool | None) -> None:
    assert says_gold_answer(completion, gold, mark="####") is expected


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not here")
def test_real_solutions_are_judged_as_by_their_mark_and_none_turns_by_its_absence() -> None:
    """GSM8K's own solutions are right with the mark and, where the last line is cut to the number, without it."""
    rows = [json.loads(line) for line in (DATA / "gsm8k_test.jsonl").read_text().splitlines()][:300]
    for row in rows:
        gold = row["answer"].rpartition("####")[2].strip()
        assert says_gold_answer(row["answer"], gold, mark="####") is True
        assert says_gold_answer(row["answer"].replace("####", "So:"), gold) is True
        assert says_gold_answer(f"{row['answer']}7", gold, mark="####") is False
