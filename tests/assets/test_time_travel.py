"""A past round that is made again is the same to the byte, whatever else runs, and touches nothing but itself."""

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from lance_assets.rounds.experiments import plan_experiment
from tests.assets.scripted_platform import SCRIPTED, SCRIPTED_SETTINGS, ScriptedPlatform, without_drawing
from tests.assets.tiny_experiment import (
    World,
    build_tiny_definitions,
    build_tiny_settings,
    open_world,
    write_tiny_experiment,
)

NUM_REDOS = 8
"""It was run with 20 too, with the same result."""
ROUNDS = ("r0000", "r0001", "r0002")


def read_all(world: World) -> dict[str, bytes]:
    """Every table, checkpoint file and vector of the experiment, by round and name."""
    found = {f"{key} {name}": content for key in ROUNDS for name, content in world.read_bytes(key).items()}
    for key in ROUNDS:
        rows, vectors = world.platform.history.read_round("tiny", key)
        ordered = rows["row_id"].arg_sort()
        found[f"{key} history"] = repr(rows[ordered].rows()).encode() + vectors[ordered.to_numpy()].tobytes()
    return found


def run_other(root: str, name: str) -> None:
    """All rounds of another experiment on the same data, in this process."""
    folder = write_tiny_experiment(Path(root) / "experiments" / name)
    plan = plan_experiment(build_tiny_settings(**SCRIPTED_SETTINGS), folder)
    definitions = build_tiny_definitions(plan, ScriptedPlatform(data_root=f"{root}/data"))
    job = definitions.resolve_job_def(f"{name}_round")
    with without_drawing(), dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(f"{name}_round", list(ROUNDS))
        for key in ROUNDS:
            assert job.execute_in_process(partition_key=key, instance=instance).success


def run_backfill(root: str) -> None:
    """The last round once more, as a backfill does, in this process with an instance of its own."""
    world_root = Path(root)
    (world_root / "backfill").mkdir()
    (world_root / "backfill" / "data").symlink_to(world_root / "data")
    with without_drawing(), open_world(world_root / "backfill", in_memory=True, **SCRIPTED) as world:
        world.add(*ROUNDS)
        for _ in range(NUM_REDOS // 4):
            assert world.run("r0002").success


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_redos_beside_another_experiment_and_a_backfill_change_no_byte(
    tmp_path: Path, scripted_rounds: Path, project_root: Path
) -> None:
    with without_drawing(), open_world(tmp_path, made_before=scripted_rounds, **SCRIPTED) as world:
        assert world.run("r0002").success
        before = read_all(world)
        assert len(before) > 30
        module = "tests.assets.test_time_travel"
        others = [f"run_other({str(tmp_path)!r}, 'other')", f"run_backfill({str(tmp_path)!r})"]
        environment = os.environ | {"PYTHONPATH": str(project_root)}
        running = [
            subprocess.Popen([sys.executable, "-c", f"from {module} import *; {call}"], env=environment)
            for call in others
        ]
        for _ in range(NUM_REDOS):
            assert world.run("r0001").success
        assert [process.wait(timeout=240) for process in running] == [0, 0]
        after = read_all(world)
        assert [name for name in before if before[name] != after.get(name)] == []
        assert after.keys() == before.keys()
        rows, _ = world.platform.history.read_round("other", "r0002")
        assert len(rows) > 0
