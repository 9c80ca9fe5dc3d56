"""The executor of every run: the deployment's, with a process or job a step, and what a run does against being lost.

It is the one place that both a run of the command `lance` and one of the daemon go through, in the process of the run:

* The run holds a claim as long as it lives, on the rounds that it makes; a second run of one of them is refused.
* Before its first step it ends the runs that are lost, so that no slot of a pool is held by a process that is gone. It
  does so again while it waits for a slot, and says in its log and on the console who holds it.
* A run that fails because the process of a step was killed, or because the disk was full under Dagster's own storage,
  is marked, so that it is started again from that step.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

# There is no public name for what an executor is given and yields, or for Dagster's own tags.
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.objects import ErrorSource
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.retries import RetryMode
from dagster._core.execution.step_dependency_config import StepDependencyConfig
from dagster._core.storage.tags import MAX_RETRIES_TAG

from lance_assets.assets.deploying.deployment import find_deployment
from lance_assets.assets.running.full_disk import explain_full_instance
from lance_assets.assets.running.lost import (
    REFUSED_TAG,
    Say,
    allow_retry,
    describe_run,
    end_lost_runs,
    explain_waiting,
    list_scopes,
    name_experiments,
)
from lance_assets.assets.running.slots import waiting_patiently
from lance_assets.home import HISTORY, find_history_address
from resources.machine.claims import ClaimedError, Claims
from resources.remote.lease import hold_lease
from resources.remote.manifest import StoreError
from resources.remote.store import Store, UnreachableStoreError
from resources.remote.weights import find_store
from resources.stores.files import DiskFullError
from resources.stores.lance_tables import find_endpoint

WATCH_SECONDS = 2.0
"""A run that waits for a slot looks this often whether its holder still lives."""
SAY_SECONDS = 60.0
"""It says again that it waits for the same after so long."""
ENDING_SECONDS = 30.0
"""A job that its cluster has ended is given so long."""
KILLED = "ChildProcessCrashException"
"""Dagster's error of a step whose process ended without a word."""
UNHEALTHY = " failed health check: "
"""In Dagster's words of a step that ran elsewhere and whose job or machine ended without a word."""


class WatchedExecutor(dg.Executor):
    """Runs the steps with another executor, under a claim."""

    def __init__(self, inner: dg.Executor, claims: Claims, data_root: Path | None = None) -> None:
        """Keep all of them.

        Args:
            inner: starts the steps.
            claims: of what works on the data.
            data_root: the folder of the data, whose experiments may be in a store; None: in none.
        """
        self._inner, self._claims, self._data_root = inner, claims, data_root

    @property
    def retries(self) -> RetryMode:
        """As the inner one."""
        return self._inner.retries

    @property
    def step_dependency_config(self) -> StepDependencyConfig:
        """As the inner one."""
        return self._inner.step_dependency_config

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[dg.DagsterEvent]:
        """The events of the run's steps.

        Raises:
            ClaimedError: another process works on a round of the run.
            DiskFullError: the disk is full where Dagster keeps its runs.
            StoreError: LANCE_STORE or LANCE_HISTORY cannot be used, or would let two machines overwrite each other.
        """
        instance, run, say = plan_context.instance, plan_context.dagster_run, plan_context.log.info
        is_elsewhere = find_deployment().name != "local"
        # First, since steps of a lost run may still be ending.
        end_lost_runs(instance, self._claims, say=say)
        with contextlib.ExitStack() as stack:
            if not self._claims.holds(run.run_id):
                try:
                    stack.enter_context(hold_run(self._claims, run))
                except ClaimedError as error:
                    _refuse(instance, run, error)
                    raise
            if list_scopes(run):
                check_history()
            try:
                self._hold_leases(stack, run)
            except UnreachableStoreError as error:
                # It may be back before a step publishes, and what others have published meanwhile is refused then.
                say(f"no lease was taken: {error}")
            except ClaimedError as error:
                _refuse(instance, run, error)
                raise
            ended = stack.enter_context(_until_the_end())
            watch = (instance, self._claims, run.run_id, say, ended)
            threading.Thread(target=_watch, args=watch, daemon=True, name="waiting for a slot").start()
            stack.enter_context(_until_there_is_room(instance, run))
            stack.enter_context(waiting_patiently())
            for event in self._inner.execute(plan_context, execution_plan):
                if why := explain_killed(event, is_elsewhere=is_elsewhere):
                    allow_retry(instance, run, why)
                yield event
            if is_elsewhere:
                self._forget_jobs(run)

    def _forget_jobs(self, run: dg.DagsterRun) -> None:
        """Forget the claims of jobs that the cluster has ended: those of a machine that went down are let go by nobody.

        A job that was told to end may take some seconds; one that does not ends itself once the run's claim is gone.
        """
        until = time.monotonic() + ENDING_SECONDS
        while self._claims.list_alive(f"{run.run_id}.") and time.monotonic() < until:
            time.sleep(1)
        self._claims.forget_steps(run.run_id)

    def _hold_leases(self, stack: contextlib.ExitStack, run: dg.DagsterRun) -> None:
        """Hold the run's experiments against other machines, where they are in a store.

        Raises:
            LeasedError: another machine works on one.
            StoreError: the store cannot be used.
        """
        if self._data_root is None:
            return
        store, scopes = find_store(), list_scopes(run)
        for name in name_experiments(run) if scopes else []:

            def is_shared(name: str = name) -> bool:
                others = (each for each in self._claims.list_alive() if each.name.partition(".")[0] != run.run_id)
                return any(scope.partition(" ")[0] == name for each in others for scope in each.scopes)

            held = hold_lease(store, self._data_root, name, what=describe_run(run), is_shared=is_shared)
            stack.enter_context(held)


