"""Where the steps of rounds run, as `LANCE_DEPLOYMENT` says.

| value | each step is | what runs it |
| --- | --- | --- |
| `local` (default) | a process of this machine, two at a time | Dagster's multiprocess executor |
| `ray` | a job of a Ray cluster | `ray_executor` of dagster-ray |
| `slurm` | a job of Slurm | `lance_assets.assets.deploying.slurm` |
| `k8s` | a Kubernetes job | `k8s_job_executor` of dagster-k8s |

The assets are the same under each. What a step asks for (`StepRequest`) is written on its op, in the words of the
deployment. Every deployment but `local` needs LANCE_HOME on a file system that all machines see.
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from lance_assets.assets.deploying.slurm import SLURM_TAG, build_slurm_executor
from lance_assets.extras import require_extra
from lance_assets.settings.engines import StepRequest
from lance_assets.settings.variables import list_told
from lance_assets.step_processes import LOCAL, VARIABLE, list_preloaded, read_deployment

MAX_CONCURRENT = "LANCE_MAX_CONCURRENT"
"""The environment variable with how many steps of one run are at work at once, under Slurm and on Kubernetes."""

POD_REFUSAL = (
    f"with {VARIABLE}=k8s rounds are started in Dagster's UI (the job EXPERIMENT_round) or by the sensor "
    "EXPERIMENT_next_round: a step's pod is made like that of its run, which Dagster's run launcher makes; start them "
    f"there (docs/deploy/kubernetes.md), or set {VARIABLE} to another deployment for rounds that this process runs"
)
"""What a process is told that would make pods and is in no pod of a run."""


@dataclass(frozen=True)
class Deployment:
    """One way to run steps."""

    name: str
    """The value of LANCE_DEPLOYMENT."""
    choose_executor: Callable[[], tuple[dg.ExecutorDefinition, dict[str, Any]]]
    """Dagster's executor and its configuration; raises ValueError where it cannot be used here."""
    tag_step: Callable[[StepRequest], Mapping[str, Any]]
    """What a step asks for, as the tags of its op that this deployment reads."""
    refusal: str = ""
    """Why a process that Dagster's run launcher did not start cannot run rounds; empty where it can."""


def find_deployment() -> Deployment:
    """The deployment that LANCE_DEPLOYMENT names; `local` where it is not set.

    Raises:
        ValueError: there is none of that name.
    """
    name = read_deployment()
    if name not in DEPLOYMENTS:
        raise ValueError(f"{VARIABLE} is {name!r}; set it to one of {', '.join(DEPLOYMENTS)}, or leave it unset")
    return DEPLOYMENTS[name]


def check_command() -> None:
    """Check that the command `lance` can run rounds itself, whose steps run where LANCE_DEPLOYMENT says.

    Raises:
        ValueError: it cannot, or there is no deployment of that name.
    """
    if refusal := find_deployment().refusal:
        raise ValueError(refusal)


def read_max_concurrent() -> int:
    """How many steps of one run are at work at once, 8 by default.

    Raises:
        ValueError: LANCE_MAX_CONCURRENT is no number from 1 on.
    """
    text = os.environ.get(MAX_CONCURRENT) or "8"
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{MAX_CONCURRENT} is {text!r}; set it to a number of steps, 1 or more")
    return int(text)


def _choose_local() -> tuple[dg.ExecutorDefinition, dict[str, Any]]:
    fork = {"forkserver": {"preload_modules": list_preloaded()}}
    return dg.multiprocess_executor, {"max_concurrent": 2, "start_method": fork}


def _choose_ray() -> tuple[dg.ExecutorDefinition, dict[str, Any]]:
    require_extra("dagster_ray", extra="ray", needed_by=f"{VARIABLE}=ray")
    from dagster_ray.core.executor import ray_executor

    # RAY_ADDRESS says where the cluster is.
    told = list_told()
    # Ray itself puts the node's PATH in. The command `dagster` lies beside the Python that runs this.
    told["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}${{PATH}}"
    return ray_executor, {"ray": {"runtime_env": {"env_vars": told}}}


def _choose_slurm() -> tuple[dg.ExecutorDefinition, dict[str, Any]]:
    return build_slurm_executor(needed_by=f"{VARIABLE}=slurm"), {"max_concurrent": read_max_concurrent()}


def _choose_k8s() -> tuple[dg.ExecutorDefinition, dict[str, Any]]:
    require_extra("dagster_k8s", extra="k8s", needed_by=f"{VARIABLE}=k8s")
    from dagster_k8s import K8sRunLauncher, k8s_job_executor

    def create(context: dg.InitExecutorContext) -> dg.Executor:
        # Image, secrets and volumes are those of the run's own pod, which the instance's launcher says.
        if not isinstance(context.instance.run_launcher, K8sRunLauncher):
            raise ValueError(POD_REFUSAL)
        assert k8s_job_executor.executor_creation_fn is not None, "Dagster's own executor can be made"
        return k8s_job_executor.executor_creation_fn(context)

    schema = k8s_job_executor.config_schema.as_field()
    needed = dg.multiple_process_executor_requirements()
    executor = dg.ExecutorDefinition("k8s", schema, requirements=needed, executor_creation_fn=create)
    return executor, {"max_concurrent": read_max_concurrent()}


def _tag_nothing(request: StepRequest) -> Mapping[str, Any]:
    return {}


def _refuse_machines(request: StepRequest, *, deployment: str, job: str) -> None:
    if request.num_nodes is not None and request.num_nodes > 1:
        raise dg.DagsterInvalidDefinitionError(
            f"a step asks for num_nodes {request.num_nodes} to train on, and {job} has one machine; set "
            f"{VARIABLE}=slurm, or train on one machine ({VARIABLE} is {deployment})"
        )


def _tag_ray(request: StepRequest) -> Mapping[str, Any]:
    _refuse_machines(request, deployment="ray", job="a job of Ray")
    memory = {} if request.memory_gib is None else {"memory": int(request.memory_gib * 2**30)}
    return {"dagster-ray/config": {"num_cpus": request.num_cpus, "num_gpus": request.num_gpus or 0, **memory}}


def _tag_slurm(request: StepRequest) -> Mapping[str, Any]:
    return {SLURM_TAG: request.model_dump(exclude_none=True)}


def _tag_k8s(request: StepRequest) -> Mapping[str, Any]:
    _refuse_machines(request, deployment="k8s", job="a pod")
    wanted: dict[str, str] = {"cpu": str(request.num_cpus)}
    if request.memory_gib is not None:
        wanted["memory"] = f"{request.memory_gib:g}Gi"
    # A GPU is not shared, so what is asked for and the limit are the same.
    limits = {"nvidia.com/gpu": str(request.num_gpus)} if request.num_gpus else {}
    return {"dagster-k8s/config": {"container_config": {"resources": {"requests": wanted | limits, "limits": limits}}}}


DEPLOYMENTS = {
    each.name: each
    for each in (
        Deployment(LOCAL, _choose_local, _tag_nothing),
        Deployment("ray", _choose_ray, _tag_ray),
        Deployment("slurm", _choose_slurm, _tag_slurm),
        Deployment("k8s", _choose_k8s, _tag_k8s, POD_REFUSAL),
    )
}
"""Every deployment by its name."""
