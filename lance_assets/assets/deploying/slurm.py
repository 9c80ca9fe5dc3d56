"""Steps as jobs of Slurm, one job a step, by Dagster's own executor for steps that run elsewhere.

Slurm does the work: `sbatch` queues the step's command, `squeue` says how it stands, and `scancel` ends it. The step
itself is Dagster's command `dagster api execute_step`, as dagster-k8s and dagster-ray run it, with the environment of
the run. It needs the same files and the same installation on every node.

dagster-slurm 1.22 has no executor. From inside an asset it sends a script to Slurm over SSH, in an environment that it
packs with pixi, and reads what the script reports through Pipes. So each asset would have to be written for it.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

# There is no public name for Dagster's executor of steps that run elsewhere; dagster-k8s and dagster-ray use the same.
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.step_delegating import (
    CheckStepHealthResult,
    StepDelegatingExecutor,
    StepHandler,
    StepHandlerContext,
)

from lance_assets.home import find_home

SLURM_TAG = "lance/slurm"
"""The tag of an op that says what its job asks for."""
ARGUMENTS = "LANCE_SLURM_ARGS"
"""The environment variable with further arguments of `sbatch`, such as `--partition=gpu --time=12:00:00`."""

ENDED_BADLY = frozenset(
    ("BOOT_FAIL", "CANCELLED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT")
)
"""States of a job that has ended and did not finish its step."""
HEALTH_SECONDS = 10
"""Slurm is asked so often how a running step stands."""
_SCRIPT = "#!/bin/sh\nexec {command}\n"


class SlurmError(RuntimeError):
    """A command of Slurm failed; the message is what it said."""


def run_slurm(command: Sequence[str], *, given: str = "", environment: Mapping[str, str] | None = None) -> str:
    """What a command of Slurm prints.

    Args:
        command: program and arguments.
        given: its standard input.
        environment: variables on top of this process's.

    Raises:
        SlurmError: it failed.
    """
    own = {**os.environ, **(environment or {})}
    done = subprocess.run(command, input=given, env=own, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SlurmError(f"{shlex.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


def build_arguments(request: Mapping[str, Any]) -> list[str]:
    """What a step asks for, in `sbatch`'s words.

    >>> build_arguments({"num_cpus": 4, "num_gpus": 2, "memory_gib": 1.5})
    ['--ntasks=1', '--cpus-per-task=4', '--gres=gpu:2', '--mem=1536M']
    >>> build_arguments({"num_cpus": 1, "num_gpus": 0})
    ['--ntasks=1', '--cpus-per-task=1']
    >>> build_arguments({"num_cpus": 8, "num_gpus": 8, "num_nodes": 2})
    ['--nodes=2', '--ntasks-per-node=1', '--cpus-per-task=8', '--gres=gpu:8']
    """
    # GPUs and memory are asked for on each node. With --ntasks=1 Slurm would cut the nodes to one.
    num_nodes = request.get("num_nodes", 1)
    asked = ["--ntasks=1"] if num_nodes == 1 else [f"--nodes={num_nodes}", "--ntasks-per-node=1"]
    if "num_cpus" in request:
        asked.append(f"--cpus-per-task={request['num_cpus']}")
    if request.get("num_gpus"):
        asked.append(f"--gres=gpu:{request['num_gpus']}")
    if "memory_gib" in request:
        asked.append(f"--mem={round(request['memory_gib'] * 1024)}M")
    return asked


def read_state(job: str) -> str | None:
    """The state of a job in Slurm's word; None where Slurm has forgotten it, some minutes after its end.

    Raises:
        SlurmError: Slurm does not answer.
    """
    try:
        # It needs no accounting database, and names jobs that have ended until MinJobAge.
        told = run_slurm(["squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T"])
    except SlurmError as error:
        if "Invalid job id" in str(error):
            return None
        raise
    return told.partition("\n")[0] or None


class SlurmSteps(StepHandler):
    """Starts, watches and ends the jobs of a run's steps."""

    def __init__(self, *, logs: Path, arguments: Sequence[str]) -> None:
        """Keep what all jobs share.

        Args:
            logs: folder of the jobs' own output.
            arguments: further ones of `sbatch`, which stand last and so decide.
        """
        self._logs, self._arguments = logs, tuple(arguments)
        self._jobs: dict[str, str] = {}

    @property
    def name(self) -> str:
        """For Dagster's log."""
        return "SlurmSteps"

    def launch_step(self, step_handler_context: StepHandlerContext) -> Iterator[dg.DagsterEvent]:
        """Queue the job of a step.

        Raises:
            SlurmError: Slurm refuses it.
        """
        told, step = step_handler_context.execute_step_args, _name_step(step_handler_context)
        tags = step_handler_context.step_tags[step]
        # Dagster keeps the value of a tag that is no text as JSON.
        request = json.loads(tags[SLURM_TAG]) if SLURM_TAG in tags else {}
        self._logs.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", f"lance-{told.run_id[:8]}-{step}")
        command = ["sbatch", "--parsable", f"--job-name={name}", f"--output={self._logs / '%x-%j.log'}"]
        # After the end of a node the run starts the step again, which knows what is left to do; Slurm would do so too.
        command += ["--no-requeue", "--export=ALL", f"--chdir={Path.cwd()}", *build_arguments(request)]
        # As variables, since other users of the machine can read arguments.
        given = {each["name"]: each["value"] for each in told.get_command_env()}
        program, *arguments = told.get_command_args(skip_serialized_namedtuple=True)
        # An environment that is not activated has no command `dagster`, and its Python has the module.
        python = [sys.executable, "-m", program] if program == "dagster" else [program]
        script = _SCRIPT.format(command=shlex.join([*python, *arguments]))
        # It prints the number, and the cluster's name behind it where there are several.
        job = run_slurm([*command, *self._arguments], given=script, environment=given).partition(";")[0]
        self._jobs[step] = job
        yield dg.DagsterEvent.step_worker_starting(
            step_handler_context.get_step_context(step),
            message=f"step {step} is job {job} of Slurm",
            metadata={
                "slurm_job": dg.MetadataValue.text(job),
                "log": dg.MetadataValue.path(str(self._logs / f"{name}-{job}.log")),
            },
        )

    def check_step_health(self, step_handler_context: StepHandlerContext) -> CheckStepHealthResult:
        """Whether the job of a step may still finish it, or has."""
        step = _name_step(step_handler_context)
        if step not in self._jobs:
            return CheckStepHealthResult.unhealthy("this run has queued no job for it")
        job = self._jobs[step]
        state = read_state(job)
        if state is None:
            return CheckStepHealthResult.unhealthy(f"Slurm has no job {job} any more")
        if state in ENDED_BADLY:
            return CheckStepHealthResult.unhealthy(f"job {job} of Slurm ended as {state}")
        return CheckStepHealthResult.healthy()

    def terminate_step(self, step_handler_context: StepHandlerContext) -> Iterator[dg.DagsterEvent]:
        """End the job of a step.

        Raises:
            SlurmError: Slurm refuses it.
        """
        step = _name_step(step_handler_context)
        if step in self._jobs:
            run_slurm(["scancel", self._jobs[step]])
        return iter(())