def _refuse(instance: dg.DagsterInstance, run: dg.DagsterRun, error: ClaimedError) -> None:
    """Note why a run was refused. The other one makes the round; to start this one again would be refused again."""
    instance.add_run_tags(run.run_id, {REFUSED_TAG: str(error), MAX_RETRIES_TAG: "0"})


def check_history() -> None:
    """Check that the server of LANCE_HISTORY refuses a commit where another one came first, as Amazon's own does.

    Raises:
        StoreError: it does not, so that two runs could overwrite each other's vectors, or it refuses to be asked.
    """
    address = find_history_address()
    if address is None or not find_endpoint(address):
        return
    try:
        Store(address).require_refusal()
    except UnreachableStoreError:
        """It may be back before a step needs vectors, and that step says so where it is not."""
    except StoreError as error:
        raise StoreError(f"{HISTORY}: {error}") from error


def hold_run(claims: Claims, run: dg.DagsterRun) -> contextlib.AbstractContextManager[Any]:
    """The claim of a run of the daemon, by this process."""
    return claims.hold(run.run_id, what=describe_run(run), scopes=list_scopes(run))


def explain_killed(event: dg.DagsterEvent, *, is_elsewhere: bool = False) -> str:
    """Which step's process or job was killed; empty for any other event.

    Args:
        event: of a run.
        is_elsewhere: whether its steps are jobs of a cluster. That ends a job by a signal which the step can tell of,
            when its time is over or its machine is needed; on this machine it is a person who does so.
    """
    if not event.is_step_failure or event.step_failure_data.error is None:
        return ""
    error = event.step_failure_data.error
    if error.cls_name == KILLED:
        return f"the process of its step {event.step_key} was killed"
    if is_elsewhere and event.step_failure_data.error_source == ErrorSource.INTERRUPT:
        return f"the job of its step {event.step_key} was ended by its cluster"
    _, is_unhealthy, why = error.message.partition(UNHEALTHY)
    return f"its step {event.step_key} was lost, {why.strip()}" if is_unhealthy else ""


@contextlib.contextmanager
def _until_the_end() -> Iterator[threading.Event]:
    """An event that is set when the block ends."""
    ended = threading.Event()
    try:
        yield ended
    finally:
        ended.set()


@contextlib.contextmanager
def _until_there_is_room(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Iterator[None]:
    """Tell of a full disk in words, and let the daemon start its run again: that waits until it can be written."""
    from sqlalchemy.exc import SQLAlchemyError  # late, as in `full_disk`

    try:
        with explain_full_instance(Path(instance.root_directory)):
            yield
    except DiskFullError as error:
        if run.tags.get(MAX_RETRIES_TAG) != "0":
            # Where the disk has no room even for this, the run is lost with its process, and found as such later.
            with contextlib.suppress(SQLAlchemyError):
                allow_retry(instance, run, str(error))
        raise


def _watch(instance: dg.DagsterInstance, claims: Claims, run_id: str, say: Say, ended: threading.Event) -> None:
    """While a run waits for a slot, end the runs that hold it and are lost, and say who holds it."""
    from sqlalchemy.exc import SQLAlchemyError  # late, as in `full_disk`

    last, silent, trouble = "", 0.0, ""
    while not ended.wait(WATCH_SECONDS):
        silent += WATCH_SECONDS
        try:
            waiting = explain_waiting(instance, claims, run_id)
            if waiting:
                end_lost_runs(instance, claims, say=say)
            if waiting and (waiting != last or silent >= SAY_SECONDS):
                say(waiting)
                silent = 0.0
            last, told = waiting, ""
        except (OSError, SQLAlchemyError) as error:  # a full disk, or a database that is locked: it may pass
            told = str(error).partition("\n")[0]
            # The run's log would be written into the same database.
            if told != trouble:
                print(f"who holds what run {run_id[:8]} waits for cannot be told now ({told})", file=sys.stderr)
        trouble = told


def build_executor(data_root: Path) -> dg.ExecutorDefinition:
    """Each step in a process or job of its own, where the deployment says; the run claims what it works on.

    Args:
        data_root: the folder of the data that the runs work on.

    Raises:
        ValueError: the deployment is none, or cannot be used here.
    """
    inner, config = find_deployment().choose_executor()

    def create(context: dg.InitExecutorContext) -> dg.Executor:
        assert inner.executor_creation_fn is not None, "Dagster's own executor can be made"
        return WatchedExecutor(inner.executor_creation_fn(context), Claims(data_root / "running"), data_root)

    own = dg.ExecutorDefinition(
        name=inner.name,
        config_schema=inner.config_schema.as_field() if inner.config_schema else None,
        requirements=dg.multiple_process_executor_requirements(),
        executor_creation_fn=create,
        description=inner.description,
    )
    return own.configured(config)
