"""The processes of a round's steps: what they are forked from, and how that is made ready early.

Each step has a process of its own, whose end frees the model's memory, and one fork server makes them. It imports what
every step needs; a round has some 25 steps and checks, so a tenth of a second there is two and a half of a round. What
loads a language model takes 3.5 CPU seconds, and four or five steps of a round need it.
"""

import multiprocessing
import os
from multiprocessing import forkserver
from pathlib import Path

from lance_assets.home import find_home

VARIABLE = "LANCE_DEPLOYMENT"
"""The environment variable that says where steps run; every process of a run has it."""
LOCAL = "local"
"""Its value where steps are processes of this machine."""

# LanceDB starts a thread when it is imported, which would be lost in a fork; of the 2.2 s that its import takes, 1.7
# are this part, which starts none.
PRELOADED = [
    "lance_assets.assets.code_location",
    "lance_namespace",
    # What Dagster imports when a process opens an instance, by names of its own: one that is gone is left out.
    "dagster._core.secrets.env_file",
    "dagster._core.storage.root",
    "dagster._core.storage.runs.sqlite.sqlite_run_storage",
    "dagster._core.storage.schedules.sqlite.sqlite_schedule_storage",
    "dagster._core.storage.event_log.sqlite.sqlite_event_log",
    "dagster._core.storage.local_compute_log_manager",
    "dagster._core.storage.sqlite_storage",
    "upath.implementations.local",
]
"""What the fork server imports, in this order."""

# Importing torch 2.13 and transformers starts no thread, asks no device, and computes nothing in parallel.
MODELS = [
    "resources.models.lean_start",
    "resources.engines.transformers.engine",
]
"""What it imports behind that where no GPU is: a step that has it need not import torch and transformers."""
DRIVER = Path("/dev/nvidiactl")
"""There where NVIDIA's driver is. Were CUDA only asked for its devices before a fork, no process could use them after
it; and next to a GPU's work the seconds are few."""


def list_preloaded() -> list[str]:
    """What the fork server imports on this machine, in this order."""
    return [*PRELOADED, *([] if DRIVER.exists() else MODELS)]


def read_deployment() -> str:
    """What LANCE_DEPLOYMENT names, known or not; `local` where it is not set."""
    return os.environ.get(VARIABLE) or LOCAL


def start_early() -> None:
    """Start the fork server now, so that it imports while this process does, where steps are processes here.

    The steps inherit its environment, so it is given the DAGSTER_HOME that this process will set.
    """
    if read_deployment() != LOCAL:
        return
    named = os.environ.get("DAGSTER_HOME")
    try:
        os.environ["DAGSTER_HOME"] = named or str(find_home() / "dagster")
        multiprocessing.get_context("forkserver").set_forkserver_preload(list_preloaded())
        forkserver.ensure_running()
    finally:
        # Whether a person named it decides whose folder it is.
        if named is None:
            del os.environ["DAGSTER_HOME"]
