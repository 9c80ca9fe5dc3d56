"""Evaluation by lm-evaluation-harness: any of its tasks, in a process of its own.

Scores move with the batch size, since padding moves logits in the last bits. So the caller fixes and records it, and it
is never `auto`.
"""

import json
import math
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import polars as pl

from lance_assets.algorithms.measures.headline import guess_direction, name_metric
from lance_assets.algorithms.measures.statistics import compute_wilson_interval
from lance_assets.records import EVAL_REPORT, HARNESS_ITEMS
from resources.evaluation.request_clock import read_seconds
from resources.machine.processes import stream_process
from resources.models.chat_format import adapt_folder
from resources.stores.checkpoints import has_chat_template

_NORMAL_95 = 1.959963984540054
HARNESS = "resources.evaluation.harness_worker"
"""What is run: the harness, confined."""
ALLOWED = "--allow-task-code"
"""Its option that lets task files run Python."""


class EvaluationError(RuntimeError):
    """An evaluation did not run to its end, so there is no score."""


@dataclass(frozen=True)
class HarnessResult:
    """What the harness found of one model."""

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


def run_lm_eval(
    model_path: Path,
    tasks: Sequence[str],
    *,
    model_name: str,
    log: Callable[[str], None],
    include_path: Path | None = None,
    allow_task_code: bool = False,
    num_fewshot: int | None = None,
    limit: int | None = None,
    backend: Literal["batched", "hf"] = "batched",
    batch_size: int = 32,
    kept: Path | None = None,
    apply_chat_template: bool | None = None,
    fewshot_as_multiturn: bool = True,
    system_message: str = "",
    rng_seed: int = 0,
) -> HarnessResult:
    """Run lm-evaluation-harness tasks on a local checkpoint, offline, in a process of its own.

    Args:
        model_path: folder of the model.
        tasks: names of harness tasks or groups, of tasks defined under `include_path`, or paths of task YAML files.
        model_name: the `model` column.
        log: is given each line of the process's log.
        include_path: folder with task YAML files of one's own.
        allow_task_code: whether these files may run Python; see `harness_worker`.
        num_fewshot: examples in the prompt; None takes the task's.
        limit: at most so many items of each task.
        backend: the harness's model: `harness_model.BatchedModel`, or the harness's own `hf`.
        batch_size: fixed, since scores move with it.
        kept: where finished requests are kept, for a later try of the same evaluation; None keeps none. The file's name
            is this path with `_rank0.db` behind it.
        apply_chat_template: ask through the model's chat template; None: where it has one, as training taught it.
        fewshot_as_multiturn: whether examples are earlier turns of the chat, or part of its one message.
        system_message: what comes before each item of a chat; empty for no message. Without the chat template an item
            is plain text, and nothing comes before it.
        rng_seed: of few-shot examples and sampling.

    Returns:
        The scores, one row for each task and metric, with a 95% interval, Wilson's where items are right or wrong,
        otherwise a normal one from the harness's standard error, null where it gives none; and the items.

    Raises:
        ValueError: no tasks.
        EvaluationError: an unknown task, or any other failure, with the tail of the log.
    """
    if not tasks:
        raise ValueError("tasks must name at least one lm-evaluation-harness task, got none")
    is_chat = has_chat_template(model_path) if apply_chat_template is None else apply_chat_template
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as view:
        model_args = f"pretrained={model_path}"
        if is_chat:
            # The harness leaves out a system message that the template refuses, and may add a beginning of text.
            model_args = f"pretrained={adapt_folder(model_path, Path(view))},add_bos_token=False"
        model_args += ",trust_remote_code=False,use_safetensors=True"
        allowed = [ALLOWED] if allow_task_code else []
        command = [sys.executable, "-m", HARNESS, *allowed, "run", "--model", backend, "--model_args", model_args]
        command += ["--tasks", ",".join(map(str, tasks)), "--batch_size", str(batch_size), "--output_path", folder]
        command += ["--seed", str(rng_seed), "--log_samples"]
        # An option that is not given leaves the task's own value in force.
        optional = {"--include_path": include_path, "--num_fewshot": num_fewshot, "--limit": limit, "--use_cache": kept}
        for option, value in optional.items():
            command += [] if value is None else [option, str(value)]
        if is_chat:
            command += ["--apply_chat_template", "--fewshot_as_multiturn", str(fewshot_as_multiturn).lower()]
            command += ["--system_instruction", system_message] if system_message else []
        output = _run_harness(command, tasks, log)
        reports = sorted(Path(folder).rglob("results_*.json"))
        # The name of the result file holds the time, so it is found by its pattern.
        if len(reports) != 1:
            raise EvaluationError(f"lm-evaluation-harness wrote {len(reports)} result files for {list(tasks)}, not 1")
        written = json.loads(reports[0].read_text())
        report = parse_lm_eval(written, model_name=model_name)
        asked, there = (
            {task: int(number[kind]) for task, number in written["n-samples"].items()}
            for kind in ("effective", "original")
        )
        samples = {task: _read_samples(reports[0].parent, task) for task in report["benchmark"].unique().sort()}
        return HarnessResult(report, parse_samples(samples, report), read_seconds(output), asked, there)


