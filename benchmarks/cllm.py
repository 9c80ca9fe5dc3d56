"""CLLM's comparison in small: what rows of a language model teach classifiers, with and without curation.

    python -m benchmarks.cllm [--rng-seeds N] [--quick] [--table NAME] [--per-class N] [--booster NAME]
                              [--model FOLDER] [--format FORMAT] [--texts FILE] [--save FILE]

Each seed draws real rows and held-out rows from a real table that scikit-learn brings along: `diabetes` (442 people,
whether the disease went beyond 140 in a year), `breast_cancer`, `wine` or `iris`. By default the packaged small model
learns to write rows from the real rows alone, in r0000 of `recipes/cllm` with `teaches: rows`, and then writes more.
With `--model` that model is asked as it is, after the real rows. `--texts` takes texts that `--save` has kept, and asks
no model.

| arm | the classifiers are trained on |
| --- | --- |
| real | the real rows |
| generated | every written row that can be read and repeats nothing |
| curated | those that CLLM keeps |
| random | as many of the generated rows, drawn |
| joined | the real and the curated rows |
| oracle | all rows of the table that are not held out |

Scores are the area under the ROC curve on the held-out rows, the mean of three classifiers. The last line is one JSON
object: each arm's mean, and the differences of paired seeds with Student's 95% interval over the seeds.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lance_assets.algorithms.measures.statistics import compute_mean_interval
from lance_assets.algorithms.tabular.columns import write_number
from lance_assets.algorithms.tabular.downstream import teach_classifiers
from lance_assets.prompts import Templates
from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.cllm import RECIPE
from lance_assets.recipes.cllm.scoring import score_set
from lance_assets.recipes.cllm.settings import CllmSettings
from lance_assets.recipes.cllm.table import read_table
from lance_assets.recipes.contract import RoundInputs
from lance_assets.recipes.steps.rows import Seed, read_rows
from lance_assets.records import SEED_SET, SFT_SET, Ask, Request, Sample, SamplingSettings, derive_row_id
from lance_assets.small_world import SMALL_MODEL
from lance_assets.worlds import Problem
from resources.engines.transformers.engine import TransformersEngine
from resources.training.stage_settings import SftSettings
from resources.training.trainer import TrainJob, train_checkpoint

ARMS = {
    "real": "table_real",
    "generated": "table_generated",
    "curated": "table",
    "random": "table_random",
    "joined": "table_joined",
}
DIFFERENCES = (("curated", "generated"), ("curated", "random"), ("curated", "real"), ("joined", "real"))
BOUND = 140
"""The diabetes table's label: whether the disease's measure after a year is above it, which is the median."""
HELD_OUT = 200
SMALL = SftSettings(
    learning_rate=5e-4, num_epochs=20, batch_size=16, gradient_accumulation_steps=1, max_length=256, warmup_steps=5
)
"""How the small model learns to write rows."""
TEXTS = pl.Schema({"rng_seed": pl.Int64, "request": pl.Int64, "text": pl.String, "finish_reason": pl.String})


def load_table(name: str) -> tuple[list[str], np.ndarray, list[str]]:
    """The names of the columns, the rows and the labels of a table of scikit-learn."""
    from sklearn import datasets

    if name == "diabetes":
        found = datasets.load_diabetes(scaled=False)
        labels = ["yes" if value > BOUND else "no" for value in found.target]
    else:
        found = getattr(datasets, f"load_{name}")()
        labels = [str(found.target_names[value]) for value in found.target]
    return [str(one).replace(" ", "_") for one in found.feature_names], found.data, labels


def draw_rows(name: str, per_class: int, rng_seed: int) -> tuple[pl.DataFrame, list[Problem], pl.DataFrame]:
    """Real rows as seeds, as many of each class; held-out rows; and all others, as seeds too."""
    names, rows, labels = load_table(name)
    texts = [
        "\n".join(f"{column}: {write_number(float(value))}" for column, value in zip(names, row, strict=True))
        for row in rows
    ]
    order = np.random.default_rng(rng_seed).permutation(len(rows)).tolist()
    held, counts = order[: min(HELD_OUT, len(order) // 2)], dict.fromkeys(labels, 0)
    # Fewer real rows than held-out ones is the point of the method.
    rest = [place for place in order if place not in set(held)]
    taken = []
    for place in rest:
        if counts[labels[place]] < per_class:
            counts[labels[place]] += 1
            taken.append(place)

    def seeds(places: Sequence[int]) -> pl.DataFrame:
        found = [
            {
                "row_id": derive_row_id(name, place),
                "prompt": texts[place],
                "completion": labels[place],
                "source": "seed",
            }
            for place in places
        ]
        return pl.DataFrame(found, schema=SEED_SET)

    problems = [Problem(f"row {place}", "row", 0, texts[place], labels[place]) for place in held]
    return seeds(taken), problems, seeds(rest)


def open_model(path: Path, *, batch_size: int) -> Ask:
    """Asks a model."""
    engine = TransformersEngine(path, batch_size=batch_size, num_threads=1)

    def ask(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
        assert sampling is not None
        found = {sample.row_id: sample for group in engine.generate(list(requests), sampling) for sample in group}
        return [found[request.row_id] for request in requests]

    return ask


def recall_texts(texts: pl.DataFrame) -> Ask:
    """Says what was kept of an earlier run, in the order of the requests."""

    def ask(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
        kept = texts.sort("request").to_dicts()[: len(requests)]
        if len(kept) < len(requests):
            raise ValueError(f"{len(requests)} texts are wanted, and {len(kept)} are kept; ask for fewer")
        return [
            Sample(request.row_id, row["text"], row["finish_reason"], 0, 0)
            for request, row in zip(requests, kept, strict=True)
        ]

    return ask


def run_seed(options: argparse.Namespace, rng_seed: int, folder: Path) -> tuple[dict[str, Any], pl.DataFrame]:
    """One seed: what was written and kept, every arm's scores, and the texts."""
    seeds, problems, others = draw_rows(options.table, options.per_class, rng_seed)
    trains = options.model is None
    settings = CllmSettings(
        teaches="rows" if trains else "nothing",
        sft_on_seeds=trains,
        row_format=options.format,
        num_requests=options.requests,
        num_samples=options.samples,
        max_rows=options.max_rows,
        num_rows=options.rows_per_text,
        max_new_tokens=options.tokens,
        label="progress" if options.table == "diabetes" else "class",
        domain={"diabetes": "diabetes in adults", "breast_cancer": "breast cancer"}.get(options.table, ""),
        booster=options.booster,
        temperature=options.temperature,
    )
    identity = RoundIdentity("cllm", "r0001", rng_seed, Templates("compact" if trains else "small", "cllm"))
    started = time.monotonic()
    if options.texts is not None:
        ask = recall_texts(pl.read_parquet(options.texts).filter(rng_seed=rng_seed))
    elif trains:
        rows = RECIPE.start_sft_set(RoundInputs(identity, settings), seeds, pl.DataFrame(schema=SFT_SET))
        rows.write_parquet(folder / "sft.parquet")
        job = TrainJob(
            start_checkpoint=SMALL_MODEL,
            sft_path=folder / "sft.parquet",
            staging=folder / "staging",
            sft=SMALL.model_copy(update={"num_epochs": options.epochs}),
            save_dtype="float32",
            rng_seed=rng_seed,
            num_threads=1,
        )
        ask = open_model(train_checkpoint(job, log=lambda line: None).path, batch_size=128)
    else:
        ask = open_model(options.model, batch_size=8)
    sampling = settings.sampling
    inputs = RoundInputs(
        identity,
        settings,
        ask=lambda stage, requests, given=None: ask(stage, requests, sampling),
        is_evaluation_prompt=lambda prompt: prompt in {problem.prompt for problem in problems},
        seeds=seeds,
    )
    raw = RECIPE.generate(inputs, seeds, pl.DataFrame(schema=SFT_SET))
    cleaned = RECIPE.clean(inputs, raw, seeds)
    reviewed = RECIPE.review(inputs, cleaned, seeds, raw)
    report, _ = score_set(inputs, {"r0001": reviewed}, problems)
    scores = {(row["benchmark"], row["metric"]): row["score"] for row in report.to_dicts()}
    found: dict[str, Any] = {
        arm: {metric: scores[benchmark, metric] for metric in ("auc", "acc")}
        for arm, benchmark in ARMS.items()
        if (benchmark, "auc") in scores
    }
    found["oracle"] = score_oracle(settings, seeds, others, problems)
    texts = raw.filter(kind="written").with_row_index("request")
    kept = texts.select(
        pl.lit(rng_seed, pl.Int64).alias("rng_seed"),
        pl.col("request").cast(pl.Int64),
        text="raw_text",
        finish_reason="finish_reason",
    ).cast(TEXTS)
    found["rows"] = {
        "real": len(seeds),
        "written": len(raw.filter(kind="row")),
        "texts_with_rows": round(texts["refused_reason"].null_count() / len(texts), 4),
        "usable": len(reviewed),
        "curated": reviewed["drop_reason"].null_count(),
        "reasons": dict(raw.filter(kind="row")["refused_reason"].drop_nulls().value_counts(sort=True).iter_rows()),
        "seconds": round(time.monotonic() - started, 1),
    }
    return found, kept


