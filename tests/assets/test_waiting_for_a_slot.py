"""A run that waits for a slot leaves the cores to the run that has it."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.executor import multiprocess

from lance_assets.assets.running import slots
from lance_assets.assets.running.executor import WatchedExecutor
from resources.machine.claims import Claims
from tests.assets.test_lost_runs import POOL, begin, instance

__all__ = ["instance"]


def test_a_slot_that_is_not_to_be_had_is_asked_for_after_a_pause(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that is there is taken at once."""
    pauses: list[float] = []
    monkeypatch.setattr(slots.time, "sleep", pauses.append)
    first, second = begin(instance, "r0001"), begin(instance, "r0002")
    with slots.PatientSlots(instance, first) as having, slots.PatientSlots(instance, second) as waiting:
        assert having.claim(POOL, "make")
        assert pauses == []
        assert not any(waiting.claim(POOL, "make") for _ in range(3))
        assert pauses == [slots.PAUSE_SECONDS] * 3


def test_a_runs_executor_pauses_and_dagsters_own_is_left_as_it_is(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    found = []

    class Looking:
        def execute(self, plan_context: object, execution_plan: object) -> Iterator[dg.DagsterEvent]:
            found.append(multiprocess.InstanceConcurrencyContext)
            yield from ()

    class Context:
        dagster_run = begin(instance, "r0001")
        log = dg.get_dagster_logger()

    Context.instance = instance
    before = multiprocess.InstanceConcurrencyContext
    list(WatchedExecutor(Looking(), Claims(tmp_path / "running")).execute(Context(), None))
    assert found == [slots.PatientSlots]
    assert multiprocess.InstanceConcurrencyContext is before
