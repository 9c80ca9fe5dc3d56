"""Training against a bare TRL script with its defaults: tokens a second, memory, and what was learned.

    python -m benchmarks.training [--data DIR] [--model DIR] [--num-rows N] [--num-pairs N] [--only KIND ...]
                                  [--dtype DTYPE] [--repeats N] [--quick]

| kind | rows | what is compared |
| --- | --- | --- |
| sft | T0 and GSM8K's training set in turn, of mixed length | `TrainJob` against `SFTTrainer` |
| lora | the same | the same with adapters of rank 16 on all linear layers |
| dpo | GSM8K's questions, a right and a wrong solution by a model | `TrainJob` against `DPOTrainer` |
| curve | `NUM_CURVE` rows of sft | the loss of each step, both sides with the same rows in the same batches |
| curve32 | the same | the same, both sides in float32 |
| dtypes | the same | `TrainJob` in bfloat16 autocast against itself in float32 |

Both sides train one epoch in batches of 8 rows from the same weights at the same rates, cut at 512 tokens, each in a
process of its own, in turns. The seconds are those of the steps. TRL's defaults (1.16) compute in bfloat16 autocast,
recompute activations and pad; `TrainJob` keeps activations in parts that fit the machine, pads nothing on a CPU, and
computes in what `--dtype` says, by default in what `training.dtype: auto` stands for. The batches are the same.

    sft_speedup, lora_speedup, dpo_speedup  median tokens a second over those of the bare script
    max_loss_difference     largest difference of the mean loss on held-out rows after SFT, in nats a token
    curve_difference        largest difference of a step's loss on the same batch, in nats a token
    curve32_difference      the same in float32, where little but the order of sums is left to differ
    dtypes_difference       largest difference of a step's loss between float32 and bfloat16 autocast
    dtypes_speedup          tokens a second in bfloat16 autocast over those in float32
    memory_over_arithmetic  largest peak of a training process over what the plan's arithmetic gives for the longest row

The last line is one JSON object. The packaged small model is trained unless a folder is given.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import polars as pl

from benchmarks._real_data import find_data
from lance_assets.algorithms.forecast.costs import Training, forecast_training
from lance_assets.records import PREFERENCE_PAIRS, SFT_SET
from lance_assets.small_world import SMALL_MODEL
from resources.engines.loading import load_tokenizer
from resources.engines.transformers.model_states import ModelReader
from resources.models.chat_format import encode_row
from resources.models.foreign_code import WITHOUT_CODE
from resources.models.model_shapes import measure_shape
from resources.training.precision import CPU_RUNTIME_GIB
from resources.training.stage_settings import DpoSettings, LoraSettings, SftSettings, TrainingDtype
from resources.training.trainer import TrainJob, train_checkpoint

FILES = ("t0_train_50k.parquet", "gsm8k_train.jsonl", "gsm8k_example_model_solutions.jsonl")
KINDS = ("sft", "lora", "dpo", "curve", "curve32", "dtypes")
CURVES = ("curve", "curve32", "dtypes")
"""Whose losses are compared step by step."""
NUM_CURVE = 64
BATCH_SIZE = 8
MAX_LENGTH = 512
RATES = {"sft": 2e-5, "lora": 2e-4, "dpo": 1e-6, **dict.fromkeys(CURVES, 2e-5)}
RATES_OF_TRL = {"schedule": "linear", "warmup_steps": 0}
"""How the rate falls by TRL's defaults."""
IN_ORDER = {**RATES_OF_TRL, "order": "best_first"}
"""Rows of equal quality as they lie."""
SEED_OF_TRL = 42
"""By TRL's defaults, of batches and of adapters."""
NUM_HELD_OUT = 40


