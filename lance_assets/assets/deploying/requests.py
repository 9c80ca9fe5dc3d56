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
from resources.training.launching import read_processes

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
    """The GPUs that a step needs, by the experiment's file.

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
        return read_processes(plan.folder / Path(training.accelerate_config).expanduser())[0]
    return training.num_processes or 1


def check_requests(plan: Plan, nouns: Sequence[Noun]) -> None:
    """Check that the file's `requests` name assets that the experiment has.

    Raises:
        dagster.DagsterInvalidDefinitionError: they name another one.
    """
    names = [one.name for one in nouns]
    if unknown := sorted(set(plan.settings.requests) - {ANY, *names}):
        raise dg.DagsterInvalidDefinitionError(
            f"requests names {', '.join(unknown)}, and the experiment has no such asset; name {ANY} or one of "
            f"{', '.join(names)}"
        )


def find_request(plan: Plan, noun: Noun) -> StepRequest:
    """What a step asks for, with its number of GPUs filled in."""
    said = plan.settings.requests
    request = said[noun.name] if noun.name in said else said[ANY] if ANY in said else StepRequest()
    return request if request.num_gpus is not None else request.model_copy(update={"num_gpus": count_gpus(plan, noun)})


def tag_step(plan: Plan, noun: Noun) -> dict[str, Any]:
    """The tags of a step's op, in the words of the deployment; none for `local`."""
    return dict(find_deployment().tag_step(find_request(plan, noun)))
