import json
from pathlib import Path

import pytest

from benchmarks._judgements import Judgement, list_judgements, measure_judgements, read_judgements
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


def test_judgements_are_found_by_their_fields(tmp_path: Path) -> None:
    """MT-Bench's of one and of two completions, and Arena-Hard's; another file's rows are none."""
    single = [
        {"judgment": "It is short. Rating: [[4]]", "score": 4},
        {"judgment": "$ERROR$", "score": -1},
        {"judgment": "It is long. Rating: [[6.5]]", "score": None},
        {"judgment": "It is long. Rating: [[6]]", "score": 7},
    ]
    pair = {"model_1": "x", "model_2": "y", "g1_judgment": "A is clear. [[A]]", "g1_winner": "model_1"}
    pair |= {"g2_judgment": "Both are. [[C]]", "g2_winner": "tie"}
    thought = "<think>First [[A>B]]?</think>\n\nMy final verdict is: [[B>>A]]"
    games = [{"judgment": thought, "score": "B>>A"}, {"judgment": {"answer": "I cannot say."}, "score": "A=B"}]
    files = {"single": single, "deep/pair": [pair], "deep/games": [{"games": games}], "other": [{"prompt": "p"}]}
    for name, rows in files.items():
        file = tmp_path / f"{name}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = read_judgements(tmp_path)
    assert sorted({file.stem for file, _ in found}) == ["games", "pair", "single"]
    assert measure_judgements(found) == {
        **{"judge_scores_num": 2, "judge_scores_agreement": 0.5, "judge_scores_unread": 0, "judge_scores_wrong": 1},
        **{"judge_scores_unpublished": 2, "judge_scores_spurious": 1},
        **{"judge_verdicts_num": 4, "judge_verdicts_agreement": 0.75, "judge_verdicts_unread": 1},
        **{"judge_verdicts_wrong": 0, "judge_verdicts_unpublished": 0, "judge_verdicts_spurious": 0},
    }


def test_without_judgements_there_is_no_agreement() -> None:
    assert measure_judgements([])["judge_scores_agreement"] is None
    assert list_judgements({"judgment": "Fine. [[8]]"}) == [Judgement("Fine. [[8]]", None, False)]


def test_published_judgements_are_read(real_data: Path) -> None:
    """Of what real judges wrote, where such files lie with the real data."""
    judged = read_judgements(real_data)
    if not judged:
        pytest.skip(f"no judgements below {real_data}; benchmarks/_judgements.py names the formats")
    figures = measure_judgements(judged)
    for kind in ("judge_scores", "judge_verdicts"):
        assert figures[f"{kind}_agreement"] is None or figures[f"{kind}_agreement"] > 0.99
        assert figures[f"{kind}_wrong"] == 0
