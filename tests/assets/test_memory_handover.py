"""Training in a round: it waits for the engines, names one that stays, and shows what it found and took."""

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from lance_assets.assets import building
from resources.machine.handover import EngineLeases
from tests.assets.conftest import OpenWorld
from tests.assets.scripted_platform import SCRIPTED_TRAINER
from tests.assets.tiny_experiment import TRAINING, find_failures, open_world


@pytest.mark.slow
def test_memory_is_in_the_metadata_and_not_in_the_table(first_round: Path) -> None:
    with open_world(first_round) as world:
        shown, table = world.metadata("checkpoint", "r0000"), world.round("r0000").read("checkpoint")
    memory = {name.removeprefix("memory/"): value for name, value in shown.items() if name.startswith("memory/")}
    gpus = {name for name in memory if name.startswith("free_before_training_gpu_")}
    assert memory.keys() - gpus == {
        *("free_before_training_gib", "seconds_waited"),
        *("training_peak_host_gib", "training_peak_gpu_gib"),
    }
    assert float(str(memory["free_before_training_gib"])) > 0
    assert 0.1 < float(str(memory["training_peak_host_gib"])) < 8.0
    assert not {"seconds_waited", "peak_host_gib"} & set(table.columns)


def test_a_leaked_engine_stops_training_and_is_named(
    make_scripted_world: OpenWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step is tried again, since the engine may end by itself, and then fails with what to do."""
    monkeypatch.setattr(building, "RETRIES", dg.RetryPolicy(max_retries=1, delay=0.1))
    impatient = {"launcher": SCRIPTED_TRAINER, "handover_seconds": 0.0}
    world = make_scripted_world(training=TRAINING | impatient)
    leases = EngineLeases(world.platform.root / "engines")
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as engine:
        leases.hold(engine.pid, "the base model", experiment="other", round_key="r0007")
        result = world.materialize("r0000", "checkpoint")
        engine.kill()
    assert len(result.filter_events(lambda event: event.event_type_value == "STEP_UP_FOR_RETRY")) == 1
    told = find_failures(result)["tiny__checkpoint"]
    assert told.startswith("tiny r0000 checkpoint: training cannot start")
    assert f"it belongs to the engine of other r0007 (process {engine.pid}, " in told
    assert told.endswith(f"remedy: kill {engine.pid}")
    assert world.materialize("r0000", "checkpoint").success