def score_oracle(
    settings: CllmSettings, seeds: pl.DataFrame, others: pl.DataFrame, problems: Sequence[Problem]
) -> dict[str, float]:
    """What all rows teach that are not held out."""
    table = read_table(read_rows(Seed, seeds), settings)
    rows = [table.read(seed.prompt, seed.completion, is_real=True) for seed in read_rows(Seed, others)]
    held_out = [table.read(problem.prompt, problem.answer, is_real=True) for problem in problems]
    taught = teach_classifiers(*table.encode(rows), *table.encode(held_out), num_classes=len(table.label.values))
    assert taught is not None, "a table has rows"
    return {"auc": taught.auc, "acc": taught.accuracy}


def summarise(found: Sequence[dict[str, Any]], metric: str) -> dict[str, Any]:
    """Each arm's mean over the seeds, and the paired differences, [mean, low, high]."""
    arms = [arm for arm in (*ARMS, "oracle") if all(arm in one for one in found)]
    means = {arm: round(float(np.mean([one[arm][metric] for one in found])), 4) for arm in arms}
    differences = {}
    for one, other in DIFFERENCES:
        if one in arms and other in arms:
            ends = compute_mean_interval([seed[one][metric] - seed[other][metric] for seed in found])
            # One seed knows nothing of the spread, and JSON has no infinity.
            differences[f"{one}_less_{other}"] = [round(end, 4) if math.isfinite(end) else None for end in ends]
    return {"arms": means, "differences": differences}


