"""The names by which Dagster knows an experiment's assets, its rounds, and what the UI looks for."""

import dagster as dg

from lance_assets.rounds.plan import Plan

REFRESH_SENSOR = "overviews_refresh"
"""A sensor of every code location that this package builds, on by default: where it ticked, the UI has one."""


def find_rounds(plan: Plan) -> dg.DynamicPartitionsDefinition:
    """The experiment's own rounds."""
    return dg.DynamicPartitionsDefinition(name=name_rounds(plan))


def name_rounds(plan: Plan) -> str:
    """The name of the experiment's partitions."""
    return f"{plan.name}_round"


def find_key(plan: Plan, noun: str) -> dg.AssetKey:
    """The asset key of a noun."""
    return dg.AssetKey([plan.name, noun])
