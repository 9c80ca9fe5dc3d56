"""The code location that a run of the command `lance` belongs to, so that the UI shows it beside those it launches.

The UI sorts runs by the code location that they were launched from: the timeline, a job's page and "re-execute" leave
out a run that names none. A run that a command executes is launched from none, so it is given the one that the UI has.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import dagster as dg

# There is no public way to name a run's code location, to read a workspace file, or to execute a run that is there.
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.execution.api import execute_run
from dagster._core.remote_origin import RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorType, SensorInstigatorData
from dagster._core.storage.tags import MAX_RETRIES_TAG
from dagster._core.utils import make_new_run_id
from dagster._core.workspace.load_target import ModuleTarget, WorkspaceFileTarget

from lance_assets.assets.names import REFRESH_SENSOR
from resources.machine.claims import Claims

MODULE = "lance_assets.assets.code_location"
"""The module of the code location, also where this package is installed."""

MODULES = (MODULE, "definitions")
"""The modules that a workspace file may load the experiments from."""

REPOSITORY = "__repository__"
"""Dagster's name for the definitions of a code location."""


def find_last_tick(state: InstigatorState) -> float:
    """When a sensor last ticked, in seconds since 1970; 0 for never."""
    data = state.instigator_data
    return (data.last_tick_start_timestamp or 0.0) if isinstance(data, SensorInstigatorData) else 0.0


def find_repository(instance: dg.DagsterInstance, folder: Path) -> RemoteRepositoryOrigin:
    """The definitions that the UI shows the experiments of.

    They are those whose refresh sensor ticked last in this instance. Where none ever did, no UI was started yet: they
    are the ones of the folder's `workspace.yaml`, else those of the module of this package.

    Args:
        instance: where the daemon of a UI keeps what it ticked.
        folder: the one that the UI would be started from.
    """
    seen = instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
    ours = [state for state in seen if state.instigator_name == REFRESH_SENSOR]
    if ours:
        return max(ours, key=find_last_tick).origin.repository_origin
    file = folder / "workspace.yaml"
    origins = list(WorkspaceFileTarget([str(file)]).create_origins()) if file.is_file() else []
    # A workspace may hold other people's locations too; those on a server of their own name no module.
    named = [one for one in origins if one.get_display_metadata().get("module_name") in MODULES]
    module = ModuleTarget(MODULE, attribute=None, working_directory=str(folder), location_name=None)
    (origin, *_) = named or module.create_origins()
    return RemoteRepositoryOrigin(origin, REPOSITORY)


ENDED_OUTSIDE = "no step failed: the run was ended from outside"
"""What is said of a run that did not succeed though each of its steps did."""


def run_as_launched(
    job: ReconstructableJob | dg.JobDefinition,
    instance: dg.DagsterInstance,
    *,
    tags: Mapping[str, str],
    claims: Claims,
    scopes: Sequence[str] = (),
    selection: frozenset[dg.AssetKey] | None = None,
    run_config: Mapping[str, object] | None = None,
) -> list[str]:
    """Run a job here, and let the UI show the run as one that it launched; why each step that failed did so.

    Args:
        job: the job, of the name that the code location knows it by; steps in processes of their own need one that
            can be built again there.
        instance: where the run is kept.
        tags: the run's tags, its partition among them.
        claims: of what works on the data; the run holds one before Dagster knows of it, so that it never is without.
        scopes: what no other run may work on meanwhile, such as the round.
        selection: the assets of the job that are made; None: all of them.
        run_config: what the launch sets; None: nothing.

    Returns:
        Nothing where the run succeeded.

    Raises:
        ClaimedError: another process works on one of the scopes; no run was made.
    """
    here = InMemoryJob(job) if isinstance(job, dg.JobDefinition) else job
    chosen = here.get_subset(asset_selection=selection) if selection is not None else here
    definition = chosen.get_definition()
    run_id = make_new_run_id()
    with claims.hold(run_id, what=f"run {run_id[:8]} of {', '.join(scopes) or definition.name}", scopes=scopes):
        run = instance.create_run_for_job(
            definition,
            run_id=run_id,
            run_config=run_config,
            # Whoever calls this goes on by itself after a loss, so the daemon shall not start the run again too.
            tags={**definition.run_tags, **tags, MAX_RETRIES_TAG: "0"},
            asset_selection=selection,
            job_code_origin=chosen.get_python_origin() if isinstance(chosen, ReconstructableJob) else None,
            remote_job_origin=find_repository(instance, Path.cwd()).get_job_origin(definition.name),
        )
        with execute_run(chosen, run, instance) as result:
            told = [explain_failure(event) for event in result.all_events if event.is_step_failure]
            return [] if result.success else told or [ENDED_OUTSIDE]


def explain_failure(event: dg.DagsterEvent) -> str:
    """Why a step failed: in our words where they are ours, else in those of what was raised."""
    failure = event.step_failure_data
    if failure.user_failure_data is not None and failure.user_failure_data.description:
        return failure.user_failure_data.description
    error = failure.error
    # Dagster wraps what was raised.
    while error is not None and error.cause is not None:
        error = error.cause
    return f"{event.step_key}: {error.message.strip() if error else 'no reason was given'}"
