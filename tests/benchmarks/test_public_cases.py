import json
import sys
from pathlib import Path

import pytest

from benchmarks import public_cases
from benchmarks.public_cases import OWN_CASES, find_function, is_expected, run_cases
from lance_assets.algorithms.reviews.pairwise import Unread
from lance_assets.algorithms.reviews.review_parsing import Unscored, parse_review

REVIEW = "lance_assets.algorithms.review_parsing.parse_review"


def write_cases(folder: Path, name: str, *cases: dict) -> None:
    (folder / name).write_text("".join(json.dumps(case) + "\n" for case in cases))


def test_every_own_case_is_right() -> None:
    outcomes = list(run_cases(OWN_CASES))
    assert [outcome for outcome in outcomes if not outcome.is_right] == []
    assert len(outcomes) > 250


def test_wrong_cases_and_those_that_nothing_runs_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = {"call": REVIEW, "arguments": {}, "input": "score: 8", "expected": 8.0}
    cut = {"call": REVIEW, "arguments": {"fr": "length"}, "input": "Fine. score: 8", "expected": "unscored"}
    wrong, unknown = right | {"expected": 7.0}, right | {"call": "lance_assets.gone.parse_gone"}
    write_cases(tmp_path, "review.jsonl", right, wrong, cut, unknown)
    write_cases(tmp_path, "one.jsonl", right)
    (tmp_path / "other.md").write_text("In words.")
    (tmp_path / "README.md").write_text("No case.")
    monkeypatch.setattr(sys, "argv", ["public_cases", "--cases", str(tmp_path)])
    public_cases.main()
    printed = capsys.readouterr().out.splitlines()
    failing = ["other", "review:2", "review:4"]
    assert json.loads(printed[-1]) == {"num_cases": 6, "num_right": 3, "failing": failing}
    assert printed[0] == "other: not run: there is no test test_case_other"
    assert "LookupError" in printed[2]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no case"):
        list(run_cases(tmp_path))


def test_a_renamed_module_is_found_by_its_last_name() -> None:
    assert find_function(REVIEW) is parse_review


@pytest.mark.parametrize(
    ("got", "expected", "is_right"),
    [
        (8.0, 8.0, True),
        (8.0, [8.0, "unscored"], True),
        (Unscored("no_score", ""), [8.0, "unscored"], True),
        (Unscored("no_score", ""), "unscored:no_score", True),
        (Unscored("no_score", ""), "unscored:cut_off", False),
        (Unread("empty", ""), "unread", True),
        (Unread("empty", ""), "unscored", False),
        (True, 1, False),
        (None, None, True),
        ("A", "B", False),
    ],
)
def test_what_is_expected(got: object, expected: object, is_right: bool) -> None:
    assert is_expected(got, expected) is is_right
