"""Load every experiment, each on its own: a broken one is left out with its error shown, and the others stay."""

import importlib
import logging
import warnings
from pathlib import Path

import dagster as dg
import yaml
from dagster.components.core.component_tree import ComponentTree, ComponentTreeException
from pydantic import ValidationError

from lance_assets.assets.experiment import Experiment, build_experiment, plan_experiment
from lance_assets.assets.plan import Plan

EXPERIMENTS_FOLDER = Path("lance_assets") / "experiments"
EXPERIMENTS_MODULE = "lance_assets.experiments"
_LOG = logging.getLogger(__name__)


def describe_error(error: BaseException) -> str:
    """The first cause of a load error, which names file, line, field and value."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)


def build_broken_experiment(name: str, text: str) -> dg.Definitions:
    """One asset that shows why an experiment is left out."""
    spec = dg.AssetSpec(
        key=[name, "broken_experiment"],
        group_name=name,
        description=f"This experiment's file could not be loaded; mend it and reload the location.\n\n```\n{text}\n```",
        kinds={"error"},
        metadata={"error": dg.MetadataValue.text(text)},
    )
    return dg.Definitions(assets=[spec])


def load_component(name: str, project_root: Path) -> tuple[dg.Definitions, Plan]:
    """One experiment's definitions and plan; raises what is wrong with its file.

    A tree of its own, since one broken file fails the whole tree it is part of.
    """
    tree = ComponentTree.from_module(importlib.import_module(f"{EXPERIMENTS_MODULE}.{name}"), project_root)
    (experiment,) = tree.get_all_components(of_type=Experiment)
    plan = plan_experiment(experiment.settings, project_root / EXPERIMENTS_FOLDER / name)
    return build_experiment(plan), plan


def load_all(project_root: Path) -> dict[str, tuple[dg.Definitions, Plan | str]]:
    """Every folder of experiments that has a `defs.yaml`: its definitions with its plan, or with what is wrong."""
    warnings.filterwarnings("ignore", category=dg.PreviewWarning)
    warnings.filterwarnings("ignore", category=dg.BetaWarning)
    loaded: dict[str, tuple[dg.Definitions, Plan | str]] = {}
    for path in sorted((project_root / EXPERIMENTS_FOLDER).glob("*/defs.yaml")):
        name = path.parent.name
        try:
            loaded[name] = load_component(name, project_root)
        except (ComponentTreeException, dg.DagsterError, ValidationError, ValueError, yaml.YAMLError) as error:
            text = describe_error(error)
            _LOG.error("experiment %s is left out: %s", name, text)
            loaded[name] = (build_broken_experiment(name, text), text)
    return loaded


def load_experiments(project_root: Path) -> dg.Definitions:
    """The definitions of every experiment."""
    return dg.Definitions.merge(*(defs for defs, _ in load_all(project_root).values()))


def load_plans(project_root: Path) -> dict[str, Plan | str]:
    """The plan of every experiment, or what is wrong with its file."""
    return {name: plan for name, (_, plan) in load_all(project_root).items()}
