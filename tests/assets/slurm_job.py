"""A job of two steps that a process of its own can build again: what is tried on Slurm without any model."""

import os
import time
from pathlib import Path

import dagster as dg

from lance_assets.assets.deploying.slurm import SLURM_TAG
from lance_assets.assets.running.executor import build_executor

PLACE = "LANCE_HOME"


@dg.op(tags={SLURM_TAG: {"num_cpus": 2, "memory_gib": 0.5}})
def first() -> int:
    """Say which process this is, or wait to be ended where the home says so."""
    home = Path(os.environ[PLACE])
    (home / "first.pid").write_text(str(os.getpid()))
    while (home / "wait").exists():
        time.sleep(0.1)
    return 20


@dg.op
def second(before: int) -> None:
    """Write what came of both."""
    (Path(os.environ[PLACE]) / "result").write_text(str(before + 1))


def build_job() -> dg.JobDefinition:
    """The job, with the executor of the deployment."""

    @dg.job(
        executor_def=build_executor(Path(os.environ[PLACE])),
        resource_defs={"io_manager": dg.FilesystemIOManager(base_dir=str(Path(os.environ[PLACE]) / "values"))},
    )
    def two_steps() -> None:
        second(first())

    return two_steps