def read_task_prompts(
    tasks: Sequence[str], *, include_path: Path | None, allow_task_code: bool = False, log: Callable[[str], None]
) -> list[str]:
    """Every prompt that harness tasks evaluate, few-shot examples left out, in a process of its own.

    Args:
        tasks: as for `run_lm_eval`.
        include_path: folder with task YAML files of one's own.
        allow_task_code: as for `run_lm_eval`.
        log: is given each line of the process's log.

    Returns:
        Different prompts, sorted.

    Raises:
        EvaluationError: an unknown task, or any other failure, with the tail of the log.
    """
    with tempfile.TemporaryDirectory() as folder:
        job, out = Path(folder) / "job.json", Path(folder) / "prompts.json"
        where = None if include_path is None else str(include_path)
        job.write_text(
            json.dumps(
                {"tasks": list(tasks), "include_path": where, "allow_task_code": allow_task_code, "out": str(out)}
            )
        )
        _run_harness([sys.executable, "-m", "resources.evaluation.task_prompts_worker", str(job)], tasks, log)
        prompts: list[str] = json.loads(out.read_text())
    return prompts


def _run_harness(command: list[str], tasks: Sequence[str], log: Callable[[str], None]) -> str:
    """Run the harness to its end; the last lines of its output."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    code, text = stream_process(command, added_environment=offline, log=log)
    if code != 0:
        remedy = "name a task of `lm-eval ls tasks` or one whose YAML is under include_path; its data must be local"
        raise EvaluationError(f"lm-evaluation-harness failed on {list(tasks)} (exit {code}); {remedy}\n{text}")
    return text


def _find_interval(score: float, stderr: object, num_items: int | None) -> tuple[float | None, float | None]:
    """The 95% interval; none where the harness has no standard error, for which it writes the text "N/A".

    Of items that are right or wrong it is Wilson's, which stays in [0, 1]: of 40 items with one right the normal one
    would be [-0.024, 0.074], and all right or all wrong has a standard error of 0.
    """
    if not isinstance(stderr, (int, float)) or not math.isfinite(stderr):
        return None, None
    if num_items and 0 <= score <= 1:
        num_right = round(score * num_items)
        # Only items that are 0 or 1 have this standard error; of an F1, for example, it is smaller.
        spread = math.sqrt(score * (1 - score) / (num_items - 1)) if num_items > 1 else 0.0
        if math.isclose(num_right, score * num_items, abs_tol=1e-6) and math.isclose(stderr, spread, abs_tol=1e-9):
            return compute_wilson_interval(num_right, num_items)
    return score - _NORMAL_95 * stderr, score + _NORMAL_95 * stderr


def parse_lm_eval(report: dict, *, model_name: str) -> pl.DataFrame:
    """Read a harness result file: `{"results": {task: {"metric,filter": score, "metric_stderr,filter": ...}}, ...}`.

    Returns:
        EVAL_REPORT. A metric under a filter other than "none" is named "metric (filter)". Where the harness does not
        say whether higher is better, the metric's name does.

    Raises:
        EvaluationError: there is no score in it.
    """
    rows = []
    parents = _find_groups(report)
    for task, scores in report["results"].items():
        directions = report["higher_is_better"].get(task, {}) if "higher_is_better" in report else {}
        for name, score in scores.items():
            metric, _, filter_name = name.partition(",")
            # A score's name has two parts with a comma between them; the other entries are labels and standard errors.
            if not filter_name or metric.endswith("_stderr"):
                continue
            samples = report["n-samples"].get(task)
            num_items = samples["effective"] if samples else None
            ci_low, ci_high = _find_interval(score, scores.get(f"{metric}_stderr,{filter_name}"), num_items)
            is_known = directions.get(metric) is not None
            rows.append(
                {
                    "model": model_name,
                    "benchmark": task,
                    "metric": name_metric(metric, filter_name),
                    "task": "all",
                    "stratum": None,
                    "score": float(score),
                    "ci_low": ci_low,
                    "ci_high": ci_high,
                    "num_items": num_items,
                    "higher_is_better": directions[metric] if is_known else guess_direction(metric),
                    "part_of": parents.get(task),
                }
            )
    if not rows:
        raise EvaluationError(f"lm-evaluation-harness gave no score for {list(report['results'])}")
    return pl.DataFrame(rows, schema=EVAL_REPORT)


def _find_groups(report: dict) -> dict[str, str]:
    """Of each task the group whose score holds its own: the nearest one above it that has a score."""
    above = {child: group for group, children in report.get("group_subtasks", {}).items() for child in children}
    has_score = {
        task
        for task, scores in report["results"].items()
        if any("," in name and "_stderr," not in name for name in scores)
    }
    nearest = {}
    for task in above:
        group: str | None = above[task]
        while group is not None and group not in has_score:
            group = above.get(group)
        if group is not None:
            nearest[task] = group
    return nearest


def _read_samples(folder: Path, task: str) -> list[dict[str, Any]]:
    """What the harness wrote of each item of a task, once for each filter; nothing for a group, which has no items."""
    # The file's name ends in the time; the name of another task may begin as this one's does.
    named = re.compile(rf"samples_{re.escape(task)}_\d{{4}}-\d\d-\d\dT[^_]*\.jsonl")
    files = [path for path in sorted(folder.iterdir()) if named.fullmatch(path.name)]
    return [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]


def parse_samples(samples: Mapping[str, Iterable[dict[str, Any]]], report: pl.DataFrame) -> pl.DataFrame:
    """The items of every score that is a mean over them.

    A perplexity, for example, is no mean of what the harness writes of each item, so its items are left out.

    Args:
        samples: what the harness wrote of each item, by task.
        report: the scores, schema `EVAL_REPORT`, of one model.

    Returns:
        HARNESS_ITEMS, in the order of the report's scores and of the documents.
    """
    values: dict[tuple[str, str], dict[str, object]] = {}
    for task, written in samples.items():
        for sample in written:
            item = f"{sample['doc_id']}-{sample['doc_hash'][:16]}"
            for metric in sample["metrics"]:
                named = (task, name_metric(metric, sample["filter"]))
                values.setdefault(named, {})[item] = sample[metric]
    rows: list[dict[str, object]] = []
    for score in report.to_dicts():
        found = values.get((score["benchmark"], score["metric"]), {})
        parts = {item: float(value) for item, value in found.items() if isinstance(value, (bool, int, float))}
        if len(parts) < len(found) or not parts:
            continue
        if math.isclose(math.fsum(parts.values()) / len(parts), score["score"], rel_tol=1e-6, abs_tol=1e-9):
            names = {"model": score["model"], "benchmark": score["benchmark"], "metric": score["metric"]}
            rows += [names | {"item": item, "score": part} for item, part in parts.items()]
    return pl.DataFrame(rows, schema=HARNESS_ITEMS)