def read_options() -> argparse.Namespace:
    """The command's arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rng-seeds", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="two seeds, fewer texts")
    parser.add_argument("--table", choices=("diabetes", "breast_cancer", "wine", "iris"), default="diabetes")
    parser.add_argument("--per-class", type=int, default=50, help="real rows of each class")
    parser.add_argument("--booster", choices=("sklearn", "xgboost"), default="sklearn")
    parser.add_argument("--model", type=Path, help="a model that is asked as it is")
    parser.add_argument("--format", choices=("json", "lines"), default="lines")
    parser.add_argument("--temperature", type=float, default=0.75)
    parser.add_argument("--epochs", type=float, default=SMALL.num_epochs)
    parser.add_argument("--requests", type=int)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--rows-per-text", type=int, default=10)
    parser.add_argument("--max-rows", type=int, default=1000)
    parser.add_argument("--texts", type=Path, help="texts that --save has kept")
    parser.add_argument("--save", type=Path, help="where the texts are kept, as Parquet")
    # What `python -m benchmarks` hands to every benchmark.
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    small = options.model is None
    options.requests = options.requests or (1 if small else 8)
    options.samples = options.samples or (200 if small else 4)
    options.tokens = options.tokens or (128 if small else 400)
    if options.quick:
        options.rng_seeds, options.samples = min(2, options.rng_seeds), min(options.samples, 100)
        options.epochs = min(options.epochs, 10)
    return options


def main() -> None:
    """Run every seed and print the comparison."""
    options, found, texts = read_options(), [], []
    for rng_seed in range(options.rng_seeds):
        with tempfile.TemporaryDirectory() as folder:
            one, kept = run_seed(options, rng_seed, Path(folder))
        found.append(one)
        texts.append(kept)
        arms = " ".join(f"{arm} {one[arm]['auc']:.3f}" for arm in (*ARMS, "oracle") if arm in one)
        print(f"seed {rng_seed}: {arms}; {one['rows']}", flush=True)
    if options.save is not None:
        pl.concat(texts).write_parquet(options.save, compression="zstd", compression_level=19)
    summary = {
        "table": options.table,
        "writer": "small" if options.model is None else options.model.name,
        "booster": options.booster,
        "num_seeds": len(found),
        "real_rows": found[0]["rows"]["real"],
        "written": sum(one["rows"]["written"] for one in found),
        "usable_rate": round(
            sum(one["rows"]["usable"] for one in found) / max(1, sum(one["rows"]["written"] for one in found)), 4
        ),
        "curated_rate": round(
            sum(one["rows"]["curated"] for one in found) / max(1, sum(one["rows"]["usable"] for one in found)), 4
        ),
        **summarise(found, "auc"),
        "accuracy": summarise(found, "acc"),
    }
    for name, ends in summary["differences"].items():
        print(f"{name.replace('_less_', ' less ')}: {ends[0]:+.4f}, 95% interval {ends[1:]}")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
