"""The graph of one experiment's rounds: its assets and checks, the job of a round, and the sensor of the loop."""

import dagster as dg

from lance_assets.assets.building import build_assets, build_checks
from lance_assets.assets.names import find_rounds
from lance_assets.assets.past.lineage import build_decisions, build_handover, build_sources
from lance_assets.assets.sensors import build_decisions_sensor, build_next_round_sensor
from lance_assets.assets.settings import show_all_settings
from lance_assets.markdown import show_lines
from lance_assets.rounds.plan import Plan, asks_people


def build_experiment(plan: Plan) -> dg.Definitions:
    """The definitions of one experiment's rounds."""
    assets = build_assets(plan)
    job = dg.define_asset_job(
        f"{plan.name}_round",
        selection=dg.AssetSelection.assets(*assets),
        partitions_def=find_rounds(plan),
        description=f"One round of {plan.name}. {show_lines(plan.settings.description)}",
        metadata=show_all_settings(plan),
    )
    return dg.Definitions(
        assets=[*assets, build_sources(plan), build_handover(plan), *build_decisions(plan)],
        asset_checks=build_checks(plan),
        jobs=[job],
        sensors=[build_next_round_sensor(plan), *([build_decisions_sensor(plan)] if asks_people(plan) else [])],
    )
