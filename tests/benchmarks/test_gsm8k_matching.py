import json
import sys
from pathlib import Path

import pytest

from benchmarks import gsm8k_matching
from benchmarks.__main__ import choose_arguments
from benchmarks.gsm8k_matching import FILE, MODELS, Solution, compare, make_solutions, read_solutions


def test_differing_verdicts_are_counted_and_the_same_number_is_explained() -> None:
    figures = compare(
        [
            Solution("a", "5", "2 + 3\nA: 5", True),
            Solution("a", "5", "A: 6", False),
            Solution("b", "5", "2 + 3", False),
            Solution("b", "5", "2 + 3\nA: 5.0", False),
            Solution("b", "5", "2 + 3\nA: 5", False),
            Solution("b", "5", "2 + 3\nA: 7", True),
        ]
    )
    assert figures == {"agreement": 0.5, "num_rows": 6, "unexplained": 2, "without_answer": 1}


def test_made_answers_agree() -> None:
    solutions = make_solutions(2_000)
    assert sum(solution.is_correct for solution in solutions) == 1_000
    assert compare(solutions) == {"agreement": 1.0, "num_rows": 2_000, "unexplained": 0, "without_answer": 0}


def test_a_file_is_read_and_its_figures_are_the_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    solutions = {name: {"solution": "DNA: 3\nA: 1,000", "is_correct": name == MODELS[0]} for name in MODELS}
    (tmp_path / FILE).write_text(json.dumps({"question": "?", "ground_truth": "So\nA: 1000", **solutions}))
    arguments = choose_arguments("gsm8k_matching", quick=True, data=tmp_path)
    assert arguments == ["--quick", "--data", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["gsm8k_matching", *arguments])
    gsm8k_matching.main()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    wanted = {"agreement": 0.25, "num_rows": 4, "unexplained": 0, "without_answer": 0, "is_real_data": True}
    assert figures == wanted
    (tmp_path / FILE).write_text(json.dumps({"question": "?", "ground_truth": "1000", **solutions}))
    with pytest.raises(ValueError, match="line 1: ground_truth has no line"):
        read_solutions(tmp_path / FILE)


def test_real_solutions(real_data: Path) -> None:
    """No verdict of the 5,276 differs; 11 solutions have no answer, being cut, and count as wrong."""
    solutions = read_solutions(real_data / FILE)
    figures = compare(solutions)
    assert figures["num_rows"] == 5_276
    assert figures["agreement"] >= 0.999
    assert figures["unexplained"] == 0
    assert figures["without_answer"] == 11
    assert sum(solution.is_correct for solution in solutions) == 2_001
