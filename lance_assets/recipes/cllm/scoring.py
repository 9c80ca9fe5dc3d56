"""What real, generated and curated rows teach other classifiers: the scores that CLLM's rounds are compared by.

| benchmark | trained on |
| --- | --- |
| `table` | the round's product: the curated rows of all rounds so far; in r0000 the real rows |
| `table_real` | the real rows |
| `table_generated` | all rows that cleaning kept, without curation |
| `table_random` | as many of these as are curated, drawn at random |
| `table_joined` | the real rows and the curated ones |

Each has the metrics `acc` and `auc` of `algorithms.tabular.downstream`, on the held-out rows of the experiment's world.
A set without rows has no score, but for `table`, which is then the real rows'.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from lance_assets.algorithms.measures.statistics import compute_mean_interval
from lance_assets.algorithms.tabular.downstream import Taught, teach_classifiers
from lance_assets.recipes.cllm.settings import CllmSettings
from lance_assets.recipes.cllm.table import Row, Table, read_table
from lance_assets.recipes.contract import RoundInputs
from lance_assets.recipes.steps.rows import Seed, read_rows
from lance_assets.records import EVAL_REPORT, HARNESS_ITEMS
from lance_assets.worlds import Problem

BENCHMARKS = dict.fromkeys(("table", "table_real", "table_generated", "table_random", "table_joined"), ("acc", "auc"))


def score_set(
    inputs: RoundInputs[CllmSettings], reviewed: Mapping[str, pl.DataFrame], problems: Sequence[Problem]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Scores and items of the classifiers that the rounds' rows teach.

    Args:
        inputs: the round, with its seeds.
        reviewed: the reviewed sets of this and earlier rounds, by round.
        problems: held-out rows: features as the prompt, the label as the answer.

    Returns:
        Schemas `EVAL_REPORT` and `HARNESS_ITEMS`, of the model "checkpoint".

    Raises:
        ValueError: a held-out row is no row of the table, or has a label that no real row has.
    """
    table = read_table(read_rows(Seed, inputs.seeds), inputs.settings)
    held_out = []
    for problem in problems:
        try:
            held_out.append(table.read(problem.prompt, problem.answer, is_real=True))
        except ValueError as error:
            raise ValueError(f"the held-out row {problem.key} is no row of the table: {error}") from None
    report, items = [], []
    for name, rows in list_sets(table, reviewed, rng_seed=inputs.identity.rng_seed).items():
        taught = teach_classifiers(*table.encode(rows), *table.encode(held_out), num_classes=len(table.label.values))
        if taught is not None:
            report += _report(name, taught)
            items += [
                {"model": "checkpoint", "benchmark": name, "metric": "acc", "item": problem.key, "score": score}
                for problem, score in zip(problems, taught.hit_rates.tolist(), strict=True)
            ]
    return pl.DataFrame(report, schema=EVAL_REPORT), pl.DataFrame(items, schema=HARNESS_ITEMS)


def list_sets(table: Table, reviewed: Mapping[str, pl.DataFrame], *, rng_seed: int) -> dict[str, list[Row]]:
    """What classifiers are trained on, by the benchmark's name; each row of several rounds once."""
    rows = {
        (prompt, completion): reason
        for key in sorted(reviewed)
        for prompt, completion, reason in reviewed[key].select("prompt", "completion", "drop_reason").iter_rows()
    }
    generated = {row: table.read(*row) for row in rows}
    curated = [generated[row] for row, reason in rows.items() if reason is None]
    drawn = sorted(rows, key=lambda row: hashlib.sha256(f"{rng_seed}\x1f{row[0]}\x1f{row[1]}".encode()).digest())
    real = list(table.rows)
    return {
        "table": curated or real,
        "table_real": real,
        "table_generated": list(generated.values()),
        "table_random": [generated[row] for row in drawn[: len(curated)]],
        "table_joined": [*real, *curated] if curated else [],
    }


def _report(name: str, taught: Taught) -> list[dict[str, object]]:
    same = {
        "model": "checkpoint",
        "benchmark": name,
        "task": "all",
        "num_items": len(taught.hit_rates),
        "higher_is_better": True,
    }
    mean, low, high = compute_mean_interval(taught.hit_rates.tolist())
    # Of a single held-out row the interval is endless.
    ends = (max(0.0, low), min(1.0, high)) if np.isfinite(low) else (None, None)
    return [
        same | {"metric": "acc", "score": mean, "ci_low": ends[0], "ci_high": ends[1]},
        same | {"metric": "auc", "score": taught.auc, "ci_low": taught.auc_low, "ci_high": taught.auc_high},
    ]
