"""Kills at random moments: nothing is lost, doubled or changed, and nobody helps."""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from benchmarks._chaos_plan import TARGETS
from benchmarks._chaos_results import compare
from resources.stores.tables import TableStore

SCHEMA = pl.Schema({"row_id": pl.String})


def write(root: Path, *rows: str) -> None:
    """A table of r0000."""
    TableStore(root).write("tiny", "r0000", "seed_set", pl.DataFrame({"row_id": rows}, schema=SCHEMA), schema=SCHEMA)


def test_rows_that_are_lost_doubled_or_changed_are_counted(tmp_path: Path) -> None:
    wanted, same, other, none = (tmp_path / name for name in ("wanted", "same", "other", "none"))
    write(wanted, "a", "b")
    write(same, "a", "b")
    write(other, "a", "a")
    found = compare(wanted, same, "tiny")
    assert (found.num_lost, found.num_doubled, found.differences, found.num_compared) == (0, 0, [], 1)
    found = compare(wanted, other, "tiny")
    assert (found.num_lost, found.num_doubled, found.differences) == (1, 1, ["tables/r0000/seed_set.parquet"])
    found = compare(wanted, none, "tiny")
    assert (found.num_lost, found.num_doubled, found.differences) == (2, 0, ["tables/r0000/seed_set.parquet"])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_kills_of_all_kinds_change_nothing(project_root: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.chaos", "--kills", "10", "--rounds", "0"]
    done = subprocess.run(command, cwd=project_root, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    wanted = {"kills": 10, "lost_rows": 0, "doubled_rows": 0, "differences": 0, "manual_steps": 0, "failed_commands": 0}
    assert {name: figures[name] for name in wanted} == wanted, done.stdout
    assert set(figures["kills_by_target"]) == set(TARGETS["command"])
    assert figures["compared"] > 0
