"""An experiment as its rounds see it: its name, its folder, its settings and the method it runs."""

from dataclasses import dataclass
from pathlib import Path

from lance_assets.recipes.contract import AnyRecipe, find_recipe
from lance_assets.settings.engines import RoleSettings
from lance_assets.settings.experiment import ExperimentSettings
from lance_assets.worlds import World, find_world

JUDGE = "judge"
"""The role of the model that evaluates; no recipe has it."""

JUDGE_TEMPLATES = "lance"
"""The recipe whose templates `review` and `judge_pair` the judge is asked with, whatever the experiment's recipe."""


@dataclass(frozen=True)
class Plan:
    """One experiment, ready for its rounds."""

    name: str
    """The experiment's name: of its asset group, key prefix, partitions and folders."""
    folder: Path
    """The folder of its file; relative paths start there."""
    settings: ExperimentSettings
    """What its file says."""

    @property
    def recipe(self) -> AnyRecipe:
        """The method that the experiment names."""
        return find_recipe(self.settings.recipe)

    @property
    def world(self) -> World | None:
        """The checkable task that checkpoints are evaluated on, where there is one."""
        named = self.settings.evaluation.world
        return find_world(named.name, self.folder) if named is not None else None

    @property
    def trains_label_model(self) -> bool:
        """Whether the experiment has a `label_checkpoint`: the recipe needs one and no role names it."""
        return self.recipe.trains_label_model and "label" not in self.settings.roles

    @property
    def label_model(self) -> str:
        """The name under which the label model's checkpoint is kept."""
        return f"{self.name}_label"

    @property
    def roles(self) -> dict[str, RoleSettings]:
        """Every second model by its role: those of the recipe, and the evaluation's judge."""
        judge = self.settings.evaluation.judge
        return self.settings.roles | ({JUDGE: judge} if judge is not None else {})
