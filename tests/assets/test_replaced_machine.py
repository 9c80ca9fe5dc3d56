"""A machine that is replaced in the middle of a round: another one, at another path, goes on from the lost step."""

import json
import os
import shutil
import socket
import time
from dataclasses import asdict
from pathlib import Path

import dagster as dg
import pytest

from lance_assets.assets.names import find_key
from lance_assets.assets.past.doctor import examine
from lance_assets.assets.running.lost import TAKE_UP_TAG, end_lost_runs, list_scopes
from lance_assets.assets.sensors import decide, explain_obstacle, list_to_make
from resources.machine.claims import SILENT_SECONDS, Claim
from tests.assets.scripted_platform import SCRIPTED, without_drawing
from tests.assets.tiny_experiment import World, find_failures, open_world

GONE = "the-machine-that-is-gone"
LOST = ("reviewed_set", "sft_set", "preference_pairs", "diversity_report", "checkpoint", "eval_report")
"""What a round had not made yet when its machine was lost: it was at the first of these."""
FINISHED = ("seed_set", "raw_generations", "cleaned_set", "kept_vectors")
"""Tables of the steps that it had made."""


def lose_machine(world: World) -> dg.DagsterRun:
    """Leave r0001 as a machine does that is gone while it makes the first of `LOST`."""
    tables, checkpoints = world.platform.tables, world.platform.checkpoints
    for noun in LOST:
        tables.path("tiny", "r0001", noun).unlink()
    shutil.rmtree(checkpoints.folder("tiny", "r0001"))
    job = world.definitions.resolve_job_def("tiny_round")
    run = world.instance.create_run_for_job(
        job, tags={"dagster/partition": "r0001"}, status=dg.DagsterRunStatus.STARTED
    )
    for name in (run.run_id, f"{run.run_id}.reviewed_set"):
        file = world.platform.claims.folder / f"{name}.json"
        claim = Claim(name, "run of tiny r0001", tuple(list_scopes(run)), os.getpid(), 1.0, GONE, time.time() - 3600)
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(asdict(claim)))
        # The last touch of a machine that was lost more than a minute ago.
        os.utime(file, (time.time() - 2 * SILENT_SECONDS,) * 2)
    return run


def read_times(world: World) -> dict[str, int]:
    """When each table of r0001 was written, in ns."""
    folder = world.platform.root / "tables" / "tiny" / "r0001"
    return {file.stem: file.stat().st_mtime_ns for file in folder.glob("*.parquet")}


@pytest.mark.parametrize("keeps_dagster", [True, False], ids=["with its Dagster home", "with a new Dagster home"])
def test_another_machine_goes_on_from_the_lost_step(
    tmp_path: Path, scripted_rounds: Path, monkeypatch: pytest.MonkeyPatch, keeps_dagster: bool
) -> None:
    old, new = tmp_path / "old", tmp_path / "elsewhere" / "new"
    with open_world(old, made_before=scripted_rounds, **SCRIPTED) as world:
        made = world.read_bytes("r0001")
        run = lose_machine(world)
    new.mkdir(parents=True)
    # A volume is mounted at another path; what nobody keeps is gone.
    shutil.copytree(old / "data", new / "data")
    if keeps_dagster:
        shutil.copytree(old / "dagster", new / "dagster")
    shutil.rmtree(old)
    monkeypatch.setattr(socket, "gethostname", lambda: "another-machine")
    with without_drawing(), open_world(new, **SCRIPTED) as world:
        instance, plan, platform, said = world.instance, world.plan, world.platform, list[str]()
        ended = end_lost_runs(instance, platform.claims, say=said.append)
        assert [one.run_id for one in ended] == ([run.run_id] if keeps_dagster else [])
        assert all(GONE in line for line in said)
        if not keeps_dagster:
            obstacle = explain_obstacle(instance, plan, platform, "r0000")
            assert obstacle is not None
            assert "lance doctor tiny --fix" in obstacle
            for finding in examine(instance, {"tiny": plan}, platform, "tiny"):
                if finding.fix is not None:
                    finding.fix()
        assert decide(instance, plan, platform).next_round == "r0001"
        left, times = list_to_make(instance, plan, platform, "r0001"), read_times(world)
        assert set(LOST) <= {*left}
        assert not keeps_dagster or left == list(LOST)
        result = world.definitions.resolve_job_def("tiny_round").execute_in_process(
            partition_key="r0001",
            instance=instance,
            raise_on_error=False,
            asset_selection=[find_key(plan, noun) for noun in left],
            tags={TAKE_UP_TAG: "a test"},
        )
        assert result.success, find_failures(result)
        assert world.read_bytes("r0001") == made
        # Finished steps were not even written again.
        assert {noun: read_times(world)[noun] for noun in FINISHED} == {noun: times[noun] for noun in FINISHED}
        assert decide(instance, plan, platform).next_round == "r0002"


def test_the_claim_of_the_machine_that_is_gone_counts_until_it_was_silent_for_a_minute(
    tmp_path: Path, scripted_rounds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_world(tmp_path / "world", made_before=scripted_rounds, **SCRIPTED) as world:
        run = lose_machine(world)
        monkeypatch.setattr(socket, "gethostname", lambda: "another-machine")
        os.utime(world.platform.claims.folder / f"{run.run_id}.json")
        assert not end_lost_runs(world.instance, world.platform.claims, say=lambda _: None)
