"""Evaluation by lm-evaluation-harness: any of its tasks, in a process of its own.

Scores move with the batch size, since padding moves logits in the last bits. So the caller fixes and records it, and it
is never `auto`.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from lance_assets.algorithms.measures.statistics import compute_wilson_interval
from lance_assets.records import EVAL_REPORT
from resources.machine.processes import stream_process

_NORMAL_95 = 1.959963984540054


class EvaluationError(RuntimeError):
    """An evaluation did not run to its end, so there is no score."""


def run_lm_eval(
    model_path: Path,
    tasks: Sequence[str],
    *,
    model_name: str,
    log: Callable[[str], None],
    include_path: Path | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    apply_chat_template: bool = False,
    rng_seed: int = 0,
) -> pl.DataFrame:
    """Run lm-evaluation-harness tasks on a local checkpoint, offline, in a process of its own.

    Args:
        model_path: folder of the model.
        tasks: names of harness tasks or groups, of tasks defined under `include_path`, or paths of task YAML files.
        model_name: the `model` column.
        log: is given each line of the process's log.
        include_path: folder with task YAML files of one's own.
        num_fewshot: examples in the prompt; None takes the task's.
        limit: at most so many items of each task.
        batch_size: fixed, since scores move with it.
        apply_chat_template: ask through the model's chat template.
        rng_seed: of few-shot examples and sampling.

    Returns:
        EVAL_REPORT: one row for each task and metric, with a normal 95% interval from the harness's standard error,
        null where it gives none.

    Raises:
        ValueError: no tasks.
        EvaluationError: an unknown task, or any other failure, with the tail of the log.
    """
    if not tasks:
        raise ValueError("tasks must name at least one lm-evaluation-harness task, got none")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={model_path}"]
        command += ["--tasks", ",".join(map(str, tasks)), "--batch_size", str(batch_size), "--output_path", folder]
        command += ["--seed", str(rng_seed)]
        # An option that is not given leaves the task's own value in force.
        optional = {"--include_path": include_path, "--num_fewshot": num_fewshot, "--limit": limit}
        for option, value in optional.items():
            command += [] if value is None else [option, str(value)]
        command += ["--apply_chat_template"] if apply_chat_template else []
        _run_harness(command, tasks, log)
        reports = sorted(Path(folder).rglob("results_*.json"))
        # The name of the result file holds the time, so it is found by its pattern.
        if len(reports) != 1:
            raise EvaluationError(f"lm-evaluation-harness wrote {len(reports)} result files for {list(tasks)}, not 1")
        return parse_lm_eval(json.loads(reports[0].read_text()), model_name=model_name)


def read_task_prompts(tasks: Sequence[str], *, include_path: Path | None, log: Callable[[str], None]) -> list[str]:
    """Every prompt that harness tasks evaluate, few-shot examples left out, in a process of its own.

    Args:
        tasks: as for `run_lm_eval`.
        include_path: folder with task YAML files of one's own.
        log: is given each line of the process's log.

    Returns:
        Different prompts, sorted.

    Raises:
        EvaluationError: an unknown task, or any other failure, with the tail of the log.
    """
    with tempfile.TemporaryDirectory() as folder:
        job, out = Path(folder) / "job.json", Path(folder) / "prompts.json"
        where = None if include_path is None else str(include_path)
        job.write_text(json.dumps({"tasks": list(tasks), "include_path": where, "out": str(out)}))
        _run_harness([sys.executable, "-m", "resources.evaluation.task_prompts_worker", str(job)], tasks, log)
        prompts: list[str] = json.loads(out.read_text())
    return prompts


def _run_harness(command: list[str], tasks: Sequence[str], log: Callable[[str], None]) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    code, text = stream_process(command, added_environment=offline, log=log)
    if code != 0:
        remedy = "name a task of `lm-eval ls tasks` or one whose YAML is under include_path; its data must be local"
        raise EvaluationError(f"lm-evaluation-harness failed on {list(tasks)} (exit {code}); {remedy}\n{text}")


def _find_interval(score: float, stderr: object, num_items: int | None) -> tuple[float | None, float | None]:
    """The 95% interval; none where the harness has no standard error, for which it writes the text "N/A".

    All right or all wrong has a standard error of 0, which says nothing: Wilson's interval does.
    """
    if not isinstance(stderr, (int, float)):
        return None, None
    if stderr == 0 and num_items and score in (0, 1):
        return compute_wilson_interval(int(score) * num_items, num_items)
    return score - _NORMAL_95 * stderr, score + _NORMAL_95 * stderr


def parse_lm_eval(report: dict, *, model_name: str) -> pl.DataFrame:
    """Read a harness result file: `{"results": {task: {"metric,filter": score, "metric_stderr,filter": ...}}, ...}`.

    Returns:
        EVAL_REPORT. A metric under a filter other than "none" is named "metric (filter)".

    Raises:
        EvaluationError: there is no score in it.
    """
    rows = []
    for task, scores in report["results"].items():
        for name, score in scores.items():
            metric, _, filter_name = name.partition(",")
            # A score's name has two parts with a comma between them; the other entries are labels and standard errors.
            if not filter_name or metric.endswith("_stderr"):
                continue
            samples = report["n-samples"].get(task)
            num_items = samples["effective"] if samples else None
            ci_low, ci_high = _find_interval(score, scores.get(f"{metric}_stderr,{filter_name}"), num_items)
            rows.append(
                {
                    "model": model_name,
                    "benchmark": task,
                    "metric": metric if filter_name == "none" else f"{metric} ({filter_name})",
                    "task": "all",
                    "stratum": None,
                    "score": float(score),
                    "ci_low": ci_low,
                    "ci_high": ci_high,
                    "num_items": num_items,
                }
            )
    if not rows:
        raise EvaluationError(f"lm-evaluation-harness gave no score for {list(report['results'])}")
    return pl.DataFrame(rows, schema=EVAL_REPORT)
