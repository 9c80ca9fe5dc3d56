"""Evaluation by lm-evaluation-harness: any of its tasks, in a process of its own.

Scores move with the batch size, since padding moves logits in the last bits. So the caller fixes and records it, and it
is never `auto`.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import polars as pl

from resources.evaluation.harness_report import EvaluationError, parse_lm_eval, parse_samples, read_samples
from resources.machine.processes import stream_process
from resources.models.chat_format import adapt_folder, read_opened
from resources.stores.checkpoints import has_chat_template

HARNESS = "resources.evaluation.harness_worker"
"""What is run: the harness, confined."""
PROMPTS = "resources.evaluation.task_prompts_worker"
"""What is run to read the prompts of tasks."""
TAKEN = "taken.json"
"""In the folder of a run: the seconds in which the model answered its requests."""


class Link(Protocol):
    """Where the harness's process finds the round's engine (`engine_link.EngineLink`)."""

    error: BaseException | None
    """Why the engine cannot go on."""

    @property
    def descriptor(self) -> int:
        """The socket that the harness's process inherits."""
        ...


@dataclass(frozen=True)
class HarnessRun:
    """Tasks that are asked in one way."""

    tasks: Sequence[str]
    """Names of harness tasks or groups, of tasks defined under `include_path`, or paths of task YAML files."""
    num_fewshot: int | None = None
    """Examples in the prompt; None takes the task's."""
    limit: int | None = None
    """At most so many items of each task; None takes all."""
    kept: Path | None = None
    """Where finished requests are kept, for a later try of the same run; None keeps none. The file's name is this path
    with `_rank0.db` behind it."""

    def list_arguments(self, folder: Path) -> list[str]:
        """What the harness is told of it: an option that is not given leaves the task's own value in force."""
        told = ["--tasks", ",".join(map(str, self.tasks)), "--output_path", str(folder)]
        optional = {"--num_fewshot": self.num_fewshot, "--limit": self.limit, "--use_cache": self.kept}
        for option, value in optional.items():
            told += [] if value is None else [option, str(value)]
        return told


@dataclass(frozen=True)
class HarnessResult:
    """What the harness found of one model in one run."""

    report: pl.DataFrame
    """Its scores, schema `EVAL_REPORT`."""
    items: pl.DataFrame
    """The items of those scores that are a mean over items, schema `HARNESS_ITEMS`."""
    seconds: float = 0.0
    """In which the model answered requests, without imports, tasks and the loading of the model."""
    num_asked: Mapping[str, int] = field(default_factory=dict)
    """Items that were asked, by task."""
    num_items: Mapping[str, int] = field(default_factory=dict)
    """Items that each task has."""
    peak_gpu_gib: float = 0.0
    """Most memory of all GPUs that the harness's process had reserved by then; 0 without one, and where an engine
    answers."""


def run_lm_eval(
    model_path: Path,
    runs: Sequence[HarnessRun],
    *,
    model_name: str,
    log: Callable[[str], None],
    include_path: Path | None = None,
    allow_task_code: bool = False,
    backend: Literal["batched", "hf"] = "batched",
    link: Link | None = None,
    batch_size: int = 32,
    apply_chat_template: bool | None = None,
    fewshot_as_multiturn: bool = True,
    system_message: str = "",
    rng_seed: int = 0,
) -> list[HarnessResult]:
    """Run lm-evaluation-harness tasks on a local checkpoint, offline, in one process that loads the model once.

    Args:
        model_path: folder of the model.
        runs: the tasks, by how they are asked.
        model_name: the `model` column.
        log: is given each line of the process's log.
        include_path: folder with task YAML files of one's own.
        allow_task_code: whether these files may run Python; see `harness_worker`.
        backend: the harness's model: `harness_model.BatchedModel`, or the harness's own `hf`.
        link: leads to the engine that answers in place of a backend (`engine_model`), on the same checkpoint.
        batch_size: fixed, since scores move with it; an engine has its own.
        apply_chat_template: ask through the model's chat template; None: where it has one, as training taught it.
        fewshot_as_multiturn: whether examples are earlier turns of the chat, or part of its one message.
        system_message: what comes before each item of a chat; empty for no message. Without the chat template an item
            is plain text, and nothing comes before it.
        rng_seed: of few-shot examples and sampling.

    Returns:
        For each run its scores, one row for each task and metric, with a 95% interval, Wilson's where items are right
        or wrong, otherwise a normal one from the harness's standard error, null where it gives none; and the items.
        Answers are read without what the model thought before them (`harness_thoughts`).

    Raises:
        ValueError: a run without tasks.
        EvaluationError: an unknown task, or any other failure, with the tail of the log.
        BaseException: the error of the link, where the engine cannot go on.
    """
    if not all(run.tasks for run in runs):
        raise ValueError("tasks must name at least one lm-evaluation-harness task, got none")
    is_chat = has_chat_template(model_path) if apply_chat_template is None else apply_chat_template
    with tempfile.TemporaryDirectory() as out, tempfile.TemporaryDirectory() as view:
        # The harness leaves out a system message that the template refuses, and may add a beginning of text.
        model = f"{adapt_folder(model_path, Path(view))},add_bos_token=False" if is_chat else str(model_path)
        asked = (backend, "") if link is None else ("engine", f",link={link.descriptor},rng_seed={rng_seed}")
        shared = ["--model", asked[0], "--batch_size", str(batch_size), "--seed", str(rng_seed), "--log_samples"]
        shared += ["--model_args", f"pretrained={model},trust_remote_code=False,use_safetensors=True{asked[1]}"]
        shared += [] if include_path is None else ["--include_path", str(include_path)]
        if is_chat:
            shared += ["--apply_chat_template", "--fewshot_as_multiturn", str(fewshot_as_multiturn).lower()]
            shared += ["--system_instruction", system_message] if system_message else []
        folders = [Path(out) / str(place) for place in range(len(runs))]
        told = [
            {"arguments": [*shared, *run.list_arguments(folder)], "taken": str(folder / TAKEN)}
            for run, folder in zip(runs, folders, strict=True)
        ]
        tasks = [task for run in runs for task in run.tasks]
        job = {"runs": told, "allow_task_code": allow_task_code, "opens": read_opened(model_path) if is_chat else ""}
        _run_harness(HARNESS, job, tasks, log, link)
        return [read_result(folder, run.tasks, model_name) for run, folder in zip(runs, folders, strict=True)]


