"""Load every experiment, each on its own: a broken one is left out with its error shown, and the others stay."""

import importlib
import logging
import os
import re
import warnings
from pathlib import Path

import dagster as dg
import yaml
from dagster.components.core.component_tree import ComponentTree, ComponentTreeException
from dagster_shared.check import CheckError
from pydantic import ValidationError

from lance_assets.assets.experiment import Experiment, build_experiment, plan_experiment
from lance_assets.assets.leaderboard import build_leaderboard, build_refresh_sensor
from lance_assets.rounds.plan import Plan
from lance_assets.settings.file import describe_mistakes

EXPERIMENTS_MODULE = "lance_assets.experiments"
LOAD_ERRORS = (ComponentTreeException, dg.DagsterError, CheckError, ValueError, yaml.YAMLError)
"""What a mistake in a file becomes on its way through Dagster's components; pydantic's is a ValueError."""
_LOG = logging.getLogger(__name__)


class BrokenExperimentsError(ValueError):
    """Experiments that cannot be loaded, told by `dg check defs`: there, leaving them out would hide them."""


def describe_error(error: BaseException, file: Path) -> str:
    """The first cause of a load error, with file, line, field, value and remedy."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, ValidationError):
        return describe_mistakes(error)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        line, column = error.problem_mark.line + 1, error.problem_mark.column + 1
        return f"{file}:{line}: not YAML at column {column}: {error.problem}; correct the line or one above it"
    text = str(error)
    return text if str(file.parent) in text else f"{file}: {text}"


def build_broken_experiment(name: str, text: str) -> dg.Definitions:
    """One asset that shows why an experiment is left out."""
    spec = dg.AssetSpec(
        key=[name, "broken_experiment"],
        group_name=re.sub(r"\W", "_", name, flags=re.ASCII),
        description=(
            "This experiment's defs.yaml could not be loaded; "
            f"mend it and reload the code location.\n\n```\n{text}\n```"
        ),
        kinds={"error"},
        metadata={"error": dg.MetadataValue.text(text)},
    )
    return dg.Definitions(assets=[spec])


def load_component(name: str, project_root: Path, module: str) -> tuple[dg.Definitions, Plan]:
    """One experiment's definitions and plan; raises what is wrong with its file.

    A tree of its own, since one broken file fails the whole tree it is part of.
    """
    folder = project_root.joinpath(*module.split("."), name)
    tree = ComponentTree.from_module(importlib.import_module(f"{module}.{name}"), project_root)
    experiments = tree.get_all_components(of_type=Experiment)
    if len(experiments) != 1:
        raise ValueError(
            f"{folder / 'defs.yaml'}:1: type: an experiment's file holds one document of type "
            f"{Experiment.__module__}.{Experiment.__name__}, got {len(experiments)} of it; correct the type"
        )
    plan = plan_experiment(experiments[0].settings, folder)
    return build_experiment(plan), plan


def load_all(project_root: Path, module: str = EXPERIMENTS_MODULE) -> dict[str, tuple[dg.Definitions, Plan | str]]:
    """Every folder of experiments that has a `defs.yaml`: its definitions with its plan, or with what is wrong.

    Args:
        project_root: the folder that the module's name starts from.
        module: the package that holds the experiments' folders.
    """
    warnings.filterwarnings("ignore", category=dg.PreviewWarning)
    warnings.filterwarnings("ignore", category=dg.BetaWarning)
    loaded: dict[str, tuple[dg.Definitions, Plan | str]] = {}
    for path in sorted(project_root.joinpath(*module.split(".")).glob("*/defs.yaml")):
        name = path.parent.name
        try:
            loaded[name] = load_component(name, project_root, module)
        except LOAD_ERRORS as error:
            text = describe_error(error, path)
            _LOG.error("experiment %s is left out:\n%s", name, text)
            loaded[name] = (build_broken_experiment(name, text), text)
    return loaded


def load_experiments(project_root: Path, module: str = EXPERIMENTS_MODULE) -> dg.Definitions:
    """The definitions of every experiment.

    Raises:
        BrokenExperimentsError: one is broken, and `dg check defs` or `dagster definitions validate` is asking.
    """
    loaded = load_all(project_root, module)
    broken = [plan for _, plan in loaded.values() if isinstance(plan, str)]
    if broken and os.environ.get("DAGSTER_IS_DEFS_VALIDATION_CLI"):
        raise BrokenExperimentsError("\n".join(broken))
    plans = [plan for _, plan in loaded.values() if isinstance(plan, Plan)]
    left_out = {name: plan for name, (_, plan) in loaded.items() if isinstance(plan, str)}
    board = dg.Definitions(assets=[build_leaderboard(plans, left_out)], sensors=[build_refresh_sensor()])
    return dg.Definitions.merge(*(defs for defs, _ in loaded.values()), board)


def load_plans(project_root: Path) -> dict[str, Plan | str]:
    """The plan of every experiment, or what is wrong with its file."""
    return {name: plan for name, (_, plan) in load_all(project_root).items()}
