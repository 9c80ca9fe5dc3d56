"""What lm-evaluation-harness wrote of an evaluation, read into the tables of a round."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from lance_assets.algorithms.measures.headline import guess_direction, name_metric
from lance_assets.algorithms.measures.statistics import compute_wilson_interval
from lance_assets.records import EVAL_REPORT, HARNESS_ITEMS

_NORMAL_95 = 1.959963984540054


class EvaluationError(RuntimeError):
    """An evaluation did not run to its end, so there is no score."""


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


def read_samples(folder: Path, task: str) -> list[dict[str, Any]]:
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
