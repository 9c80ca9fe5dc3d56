"""Trackers that do what a test needs: one that writes, and those that fail, hang, or are killed when all is written."""

import json
import os
import signal
import time

from resources.tracking.contract import TrackingJob


def write_run(job: TrackingJob) -> str:
    """Write a round as a line; a line of the same run that an earlier try left is replaced."""
    file = job.folder / "runs.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    others = [line for line in lines if json.loads(line)["name"] != job.round.run_name]
    mine = {"name": job.round.run_name, "values": dict(job.round.values), "steps": job.round.list_steps()}
    file.write_text("".join(f"{line}\n" for line in [*others, json.dumps(mine)]))
    with (job.folder / "calls.txt").open("a") as calls:
        calls.write(f"{job.round.run_name}\n")
    return str(file)


def fail(job: TrackingJob) -> str:
    """As a library without its server."""
    raise ConnectionError(f"no server for {job.project}")


def hang(job: TrackingJob) -> str:
    """As a library that waits for a server."""
    time.sleep(600)
    return "never"


def die_once(job: TrackingJob) -> str:
    """Write the round, and be killed before anybody is told; the next time all is well."""
    has_died = (job.folder / "runs.jsonl").exists()
    place = write_run(job)
    if not has_died:
        os.kill(os.getpid(), signal.SIGKILL)
    return place
