"""The code location of the webserver's tests: the tiny experiment under TINY_WORLD, on the scripted platform."""

import os
from pathlib import Path

import dagster as dg

from lance_assets.assets import building, showing
from tests.assets.scripted_platform import SCRIPTED_SETTINGS, ScriptedPlatform, draw_nothing
from tests.assets.tiny_experiment import build_tiny_definitions, plan_tiny


def build_tiny_world() -> dg.Definitions:
    """The world's definitions, whose rounds draw no pictures."""
    building.POLL_SECONDS = 0.2
    showing.show_picture = draw_nothing
    root = Path(os.environ["TINY_WORLD"])
    plan = plan_tiny(root / "tiny", **SCRIPTED_SETTINGS)
    return build_tiny_definitions(plan, ScriptedPlatform(data_root=str(root / "data")))


@dg.definitions
def tiny_world() -> dg.Definitions:
    """Built when the location is loaded, in the code server and in each run's process."""
    return build_tiny_world()


def build_round_job(name: str) -> dg.JobDefinition:
    """In place of `lance_assets.assets.loading.build_round_job`."""
    return build_tiny_world().resolve_job_def(f"{name}_round")
