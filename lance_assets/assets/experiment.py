"""An experiment as a Dagster component: one `defs.yaml`, one asset group, its own rounds."""

import re
from pathlib import Path
from typing import Self

import dagster as dg
from pydantic import BaseModel

from lance_assets.assets.building import build_assets, build_checks, find_rounds
from lance_assets.assets.self_evolution import build_self_evolution
from lance_assets.assets.sensors import build_failure_sensor, build_next_round_sensor
from lance_assets.rounds.plan import Plan
from lance_assets.settings.experiment import ExperimentSettings
from lance_assets.settings.file import check_files


class Experiment(dg.Component):
    """A self-evolving run of rounds: recipe, model, seeds, sizes, thresholds, training, evaluation and stop rules."""

    def __init__(self, settings: ExperimentSettings) -> None:
        """Keep the settings the file gave."""
        self.settings = settings

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """What `attributes` may hold."""
        return ExperimentSettings

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """Build from a file's attributes."""
        if not isinstance(attributes, ExperimentSettings):
            raise ValueError(
                f"{context.path}: an experiment needs attributes: recipe, model, seeds and evaluation at least"
            )
        return cls(attributes)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The experiment's assets, checks, job and sensors.

        Raises:
            ValueError: the folder's name is not usable, or a file it names is missing.
        """
        return build_experiment(plan_experiment(self.settings, Path(context.path)))


def plan_experiment(settings: ExperimentSettings, folder: Path) -> Plan:
    """The plan of the experiment in a folder.

    Raises:
        ValueError: the folder's name is not usable, or a file it names is missing.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", folder.name):
        raise ValueError(
            f"{folder}: an experiment's folder is named in lower case letters, digits and _, got {folder.name!r}"
        )
    check_files(settings, folder / "defs.yaml")
    return Plan(folder.name, folder, settings)


def build_experiment(plan: Plan) -> dg.Definitions:
    """The definitions of one experiment."""
    assets = build_assets(plan)
    overviews = [build_self_evolution(plan)] if plan.settings.evaluation.world else []
    job = dg.define_asset_job(
        f"{plan.name}_round",
        selection=dg.AssetSelection.assets(*assets),
        partitions_def=find_rounds(plan),
        description=f"One round of {plan.name}. {plan.settings.description}",
    )
    return dg.Definitions(
        assets=[*assets, *overviews],
        asset_checks=build_checks(plan),
        jobs=[job],
        sensors=[build_next_round_sensor(plan), build_failure_sensor(plan)],
    )
