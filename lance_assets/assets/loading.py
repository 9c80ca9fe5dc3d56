"""All definitions of a code location: every experiment, the leaderboard, the platform and the executor.

An experiment whose file is broken is left out with its mistakes shown, and the others stay.
"""

import functools
import gc
import logging
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import dagster as dg

from lance_assets.assets.graph import build_experiment
from lance_assets.assets.leaderboard import build_leaderboard, build_refresh_sensor
from lance_assets.assets.running.executor import build_executor
from lance_assets.assets.running.platform import build_platform
from lance_assets.assets.self_evolution import define_overview
from lance_assets.assets.upkeep import define_upkeep
from lance_assets.markdown import show_block
from lance_assets.rounds.experiments import load_plans
from lance_assets.rounds.plan import Plan

_LOG = logging.getLogger(__name__)


class BrokenExperimentsError(ValueError):
    """Some experiments cannot be loaded. `dg check defs` gets this error, since leaving them out would hide them."""


def build_broken_experiment(name: str, text: str) -> dg.Definitions:
    """One asset that shows why an experiment is left out."""
    spec = dg.AssetSpec(
        key=[name, "broken_experiment"],
        group_name=re.sub(r"\W", "_", name, flags=re.ASCII),
        description=(
            "This experiment's defs.yaml could not be loaded; "
            f"correct it and reload the code location.\n\n{show_block(text)}"
        ),
        kinds={"error"},
        metadata={"error": dg.MetadataValue.text(text)},
    )
    return dg.Definitions(assets=[spec])


def define_experiments(plans: Mapping[str, Plan | str]) -> dict[str, tuple[dg.Definitions, Plan | str]]:
    """The definitions of every experiment with its plan, or with what is wrong with it.

    Args:
        plans: by the experiment's name, its plan or what is wrong with its file.
    """
    # Some of what is used of Dagster is marked as preview or beta, and would warn once for each asset.
    warnings.filterwarnings("ignore", category=dg.PreviewWarning)
    warnings.filterwarnings("ignore", category=dg.BetaWarning)
    defined: dict[str, tuple[dg.Definitions, Plan | str]] = {}
    for name, plan in plans.items():
        mistake = plan if isinstance(plan, str) else ""
        if isinstance(plan, Plan):
            try:
                defined[name] = dg.Definitions.merge(build_experiment(plan), define_overview(plan)), plan
            except (dg.DagsterError, ValueError, OSError) as error:
                mistake = f"{plan.folder / 'defs.yaml'}: {error}"
        if mistake:
            _LOG.error("experiment %s is left out:\n%s", name, mistake)
            # The UI shows nothing of the log, so the mistake becomes an asset that can be seen there.
            defined[name] = build_broken_experiment(name, mistake), mistake
    return defined


def load_experiments(folders: Sequence[Path] | None = None) -> dg.Definitions:
    """The definitions of every experiment, and the leaderboard over all of them.

    Args:
        folders: whose subfolders are experiments; None: those of LANCE_EXPERIMENTS, or the package's own.

    Raises:
        ValueError: LANCE_EXPERIMENTS names something that is not a folder.
        BrokenExperimentsError: one is broken, and `dg check defs` or `dagster definitions validate` is asking.
    """
    defined = define_experiments(load_plans(folders))
    left_out = {name: plan for name, (_, plan) in defined.items() if isinstance(plan, str)}
    if left_out and os.environ.get("DAGSTER_IS_DEFS_VALIDATION_CLI"):
        raise BrokenExperimentsError("\n".join(left_out.values()))
    plans = [plan for _, plan in defined.values() if isinstance(plan, Plan)]
    board = dg.Definitions(assets=[build_leaderboard(plans, left_out)], sensors=[build_refresh_sensor(plans)])
    return dg.Definitions.merge(*(defs for defs, _ in defined.values()), board, define_upkeep(plans))


@functools.cache
def build_definitions() -> dg.Definitions:
    """Everything that a code location holds, built once in a process."""
    # One platform for all experiments: they share the machine, its leases and the vectors.
    platform = build_platform()
    own = dg.Definitions(resources={"platform": platform}, executor=build_executor(platform.root))
    was_enabled = gc.isenabled()
    # Definitions are many objects that stay, and looking through them for garbage again and again takes long.
    gc.disable()
    try:
        return dg.Definitions.merge(load_experiments(), own)
    finally:
        if was_enabled:
            gc.enable()


def build_round_job(name: str) -> dg.JobDefinition:
    """The job of one round of an experiment: Dagster builds it again in each process."""
    return build_definitions().resolve_job_def(f"{name}_round")
