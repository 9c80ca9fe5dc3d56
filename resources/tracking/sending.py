"""Sending a round to a tracker: in a process with a time limit, and once, whatever is killed in between.

`<folder>/sent/<run>` says that a run was written. It is written after the run; where a process is killed before it, the
tracker removes what there is of the run and writes it again.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from resources.machine.processes import kill_with_descendants
from resources.stores.files import write_file_atomically
from resources.tracking.contract import TrackingJob

TAIL_CHARACTERS = 600
"""Of what a tracker printed, as much as an error quotes."""


class TrackingError(RuntimeError):
    """A tracker did not take a round; the message has what it said."""


def find_receipt(job: TrackingJob) -> Path:
    """The file that says that a round was written."""
    return job.folder / "sent" / f"{job.round.run_name}.txt"


def send_round(job: TrackingJob, *, timeout_seconds: float) -> str:
    """Write a round to a tracker, unless it has it.

    Args:
        job: the round, and where to.
        timeout_seconds: after which the process is ended.

    Returns:
        Where the round can be seen, in words.

    Raises:
        TrackingError: the tracker failed, or took too long.
        OSError: its folder cannot be written.
    """
    receipt = find_receipt(job)
    if receipt.exists():
        return receipt.read_text(encoding="utf-8")
    receipt.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        job_file, place_file, log_file = (Path(folder) / name for name in ("job.json", "place.txt", "log.txt"))
        job_file.write_text(job.model_dump_json(), encoding="utf-8")
        command = [sys.executable, "-m", "resources.tracking.tracker_worker", str(job_file), str(place_file)]
        # Modules of a person's own are found in the other process as they are in this one.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        # A file, and no pipe: what a tracker leaves running would hold a pipe open.
        with (
            log_file.open("wb") as log,
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            ) as process,
        ):
            try:
                code = process.wait(timeout=timeout_seconds)
            except BaseException as error:
                kill_with_descendants(process.pid)
                process.wait()
                if isinstance(error, subprocess.TimeoutExpired):
                    raise TrackingError(
                        f"{job.tracker} had not finished after {timeout_seconds:g} seconds and was ended"
                    ) from error
                raise
        if code != 0 or not place_file.exists():
            said = log_file.read_text(encoding="utf-8", errors="replace").strip()
            raise TrackingError(f"{job.tracker} failed (exit code {code}): {said[-TAIL_CHARACTERS:]}")
        place = place_file.read_text(encoding="utf-8")
    write_file_atomically(receipt, place.encode())
    return place
