"""What each step of a round asks a cluster for: what the experiment's file says, or what its engines and training need.

A model that an engine holds on GPUs, and one that is trained on them, decide the number of GPUs. Where a file leaves
open whether there is a GPU (`engine.device: auto` with transformers), none is asked for, so that the step is started on
machines without one too.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from lance_assets.assets.deploying.deployment import find_deployment
from lance_assets.rounds.plan import Noun, Plan
from lance_assets.settings.engines import EngineSettings, StepRequest
from resources.training.launching import Processes, explain_unstarted, read_processes

ANY = "any"
"""The name under which an experiment's `requests` say what holds for every asset without an entry of its own."""
TRAINED = ("checkpoint", "label_checkpoint")
"""The nouns whose steps train; every other one that holds a model asks it."""


def count_engine_gpus(engine: EngineSettings) -> int:
    """The GPUs that an engine holds a model on; 0 for a server's."""
    if engine.kind == "openai" or engine.device == "cpu":
        return 0
    if engine.kind == "vllm":
        return engine.vllm.tensor_parallel_size * engine.vllm.data_parallel_size
    return 1 if engine.device == "cuda" else 0


def count_gpus(plan: Plan, noun: Noun) -> int:
    """The GPUs that a step needs on all of its machines, by the experiment's file.

    Raises:
        ValueError: the accelerate configuration is none.
    """
    if not noun.uses_model(plan):
        return 0
    engines = [plan.settings.engine, *(role.engine for role in plan.roles.values())]
    if noun.name not in TRAINED:
        # Each copy that Ray places asks the cluster for GPUs of its own.
        own = [engine for engine in engines if engine.kind != "vllm" or engine.vllm.copies_on == "machine"]
        return max(map(count_engine_gpus, own), default=0)
    if not any(map(count_engine_gpus, engines)):
        return 0
    training = plan.settings.training
    if training.accelerate_config is not None:
        return _read_accelerate(plan).num_processes
    return training.num_processes or 1


def count_machines(plan: Plan, noun: Noun) -> int:
    """The machines that a step runs on, by the experiment's file; several for one that trains alone.

    Raises:
        ValueError: the accelerate configuration is none.
    """
    if noun.name not in TRAINED:
        return 1
    return find_said(plan, noun).num_nodes or _read_accelerate(plan).num_machines


def find_accelerate(plan: Plan) -> Path:
    """The accelerate configuration that the experiment names."""
    name = plan.settings.training.accelerate_config
    assert name is not None, "asked where there is one"
    return plan.folder / Path(name).expanduser()


def _read_accelerate(plan: Plan) -> Processes:
    if plan.settings.training.accelerate_config is None:
        return Processes(1, 1, is_sharded=False)
    return read_processes(find_accelerate(plan))


def check_requests(plan: Plan, nouns: Sequence[Noun]) -> None:
    """Check that the file's `requests` name assets that the experiment has, and machines that something starts.

    Raises:
        dagster.DagsterInvalidDefinitionError: they name another asset, or machines that nothing would start alike.
        ValueError: the accelerate configuration is none.
    """
    names = [one.name for one in nouns]
    if unknown := sorted(set(plan.settings.requests) - {ANY, *names}):
        raise dg.DagsterInvalidDefinitionError(
            f"requests names {', '.join(unknown)}, and the experiment has no such asset; name {ANY} or one of "
            f"{', '.join(names)}"
        )
    training, planned = plan.settings.training, _read_accelerate(plan).num_machines
    if planned > 1 and training.launcher is None:
        raise dg.DagsterInvalidDefinitionError(explain_unstarted(find_accelerate(plan)))
    for name, request in plan.settings.requests.items():
        if request.num_nodes in (None, 1):
            continue
        if name not in TRAINED:
            raise dg.DagsterInvalidDefinitionError(
                f"requests.{name}.num_nodes is {request.num_nodes}, and only a step that trains runs on several "
                f"machines; write it for {' or '.join(TRAINED)}, or spread generation by engine.vllm.copies_on"
            )
        if training.launcher is None:
            raise dg.DagsterInvalidDefinitionError(
                f"requests.{name}.num_nodes is {request.num_nodes}, and nothing starts training on the other machines; "
                "add training.launcher, such as [srun, torchrun, ...]"
            )
    trained = [noun for noun in nouns if noun.name in TRAINED]
    for noun in trained:
        found = find_said(plan, noun).num_nodes
        if training.accelerate_config is not None and found not in (None, planned):
            raise dg.DagsterInvalidDefinitionError(
                f"requests.{_find_entry(plan, noun)}.num_nodes is {found}, and {find_accelerate(plan)} "
                f"(training.accelerate_config) has num_machines {planned}; leave num_nodes out there, or write "
                f"requests.{noun.name}.num_nodes: {planned}"
            )
    numbers = {noun.name: count_machines(plan, noun) for noun in trained}
    if len(set(numbers.values())) > 1:
        told = " and ".join(f"{name} on {number}" for name, number in numbers.items())
        raise dg.DagsterInvalidDefinitionError(
            f"by requests the number of machines differs: {told}; training.launcher starts both alike, so write the "
            "same num_nodes for both"
        )


def _find_entry(plan: Plan, noun: Noun) -> str:
    """The name under which `requests` say something of a step."""
    return noun.name if noun.name in plan.settings.requests else ANY


def find_said(plan: Plan, noun: Noun) -> StepRequest:
    """What the experiment's file says of a step."""
    return plan.settings.requests.get(_find_entry(plan, noun), StepRequest())


def find_request(plan: Plan, noun: Noun) -> StepRequest:
    """What a step asks for, with its machines and its GPUs on each of them filled in.

    Raises:
        dagster.DagsterInvalidDefinitionError: its machines cannot have equal numbers of processes.
    """
    request, num_nodes = find_said(plan, noun), count_machines(plan, noun)
    if num_nodes > 1:
        request = request.model_copy(update={"num_nodes": num_nodes})
    if request.num_gpus is not None:
        return request
    num_gpus, rest = divmod(count_gpus(plan, noun), num_nodes)
    if rest:
        raise dg.DagsterInvalidDefinitionError(
            f"{noun.name} trains in {count_gpus(plan, noun)} processes on {num_nodes} machines, which cannot share "
            f"them equally; correct num_processes of training, or requests.{noun.name}.num_nodes"
        )
    return request.model_copy(update={"num_gpus": num_gpus})


def tag_step(plan: Plan, noun: Noun) -> dict[str, Any]:
    """The tags of a step's op, in the words of the deployment; none for `local`."""
    return dict(find_deployment().tag_step(find_request(plan, noun)))
