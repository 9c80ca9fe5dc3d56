"""What Dagster calls the assets and rounds of an experiment."""

import dagster as dg

from lance_assets.rounds.plan import Plan


def find_rounds(plan: Plan) -> dg.DynamicPartitionsDefinition:
    """The experiment's own rounds."""
    return dg.DynamicPartitionsDefinition(name=name_rounds(plan))


def name_rounds(plan: Plan) -> str:
    """The name of the experiment's partitions."""
    return f"{plan.name}_round"


def find_key(plan: Plan, noun: str) -> dg.AssetKey:
    """The asset key of a noun."""
    return dg.AssetKey([plan.name, noun])