def _name_step(context: StepHandlerContext) -> str:
    steps = context.execute_step_args.step_keys_to_execute
    assert steps, "Dagster starts one step at a time"
    (step,) = steps
    return step


def build_slurm_executor(*, needed_by: str) -> dg.ExecutorDefinition:
    """The executor of runs whose steps are jobs of Slurm.

    Args:
        needed_by: which setting chose it, for the message.

    Raises:
        ValueError: this machine has no `sbatch`.
    """
    # A job builds its step's run again, and queues nothing.
    if shutil.which("sbatch") is None and "SLURM_JOB_ID" not in os.environ:
        raise ValueError(
            f"{needed_by} needs Slurm's command sbatch, which is not on the PATH; start Dagster on a machine that "
            "submits jobs, or install its client (Debian: apt-get install slurm-client)"
        )

    @dg.executor(
        name="slurm",
        config_schema={"max_concurrent": dg.Field(int, description="Steps of one run that are queued or run at once.")},
        requirements=dg.multiple_process_executor_requirements(),
    )
    def slurm(context: dg.InitExecutorContext) -> dg.Executor:
        number = context.executor_config["max_concurrent"]
        assert isinstance(number, int), "the schema says so"
        return StepDelegatingExecutor(
            SlurmSteps(logs=find_home() / "slurm", arguments=shlex.split(os.environ.get(ARGUMENTS) or "")),
            retries=RetryMode.ENABLED,
            check_step_health_interval_seconds=HEALTH_SECONDS,
            max_concurrent=number,
            should_verify_step=True,
        )

    return slurm
