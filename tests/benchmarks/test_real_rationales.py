import json
from pathlib import Path

from benchmarks.real_rationales import ENDINGS, make_rationales, measure, read_rationales


def test_made_rationales_are_read_as_they_end() -> None:
    made = make_rationales()
    assert len(made) > 30
    assert measure(made) == {"num_rationales": len(made), "agreement": 1.0, "spurious": 0}


def test_a_score_that_the_data_do_not_have_is_spurious() -> None:
    figures = measure([("It is fine. score: 2.", 3), ("It is short.", 3)])
    assert figures == {"num_rationales": 2, "agreement": 1.0, "spurious": 1}


def test_the_files_of_prometheus_are_read(tmp_path: Path) -> None:
    row = {"gpt4_feedback": str(["Good.", "Short.", "Wrong."]), "gpt4_score": str([5, 3, 1])}
    (tmp_path / "mt_bench_eval.json").write_text(json.dumps([row]))
    assert read_rationales(tmp_path) == [("Good.", 5), ("Short.", 3), ("Wrong.", 1)]
    assert len(ENDINGS) == 6


def test_a_wrong_reading_counts_against_the_agreement() -> None:
    """The score that is made up here lies off the scale, so that no ending can be read."""
    assert measure([("It is short.", 9)])["agreement"] == 0.0