def read_rows(data: Path, num_rows: int) -> list[dict[str, str]]:
    """Rows of T0 and of GSM8K in turn: some of ten words, some of two hundred."""
    lines = (data / "gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines()[:num_rows]
    pool = pl.read_parquet(data / "t0_train_50k.parquet")
    # The file is in the order of its templates.
    short = pool.gather_every(len(pool) // num_rows).head(num_rows).to_dicts()
    mixed = []
    for brief, line in zip(short, lines, strict=True):
        full = json.loads(line)
        mixed.append({"prompt": brief["prompt"], "completion": brief["completion"]})
        mixed.append({"prompt": full["question"], "completion": full["answer"]})
    return mixed[:num_rows]


def read_pairs(data: Path, num_pairs: int) -> list[dict[str, str]]:
    """GSM8K's questions with a right and a wrong solution that models wrote."""
    pairs = []
    for line in (data / "gsm8k_example_model_solutions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        solutions = {is_right: text for text, is_right in _list_solutions(row)}
        if len(solutions) == 2:
            pairs.append({"prompt": row["question"], "chosen": solutions[True], "rejected": solutions[False]})
    return pairs[:num_pairs]


def _list_solutions(row: dict[str, Any]) -> list[tuple[str, bool]]:
    return [
        (value["solution"], bool(value["is_correct"]))
        for value in row.values()
        if isinstance(value, dict) and "is_correct" in value
    ]


def write_table(rows: Sequence[dict[str, str]], schema: pl.Schema, file: Path) -> Path:
    """The rows as a table that the trainer reads."""
    blank = dict.fromkeys(schema)
    named = {"row_id": "1"} if "row_id" in schema else {}
    pl.DataFrame([blank | named | row for row in rows], schema=schema).write_parquet(file)
    return file


def train_ours(kind: str, model: Path, rows: Path, folder: Path, *, dtype: TrainingDtype = "auto") -> dict[str, Any]:
    """Train by the platform; seconds of the steps, tokens, memory, losses, and where the model is."""
    marks: list[float] = []

    def note(line: str) -> None:
        if line.startswith(("sft:", "dpo:")):
            marks.append(time.perf_counter())

    named: dict[str, Any] = {"pairs_path": rows} if kind == "dpo" else {"sft_path": rows}
    job = TrainJob(
        start_checkpoint=model,
        staging=folder / "staging",
        sft=SftSettings(
            batch_size=BATCH_SIZE,
            max_length=MAX_LENGTH,
            learning_rate=RATES[kind],
            **(IN_ORDER if kind in CURVES else RATES_OF_TRL),
        ),
        dpo=DpoSettings(batch_size=BATCH_SIZE, max_length=MAX_LENGTH, learning_rate=RATES["dpo"], **RATES_OF_TRL),
        lora=LoraSettings(r=16, alpha=32) if kind == "lora" else None,
        save_dtype="float32",
        dtype="float32" if kind == "curve32" else dtype,
        save_every_minutes=None,
        rng_seed=SEED_OF_TRL,
        **named,
    )
    result = train_checkpoint(job, log=note)
    # The first line of a stage comes just before its first step, and the last one with its last step.
    found: dict[str, Any] = {"seconds": marks[-1] - marks[0], "num_tokens": result.num_tokens}
    found |= {
        "peak_gib": result.peak_host_gib,
        "losses": list(result.sft_losses),
        "computed_in": next(iter(result.computed_in.values())),
    }
    return found | {"model": result.path}


def train_bare(kind: str, model: Path, rows: Path, folder: Path) -> dict[str, Any]:
    """Train by the bare script, in its own process."""
    folder.mkdir(parents=True)
    job: dict[str, object] = {"kind": kind, "model": str(model), "rows": str(rows), "out": str(folder / "model")}
    job |= {"in_order": kind in CURVES, "in_float32": kind == "curve32"}
    job_file = folder / "job.json"
    settings = {"batch_size": BATCH_SIZE, "max_length": MAX_LENGTH, "learning_rate": RATES[kind]}
    job_file.write_text(json.dumps(job | settings))
    command = [sys.executable, "-m", "benchmarks._bare_trl", str(job_file)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"the bare script failed on {kind}:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found | {"model": folder / "model", "computed_in": "TRL's defaults"}


def measure_loss(model: Path, rows: Sequence[dict[str, str]]) -> float:
    """The mean loss of completions, in nats a token."""
    reader = ModelReader(model, batch_size=8, max_length=MAX_LENGTH)
    asked = [([{"role": "user", "content": row["prompt"]}], row["completion"]) for row in rows]
    found = reader.measure_likelihood(asked)
    reader.close()
    return -float(found["log_likelihood"].sum()) / float(found["num_tokens"].sum())


def find_longest(model: Path, table: Path) -> int:
    """Tokens of the longest row, or of the longest side of a pair, cut at `MAX_LENGTH`."""
    tokenizer = load_tokenizer(model)
    rows = pl.read_parquet(table).to_dicts()
    sides = ("chosen", "rejected") if "chosen" in rows[0] else ("completion",)
    lengths = [
        sum(map(len, encode_row(tokenizer, [{"role": "user", "content": row["prompt"]}], row[side])))
        for row in rows
        for side in sides
    ]
    return min(MAX_LENGTH, max(lengths))


def compute_arithmetic(kind: str, model: Path, computed_in: str, longest: int) -> float:
    """GiB of weights, gradients, optimizer and activations, as the plan counts them, for rows of so many tokens."""
    from transformers import AutoConfig

    rows_at_once = BATCH_SIZE
    if "parts" in computed_in:
        rows_at_once //= int(computed_in.split(" in ")[1].split()[0])
    training = Training(
        max_length=longest,
        lora_rank=16 if kind == "lora" else None,
        is_preference=kind == "dpo",
        has_bounded_logits=True,
    )
    is_half = "bfloat16" in computed_in
    training = replace(training, rows_at_once=rows_at_once, activation_bytes=2 if is_half else 4)
    shape = measure_shape(AutoConfig.from_pretrained(model, local_files_only=True, **WITHOUT_CODE))
    return forecast_training(shape, training, runtime_gib=CPU_RUNTIME_GIB).total_gib


def describe(kind: str, side: str, found: Mapping[str, Any]) -> str:
    """What one training took, in a line."""
    shown = "" if found["loss"] is None else f", held-out loss {found['loss']:.4f}"
    return (
        f"{kind:5} {side:5} {found['seconds']:7.1f} s, {found['num_tokens']:.0f} tokens, "
        f"{found['rate']:7.1f} tokens/s, peak {found['peak_gib']:.2f} GiB, {found['computed_in']}{shown}"
    )


Train = Callable[[str, Path, Path, Path], dict[str, Any]]
"""Trains a kind: of the model, the rows and an empty folder."""
DTYPES: dict[str, Train] = {
    "float32": partial(train_ours, dtype="float32"),
    "bfloat16": partial(train_ours, dtype="bfloat16_autocast"),
}


def list_sides(kind: str, dtype: TrainingDtype) -> dict[str, Train]:
    """What is compared; the platform computes in `dtype`."""
    return DTYPES if kind == "dtypes" else {"bare": train_bare, "ours": partial(train_ours, dtype=dtype)}


def take_turns(
    kind: str,
    model: Path,
    table: Path,
    held_out: Sequence[dict[str, str]],
    *,
    sides: Mapping[str, Train],
    repeats: int,
    folder: Path,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Train each side so often, in turns: what the first and the second side took."""
    turns: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for turn in range(repeats):
        for side, train in sides.items():
            found = train(kind, model, table, folder / f"{kind}_{side}_{turn}")
            found["rate"] = found["num_tokens"] / found["seconds"]
            found["loss"] = measure_loss(found["model"], held_out) if kind in ("sft", "lora") else None
            print(describe(kind, side, found), flush=True)
            turns[side].append(found)
    first, second = turns.values()
    return first, second


def compare(kind: str, bare: Sequence[dict[str, Any]], ours: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of a kind."""
    rates = [statistics.median(found["rate"] for found in many) for many in (bare, ours)]
    figures: dict[str, Any] = {}
    if kind in CURVES:
        pairs = zip(ours[0]["losses"], bare[0]["losses"], strict=True)
        figures[f"{kind}_difference"] = round(max(abs(one - other) for one, other in pairs), 5)
    if kind not in ("curve", "curve32"):
        figures[f"{kind}_speedup"] = round(rates[1] / rates[0], 2)
        peaks = [max(found["peak_gib"] for found in many) for many in (bare, ours)]
        figures[f"{kind}_peak_gib"] = [round(peak, 2) for peak in peaks]
    return figures


def main() -> None:
    """Train on both sides and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help=f"folder of {', '.join(FILES)}")
    parser.add_argument("--model", type=Path, default=SMALL_MODEL, help="model folder")
    parser.add_argument("--num-rows", type=int, default=96, help="SFT rows")
    parser.add_argument("--num-pairs", type=int, default=32, help="preference pairs")
    parser.add_argument("--only", nargs="+", choices=KINDS, help="these kinds alone")
    parser.add_argument("--dtype", choices=get_args(TrainingDtype), default="auto", help="what ours computes in")
    parser.add_argument("--repeats", type=int, default=1, help="trainings of each side, in turns")
    parser.add_argument("--quick", action="store_true", help="16 rows and 8 pairs")
    options = parser.parse_args()
    num_rows, num_pairs = (16, 8) if options.quick else (options.num_rows, options.num_pairs)
    data = find_data(parser, options.data, FILES)
    rows = read_rows(data, num_rows + NUM_HELD_OUT)
    trained_on, held_out = rows[:num_rows], rows[num_rows:]
    figures: dict[str, Any] = {"model": options.model.name, "num_rows": num_rows, "num_pairs": num_pairs}
    losses, ratios = [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sft = write_table(trained_on, SFT_SET, folder / "sft.parquet")
        dpo = write_table(read_pairs(data, num_pairs), PREFERENCE_PAIRS, folder / "dpo.parquet")
        curve = write_table(trained_on[:NUM_CURVE], SFT_SET, folder / "curve.parquet")
        tables = {"sft": sft, "lora": sft, "dpo": dpo, **dict.fromkeys(CURVES, curve)}
        for kind in options.only or KINDS:
            sides, given = list_sides(kind, options.dtype), (kind, options.model, tables[kind], held_out)
            bare, ours = take_turns(*given, sides=sides, repeats=options.repeats, folder=folder)
            figures |= compare(kind, bare, ours)
            if kind in ("sft", "lora"):
                losses.append(abs(ours[0]["loss"] - bare[0]["loss"]))
            if kind not in CURVES:
                longest = find_longest(options.model, tables[kind])
                arithmetic = compute_arithmetic(kind, options.model, ours[0]["computed_in"], longest)
                print(f"{kind:5} by arithmetic {arithmetic:.2f} GiB with rows of {longest} tokens", flush=True)
                ratios.append(max(found["peak_gib"] for found in ours) / arithmetic)
    figures["max_loss_difference"] = round(max(losses), 4) if losses else None
    figures["memory_over_arithmetic"] = round(max(ratios), 2) if ratios else None
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
