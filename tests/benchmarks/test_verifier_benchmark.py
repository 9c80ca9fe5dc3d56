"""The benchmark of the verifier: what it holds answers against, and which hostile programs there are."""

from pathlib import Path

import pytest

from benchmarks import verifier
from benchmarks._hostile_programs import list_hostile


def test_made_answers_are_judged_as_they_were_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "HAS_MATH", False)
    figures = verifier.measure_answers(None, num_rows=200)
    assert (figures["agreement"], figures["num_rows"], figures["reader"]) == (1.0, 200, "own")
    assert float(str(figures["answers_per_second"])) > 0


def test_hostile_programs_have_names_of_their_own_and_tests_that_can_be_read(tmp_path: Path) -> None:
    hostile = list_hostile(tmp_path / "secret", tmp_path / "outside")
    assert len({one.name for one in hostile}) == len(hostile) >= 50
    assert {one.build_tests().asserts.count("assert") for one in hostile} == {1, 2}
