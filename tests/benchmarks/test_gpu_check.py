"""The check of a machine goes on past what fails, says what failed, and runs on a CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_check
from benchmarks._gpu_stages import STAGES, plan_items
from benchmarks.gpu_check import NAMES, NUM_ROWS, QUICK_ROWS, read_row, run_in_time, tabulate
from lance_assets.small_world import SMALL_MODEL


def test_every_stage_has_its_sizes() -> None:
    assert tuple(STAGES) == NAMES
    assert set(NUM_ROWS) == set(QUICK_ROWS) == set(NAMES)


def test_what_a_stage_says_becomes_its_row() -> None:
    found = read_row(0, 'loading\n{"throughput": 3.0, "note": "fine"}\n', "a warning")
    assert found == {"status": "ok", "throughput": 3.0, "note": "fine"}
    assert read_row(0, "no object", "")["status"] == "failed"
    assert read_row(0, "", "") == {"status": "failed", "note": "exit 0: without a word"}
    assert read_row(1, "", "Traceback\nRuntimeError: CUDA error: no kernel\n\n") == {
        "status": "failed",
        "note": "exit 1: RuntimeError: CUDA error: no kernel",
    }
    missing = read_row(1, "", "RuntimeError: missing: bitsandbytes is not installed (pip install bitsandbytes)")
    assert missing == {"status": "missing", "note": "bitsandbytes is not installed (pip install bitsandbytes)"}


def test_a_stage_that_hangs_or_crashes_ends_alone() -> None:
    assert run_in_time([sys.executable, "-c", "import time; time.sleep(60)"], 0.5)[0] is None
    code, _, _ = run_in_time([sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"], 30)
    assert code == -11
    assert read_row(code, "", "")["note"] == "exit -11: without a word"


def test_one_failure_leaves_the_others_their_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second of three stages fails: all three are in the table and in the figures, and the command ends with 1."""
    found = {
        "generation": {"status": "ok", "throughput": 1234.5, "unit": "tokens/s", "planned": 1000.0, "peak_gib": 2.5},
        "sft": {"status": "failed"},
        "qlora": {"status": "missing"},
    }

    def run_stage(name: str, job: object, *, seconds: float) -> dict[str, object]:
        return found[name] | {"note": f"{name} | said", "seconds": 3.0}

    monkeypatch.setattr(gpu_check, "run_stage", run_stage)
    monkeypatch.setattr(gpu_check, "describe_device", lambda: "a machine")
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--stages", *found])
    assert gpu_check.main() == 1
    *lines, last = capsys.readouterr().out.splitlines()
    figures = json.loads(last)
    assert figures["device"] == "a machine"
    assert {name: row["status"] for name, row in figures["stages"].items()} == {
        "generation": "ok",
        "sft": "failed",
        "qlora": "missing",
    }
    table = [line for line in lines if line.startswith("| ")]
    assert table[2] == "| generation | 1,234.5 tokens/s | 1,000.0 tokens/s | 2.5 | 3 | generation / said |"
    assert table[3] == "| sft |  |  |  | 3 | failed: sft / said |"
    found["sft"]["status"] = "ok"
    assert gpu_check.main() == 0


def test_no_minutes_left_is_a_failure_of_the_stage_alone() -> None:
    row = gpu_check.run_stage("sft", {}, seconds=0)
    assert (row["status"], row["note"]) == ("failed", "not run: the minutes were over")
    told = tabulate({"sft": row}, model="small", device="a CPU")
    assert told.splitlines()[-1] == "| sft |  |  |  | 0 | failed: not run: the minutes were over |"


def test_the_items_of_an_evaluation_are_planned_by_their_tokens() -> None:
    """A choice reads two completions with their prompt, and writes nothing."""
    both, generated, chosen = (plan_items(SMALL_MODEL, *counts) for counts in ((40, 40), (40, 0), (0, 40)))
    assert both is not None
    assert generated is not None
    assert chosen is not None
    assert both == pytest.approx(generated + chosen)
    assert plan_items(SMALL_MODEL, 80, 80) == pytest.approx(2 * both)


@pytest.mark.slow
def test_everything_runs_on_a_cpu(project_root: Path) -> None:
    """All stages with few rows; only QLoRA needs what is not here."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check", "--quick", "--minutes", "20"],
        cwd=project_root,
        capture_output=True,
        text=True,
    )
    figures = json.loads(done.stdout.splitlines()[-1])
    told = {name: row["note"] for name, row in figures["stages"].items() if row["status"] != "ok"}
    assert set(told) <= {"qlora"}, told
    assert done.returncode == 0
    for name in set(NAMES) - {"qlora"}:
        row = figures["stages"][name]
        assert row["throughput"] > 0
        assert row["peak_gib"] > 0
        # vLLM's rates on a CPU are in no table.
        assert name == "generation" or row["planned"] > 0, name
