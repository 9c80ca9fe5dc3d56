"""What all assets need of Dagster: the platform as a resource, and the names of an experiment's assets and rounds."""

import functools

import dagster as dg

from lance_assets.home import find_data_root
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform

REFRESH_SENSOR = "overviews_refresh"
"""A sensor of every code location that this package builds, on by default: where it ticked, the UI has one."""


class PlatformResource(dg.ConfigurableResource, Platform):
    """Where the rounds' data is kept and how models are opened, as Dagster configures it."""

    data_root: str
    """The folder of tables, checkpoints, unfinished stages and the LanceDB history."""


@functools.cache
def build_platform() -> PlatformResource:
    """The platform on the data of LANCE_HOME: one object in a process, since Dagster merges no two of one name."""
    return PlatformResource(data_root=str(find_data_root()))


def find_rounds(plan: Plan) -> dg.DynamicPartitionsDefinition:
    """The experiment's own rounds."""
    return dg.DynamicPartitionsDefinition(name=name_rounds(plan))


def name_rounds(plan: Plan) -> str:
    """The name of the experiment's partitions."""
    return f"{plan.name}_round"


def find_key(plan: Plan, noun: str) -> dg.AssetKey:
    """The asset key of a noun."""
    return dg.AssetKey([plan.name, noun])
