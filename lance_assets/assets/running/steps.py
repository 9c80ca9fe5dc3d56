"""A step at work: it holds a claim of its own, ends with the run that it belongs to, and may go on with another's."""

import contextlib
import multiprocessing
from collections.abc import Iterator

import dagster as dg

# There is no public name for Dagster's own tags.
from dagster._core.storage.tags import RETRY_NUMBER_TAG

from lance_assets.assets.running.lost import TAKE_UP_TAG
from resources.machine.claims import Claims, end_with_parent


def takes_up(run: dg.DagsterRun) -> bool:
    """Whether a run goes on with what an earlier one began, rather than make something again."""
    return TAKE_UP_TAG in run.tags or RETRY_NUMBER_TAG in run.tags


@contextlib.contextmanager
def work_as_step(claims: Claims, run: dg.DagsterRun, step: str) -> Iterator[None]:
    """Let the run be known to live as long as this step does, and end this process once that of the run has ended.

    Nothing is done where a step has no process of its own: then its run's claim speaks for it.

    Args:
        claims: of what works on the data.
        run: the run.
        step: the step's name, letters, digits, `_`, `.` and `-`.

    Raises:
        ClaimedError: the same step of the same run is at work already.
    """
    parent, claim = multiprocessing.parent_process(), claims.find(run.run_id)
    # A run that the daemon started has a parent too, the code server, and outlives it.
    if parent is None or claim is None or claim.pid != parent.pid:
        yield
        return
    end_with_parent(parent)
    # With the scopes of its run, which may be gone: nobody begins the same round beside a step that lives.
    with claims.hold(f"{run.run_id}.{step}", what=f"{step} in {claim.what}", scopes=claim.scopes):
        yield
