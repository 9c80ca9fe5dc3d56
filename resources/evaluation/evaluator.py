"""Evaluation: the small world's held-out tasks by rule, and any lm-evaluation-harness task in a process of its own.

The small world is asked greedily (once a prompt) and sampled (once a prompt), on the same prompts every round, so that
rounds compare item by item. Harness scores move with the batch size (padding moves logits in the last bits), so it is
fixed by the caller, who records it, and never `auto`.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from lance_assets.algorithms.measures.statistics import compute_wilson_interval
from lance_assets.prompts import build_messages
from lance_assets.records import (
    EVAL_ITEMS,
    EVAL_REPORT,
    Ask,
    Request,
    Sample,
    SamplingSettings,
    derive_row_id,
    derive_sampling_seed,
)
from lance_assets.small_world.tasks import RUNGS, draw_held_out_prompts, is_correct, parse_prompt
from resources.machine.processes import stream_process

SAMPLED_TEMPERATURE = 0.7
"""The temperature of LANCE's decoding."""
SAMPLED_TOP_P = 0.9
"""The nucleus mass of LANCE's decoding."""
_NORMAL_95 = 1.959963984540054


class EvaluationError(RuntimeError):
    """An evaluation did not run to its end, so there is no score."""


def evaluate_small_world(
    ask: Ask,
    *,
    model_name: str,
    per_rung: int,
    rungs: tuple[int, ...] = RUNGS,
    temperature: float = SAMPLED_TEMPERATURE,
    top_p: float = SAMPLED_TOP_P,
    max_new_tokens: int = 160,
    rng_seed: int = 7,
    prompt_profile: str = "compact",
) -> pl.DataFrame:
    """Ask the held-out prompts, greedily and sampled once each, and judge the completions by rule.

    Args:
        ask: asks the model under evaluation; the stages are "<model_name>_greedy" and "<model_name>_sampled".
        model_name: "checkpoint" or "backbone", the `model` column.
        per_rung: prompts for each task and rung.
        rungs: the rungs to cover.
        temperature: of the sampled completions, above 0.
        top_p: of the sampled completions.
        max_new_tokens: tokens after which a completion is cut, and most likely wrong.
        rng_seed: of the prompts and of the sampled completions; the same every round.
        prompt_profile: how a prompt is asked.

    Returns:
        EVAL_ITEMS, one row for each metric and prompt, in the order drawn.

    Raises:
        EvaluationError: the engine failed on a prompt; a failed row is no wrong answer.
    """
    prompts = draw_held_out_prompts(per_rung=per_rung, rungs=rungs, rng_seed=rng_seed)
    rows: list[dict] = []
    for metric, heat in (("greedy", 0.0), ("sampled", temperature)):
        requests = [
            Request(
                row_id=derive_row_id("small_world", metric, row["key"]),
                messages=tuple(build_messages(prompt_profile, row["prompt"])),
                sampling_seed=derive_sampling_seed(rng_seed, "small_world", metric, row["key"]),
            )
            for row in prompts
        ]
        sampling = SamplingSettings(temperature=heat, top_p=top_p, max_new_tokens=max_new_tokens)
        samples = ask(f"{model_name}_{metric}", requests, sampling)
        rows += [_judge(row, sample, metric, model_name) for row, sample in zip(prompts, samples, strict=True)]
    return pl.DataFrame(rows, schema=EVAL_ITEMS)


def _judge(row: dict, sample: Sample, metric: str, model_name: str) -> dict:
    if sample.finish_reason == "error":
        raise EvaluationError(f"the engine failed on the held-out prompt {row['prompt']!r}: {sample.error}")
    problem = parse_prompt(row["prompt"])
    assert problem is not None, f"the small world cannot read its own prompt {row['prompt']!r}"
    return {
        "model": model_name,
        "metric": metric,
        "task": row["task"],
        "rung": row["rung"],
        "prompt": row["prompt"],
        "answer": row["answer"],
        "completion": sample.text,
        "finish_reason": sample.finish_reason,
        "is_correct": is_correct(problem, sample.text),
    }


def summarise_items(items: pl.DataFrame) -> pl.DataFrame:
    """Scores with 95% Wilson intervals: over all, by task, and by rung.

    Args:
        items: EVAL_ITEMS.

    Returns:
        EVAL_REPORT for the benchmark "small_world": for each model and metric, in the order they appear, first task
        "all", then each task, then each rung (task "all"). No rows for no items.
    """
    whole = pl.lit("all").alias("task")
    no_rung = pl.lit(None, dtype=pl.Int64).alias("rung")
    counted = [
        pl.col("is_correct").sum().cast(pl.Int64).alias("num_correct"),
        pl.len().cast(pl.Int64).alias("num_items"),
    ]
    rows: list[dict] = []
    for (model, metric), group in items.group_by("model", "metric", maintain_order=True):
        by_rung = group.group_by(whole, "rung").agg(counted).sort("rung")
        by_task = group.group_by("task", no_rung, maintain_order=True).agg(counted)
        for counts in [
            *group.group_by(whole, no_rung).agg(counted).to_dicts(),
            *by_task.to_dicts(),
            *by_rung.to_dicts(),
        ]:
            num_correct, num_items = counts.pop("num_correct"), counts["num_items"]
            low, high = compute_wilson_interval(num_correct, num_items)
            names = {"model": model, "benchmark": "small_world", "metric": metric}
            rows.append(names | counts | {"score": num_correct / num_items, "ci_low": low, "ci_high": high})
    return pl.DataFrame(rows, schema=EVAL_REPORT)


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
        optional = {"--include_path": include_path, "--num_fewshot": num_fewshot, "--limit": limit}
        for option, value in optional.items():
            command += [] if value is None else [option, str(value)]
        command += ["--apply_chat_template"] if apply_chat_template else []
        _run_harness(command, tasks, log)
        reports = sorted(Path(folder).rglob("results_*.json"))
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
                    "rung": None,
                    "score": float(score),
                    "ci_low": ci_low,
                    "ci_high": ci_high,
                    "num_items": num_items,
                }
            )
    if not rows:
        raise EvaluationError(f"lm-evaluation-harness gave no score for {list(report['results'])}")
    return pl.DataFrame(rows, schema=EVAL_REPORT)
