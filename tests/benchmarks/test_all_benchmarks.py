"""What runs all benchmarks: which get real data, and what the table says."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import _real_data
from benchmarks.__main__ import choose_arguments, describe_machine, format_table, list_benchmarks
from benchmarks._real_data import find_data

NEED_MODEL = ("real_evolution", "real_model", "real_proposals")
"""The benchmarks that measure nothing of a real model without real data."""
NEED_DATA = ("dedup_contrast", "evaluation", "filters", *NEED_MODEL, "spoilt_rows", "training")
"""The benchmarks that measure nothing without real data."""


def test_real_data_goes_to_the_benchmarks_that_take_it(tmp_path: Path) -> None:
    (tmp_path / "t0_train_50k.parquet").touch()
    assert choose_arguments("orchestration", quick=False, data=tmp_path) == []
    assert choose_arguments("orchestration", quick=True, data=None) == ["--quick"]
    assert choose_arguments("rouge_l", quick=False, data=tmp_path) == ["--data", str(tmp_path)]
    corpus = ["--corpus", str(tmp_path / "t0_train_50k.parquet")]
    assert choose_arguments("dedup", quick=True, data=tmp_path) == ["--quick", *corpus]


def test_a_real_model_goes_to_what_measures_one(tmp_path: Path) -> None:
    """The small model's own figures are not another model's, and a round of a real model needs data."""
    model = ["--model", str(tmp_path)]
    assert choose_arguments("small_model", quick=False, data=None, model=tmp_path) == []
    assert choose_arguments("training", quick=False, data=None, model=tmp_path) == model
    assert choose_arguments("real_proposals", quick=True, data=None, model=tmp_path) == model
    assert choose_arguments("whole_round", quick=False, data=None, model=tmp_path) == []
    assert choose_arguments("whole_round", quick=False, data=tmp_path, model=tmp_path)[-2:] == model


def test_every_claim_has_its_file() -> None:
    assert set(list_benchmarks()) >= {"dedup", "embedding", "kcenter", "rouge_l", "small_model", "vendi"}


def test_a_failed_benchmark_keeps_its_row() -> None:
    table = format_table({"a": None, "b": {"speedup": 2.0, "arms": {}}}, {"a": 1.0, "b": 2.0})
    assert table.split("\n")[2:] == ["| a | FAILED | |", "| b | speedup | 2 |", "| b | (ran for) | 2 s |"]


def test_the_machine_is_told_without_its_paths() -> None:
    told = describe_machine()
    assert "commit" in told
    assert "cores" in told
    assert "/" not in told


@pytest.fixture
def no_data_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(_real_data, "DATA", tmp_path / "nowhere")
    return tmp_path


def test_without_real_data_a_benchmark_is_skipped_and_says_why(
    no_data_here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        find_data(argparse.ArgumentParser(), None, ["a.jsonl", "b.jsonl"])
    assert ended.value.code == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures == {"skipped": "no real data: name a folder with a.jsonl, b.jsonl by --data"}
    assert f"| spoilt_rows | skipped | {figures['skipped']} |" in format_table(
        {"spoilt_rows": figures}, {"spoilt_rows": 1}
    )


def test_a_named_folder_without_the_file_is_an_error_and_a_whole_one_is_taken(
    no_data_here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (no_data_here / "a.jsonl").touch()
    assert find_data(argparse.ArgumentParser(), no_data_here, ["a.jsonl"]) == no_data_here
    with pytest.raises(SystemExit) as ended:
        find_data(argparse.ArgumentParser(), no_data_here, ["a.jsonl", "b.jsonl"])
    assert ended.value.code == 2
    assert f"there is no b.jsonl in {no_data_here}; name the folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", NEED_DATA)
def test_each_of_them_asks_for_its_data_before_anything_else(name: str, no_data_here: Path) -> None:
    """As `make bench` starts it in a checkout with no data beside it: status 0, and one line with the reason."""
    given = ["x", "--model", str(no_data_here)] if name in NEED_MODEL else ["x"]
    code = (
        "import runpy, sys; from pathlib import Path; from benchmarks import _real_data; "
        f"_real_data.DATA = Path({str(no_data_here)!r}); sys.argv = {given}; "
        f"runpy.run_module('benchmarks.{name}', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["skipped"].startswith("no real data: name a folder with ")
