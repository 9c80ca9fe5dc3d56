"""A run that waits for a slot of a pool leaves the cores to the run that has it.

Dagster's multiprocess executor (1.13.27, `dagster/_core/executor/multiprocess.py`) asks again without a pause whether a
step may begin. While a step of the run is at work, the executor waits for its events in between. A run of which no step
is at work asks thousands of times a second, and so takes one core from the training that it waits for. There is no
setting for it; the pause is put where the executor asks for a slot.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.executor import multiprocess

PAUSE_SECONDS = 0.05
"""Short beside the second that Dagster lets pass until it looks for a slot again, and long beside a look."""


class PatientSlots(InstanceConcurrencyContext):
    """Dagster's slots of one run, with a pause after a slot was not to be had."""

    def claim(self, concurrency_key: str, step_key: str, step_priority: int = 0) -> bool:
        """Whether a step has its slot now."""
        is_claimed = super().claim(concurrency_key, step_key, step_priority)
        if not is_claimed:
            time.sleep(PAUSE_SECONDS)
        return is_claimed


@contextmanager
def waiting_patiently() -> Iterator[None]:
    """While this lasts, the multiprocess executor of this process pauses where its run waits."""
    multiprocess.InstanceConcurrencyContext = PatientSlots  # type: ignore[attr-defined]
    try:
        yield
    finally:
        multiprocess.InstanceConcurrencyContext = InstanceConcurrencyContext  # type: ignore[attr-defined]
