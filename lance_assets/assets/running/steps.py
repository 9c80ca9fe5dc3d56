"""A step at work: it holds a claim of its own, ends with the run that it belongs to, and may go on with another's."""

import contextlib
import multiprocessing
from collections.abc import Iterator

import dagster as dg

# There is no public name for Dagster's own tags.
from dagster._core.storage.tags import RETRY_NUMBER_TAG

from lance_assets.assets.running.lost import TAKE_UP_TAG
from resources.machine.claims import Claims, end_with_parent, ending_with


class LostRunError(RuntimeError):
    """A job was begun for a run that has ended; nothing is made of it."""


def takes_up(run: dg.DagsterRun) -> bool:
    """Whether a run goes on with what an earlier one began, rather than make something again."""
    return TAKE_UP_TAG in run.tags or RETRY_NUMBER_TAG in run.tags


@contextlib.contextmanager
def work_as_step(claims: Claims, run: dg.DagsterRun, step: str) -> Iterator[None]:
    """Let the run be known to live as long as this step does, and end this process once that of the run has ended.

    The process may be a child of the run's, or a job of a cluster, on whichever machine. Nothing is done where a step
    has no process of its own: then its run's claim speaks for it.

    Args:
        claims: of what works on the data.
        run: the run.
        step: the step's name, letters, digits, `_`, `.` and `-`.

    Raises:
        ClaimedError: the same step of the same run is at work already.
        LostRunError: the run has ended while its job was waiting for a machine.
    """
    parent, claim = multiprocessing.parent_process(), claims.find(run.run_id)
    if claim is None and run.is_finished:
        raise LostRunError(f"{step} is not begun: run {run.run_id[:8]}, which it was queued for, has ended")
    if claim is None or claims.holds(run.run_id):
        yield
        return
    with contextlib.ExitStack() as stack:
        # A run that the daemon started has a parent too, the code server, and outlives it.
        if parent is not None and claim.pid == parent.pid:
            end_with_parent(parent)
        elif claims.is_alive(claim):
            stack.enter_context(ending_with(claims, claim))
        else:
            raise LostRunError(
                f"{step} is not begun: {claim}, which it was queued for, is gone. Where it does live, the clocks of "
                "the machines differ by a minute or more; set them by one source"
            )
        # With the scopes of its run, which may be gone: nobody begins the same round beside a step that lives.
        held = claims.hold(f"{run.run_id}.{step}", what=f"{step} in {claim.what}", scopes=claim.scopes)
        stack.enter_context(held)
        yield
