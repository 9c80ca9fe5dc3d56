"""The benchmark of review signals: its pairs, its table, and what is best."""

import argparse
import json
from pathlib import Path

import pytest

from benchmarks.__main__ import list_benchmarks
from benchmarks.real_model import (
    OWN_SEEDS,
    SOLVERS,
    build_all_pairs,
    describe_signal,
    find_best,
    read_instructions,
    read_solutions,
    tabulate,
)
from lance_assets.algorithms.measures.signals import ScoredPair, SignalMeasures, measure_signal
from lance_assets.small_world import SMALL_MODEL


def measure(*scores: tuple[float | None, float | None]) -> SignalMeasures:
    return measure_signal([ScoredPair("gold", *pair, 3, 3) for pair in scores])


def write_solutions(folder: Path) -> Path:
    rows = []
    for number in range(4):
        solutions = {solver: {"is_correct": False, "solution": f"{number}\nA: 1"} for solver in SOLVERS}
        if number:
            solutions[SOLVERS[2]] = {"is_correct": True, "solution": f"{number} + 2 = <<{number}+2=9>>9\nA: 9"}
        rows.append({"question": f"How many, {number}?", **solutions})
    path = folder / "gsm8k_example_model_solutions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_solutions_are_right_and_wrong_ones_of_one_question(tmp_path: Path) -> None:
    seeds = read_solutions(write_solutions(tmp_path), max_words=40)
    # The first question has no right solution.
    assert [(seed.completion, seed.wrong) for seed in seeds] == [
        (f"{number} + 2 = 9\nA: 9", (f"{number}\nA: 1",)) for number in (1, 2, 3)
    ]
    assert read_solutions(tmp_path / "gsm8k_example_model_solutions.jsonl", max_words=3) == []


def test_seeds_without_answers_get_gold_pairs_from_the_solutions(tmp_path: Path) -> None:
    write_solutions(tmp_path)
    rows = [{"instruction": f"Say {word}.", "output": f"This is what {word} is said to be."} for word in "abcde"]
    (tmp_path / "self_instruct_seed_tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"num_pairs": 3, "rng_seed": 0, "max_words": 80, "seeds": None, "data": tmp_path}
    pairs = build_all_pairs(argparse.Namespace(model=tmp_path, **given))
    assert [pair.kind for pair in pairs] == [k for k in ("other_seed", "degraded", "truncated", "gold") for _ in "123"]
    assert {pair.rule for pair in pairs if pair.kind == "gold"} == {"known_wrong"}
    # The packaged model has its own seeds, which carry answers.
    own = build_all_pairs(argparse.Namespace(model=SMALL_MODEL, **given))
    assert {pair.rule for pair in own if pair.kind == "gold"} == {"answer"}


def test_long_seeds_are_left_out() -> None:
    every, short = (read_instructions(OWN_SEEDS, max_words=most) for most in (1000, 25))
    assert 0 < len(short) < len(every)
    assert all(seed.answer for seed in every)


def test_the_table_has_a_row_a_signal_and_the_best_is_one_that_scores() -> None:
    measured = {
        "sampled": measure((9, 1), (5, 5)),
        # Half of what cannot be scored may be chosen by, and no more.
        "yes_no": measure((0.9, 0.1), (None, None), (None, None)),
        "likelihood": measure((1, 2), (1, 3)),
    }
    assert find_best(measured) == "sampled"
    lines = tabulate(measured).split("\n")
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| sampled", "| yes_no", "| likelihood"]
    assert len({line.count("|") for line in lines}) == 1
    figures = describe_signal(measured["sampled"])
    assert (figures["auc"], figures["accuracy"], figures["tied_rate"]) == (0.875, 0.75, 0.5)
    json.dumps(figures)


def test_it_runs_with_the_others() -> None:
    assert "real_model" in list_benchmarks()


@pytest.mark.slow
def test_the_last_line_has_the_figures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import real_model

    arguments = ["real_model", "--quick", "--num-pairs", "1", "--max-new-tokens", "48", "--signals"]
    monkeypatch.setattr("sys.argv", [*arguments, "sampled", "forced_digit", "mutual_information", "pairwise"])
    real_model.main()
    figures = json.loads(capsys.readouterr().out.strip().split("\n")[-1])
    assert {
        *("model", "reviewer_auc", "reviewer_accuracy", "unscored_rate", "new_prompt_valid_rate"),
        *("degraded_worse_rate", "tokens_per_second", "minutes"),
    } <= set(figures)
    assert set(figures["signals"]) == {"sampled", "forced_digit", "mutual_information", "pairwise"}
    assert 0 <= figures["signals"]["forced_digit"]["auc"] <= 1
    assert figures["tokens_per_second"] > 0