def read_result(folder: Path, tasks: Sequence[str], model_name: str) -> HarnessResult:
    """What the harness wrote of a run into a folder.

    Raises:
        EvaluationError: no result file, or several.
    """
    # The name of the result file holds the time, so it is found by its pattern.
    reports = sorted(folder.rglob("results_*.json"))
    if len(reports) != 1:
        raise EvaluationError(f"lm-evaluation-harness wrote {len(reports)} result files for {list(tasks)}, not 1")
    written = json.loads(reports[0].read_text())
    report = parse_lm_eval(written, model_name=model_name)
    asked, there = (
        {task: int(number[kind]) for task, number in written["n-samples"].items()} for kind in ("effective", "original")
    )
    samples = {task: read_samples(reports[0].parent, task) for task in report["benchmark"].unique().sort()}
    taken = json.loads((folder / TAKEN).read_text())
    return HarnessResult(
        report, parse_samples(samples, report), taken["seconds"], asked, there, peak_gpu_gib=taken["peak_gpu_gib"]
    )


def read_task_prompts(
    tasks: Sequence[str], *, include_path: Path | None, allow_task_code: bool = False, log: Callable[[str], None]
) -> list[str]:
    """Every prompt that harness tasks evaluate, few-shot examples left out, in a process of its own.

    Args:
        tasks: as for `HarnessRun`.
        include_path: folder with task YAML files of one's own.
        allow_task_code: as for `run_lm_eval`.
        log: is given each line of the process's log.

    Returns:
        Different prompts, sorted.

    Raises:
        EvaluationError: an unknown task, or any other failure, with the tail of the log.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "prompts.json"
        where = None if include_path is None else str(include_path)
        job = {"tasks": list(tasks), "include_path": where, "allow_task_code": allow_task_code, "out": str(out)}
        _run_harness(PROMPTS, job, tasks, log)
        prompts: list[str] = json.loads(out.read_text())
    return prompts


def _run_harness(
    program: str,
    job: Mapping[str, object],
    tasks: Sequence[str],
    log: Callable[[str], None],
    link: Link | None = None,
) -> None:
    """Run a program of the harness to its end, on a job that it reads from a file."""
    added = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    # The engine's copies hold the GPUs, and a process that only asks them shall take none of their memory.
    added |= {"CUDA_VISIBLE_DEVICES": ""} if link is not None else {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "job.json"
        file.write_text(json.dumps(job))
        command = [sys.executable, "-m", program, str(file)]
        inherited = [link.descriptor] if link is not None else []
        code, text = stream_process(command, added_environment=added, log=log, descriptors=inherited)
    if code != 0 and link is not None and link.error is not None:
        # The harness failed since the engine did, which says more.
        raise link.error
    if code != 0:
        remedy = "name a task of `lm-eval ls tasks` or one whose YAML is under include_path; its data must be local"
        raise EvaluationError(f"lm-evaluation-harness failed on {list(tasks)} (exit {code}); {remedy}\n{text}")
