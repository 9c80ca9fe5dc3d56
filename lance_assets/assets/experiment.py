"""An experiment as a Dagster component: one `defs.yaml`, one asset group, its own rounds."""

from pathlib import Path
from typing import Self

import dagster as dg
from pydantic import BaseModel, Field

from lance_assets.assets.graph import build_experiment
from lance_assets.assets.running.platform import build_platform
from lance_assets.assets.self_evolution import define_overview
from lance_assets.assets.upkeep import define_upkeep
from lance_assets.rounds.experiments import plan_experiment
from lance_assets.settings.experiment import ExperimentSettings
from lance_assets.settings.writing.new_experiment import create_experiment


class ScaffoldSettings(BaseModel):
    """What `dg scaffold defs lance_assets.Experiment NAME` takes."""

    recipe: str = Field("lance", description="The method: a module of lance_assets.recipes.")


class ExperimentScaffolder(dg.Scaffolder[ScaffoldSettings]):
    """Writes a new experiment's folder, as `lance new` does."""

    @classmethod
    def get_scaffold_params(cls) -> type[ScaffoldSettings]:
        """What the command takes."""
        return ScaffoldSettings

    def scaffold(self, request: dg.ScaffoldRequest[ScaffoldSettings]) -> None:
        """Write the folder.

        Raises:
            ValueError: the name is no experiment's, there is no such recipe, or Python is asked for.
        """
        if request.scaffold_format != "yaml":
            raise ValueError(f"an experiment is written as YAML, got --format {request.scaffold_format}; leave it out")
        create_experiment(request.target_path, recipe=request.params.recipe, type_name=request.type_name)


@dg.scaffold_with(ExperimentScaffolder)
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
        """The experiment's assets, checks, job and sensors, and the platform on the data of LANCE_HOME.

        Raises:
            ValueError: the folder's name is not usable, or a file it names is missing.
        """
        plan = plan_experiment(self.settings, Path(context.path))
        platform = dg.Definitions(resources={"platform": build_platform()})
        # A component knows of no other, and two sensors of one name do not load.
        upkeep = define_upkeep([plan], prefix=f"{plan.name}_")
        return dg.Definitions.merge(build_experiment(plan), define_overview(plan), upkeep, platform)
