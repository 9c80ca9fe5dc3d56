"""Training by dtype and by parts of a batch: tokens a second, memory, and how far the losses move.

    python -m benchmarks.training_speed [--quick] [--model DIR] [--seeds FILE] [--steps N] [--batch-size N]

The rows are seeds of a file, or the small world's, cut at 256 tokens. Every run is the trainer's own, in a process of
its own, from the same weights on the same rows in the same order. The packaged small model is trained unless a folder
is given. Runs are "float32" and "bfloat16_autocast", with batches in the parts that fit the machine, and "whole",
which is float32 without parts.

    largest_loss_difference  largest difference of a step's loss between the two dtypes
    mean_loss_difference     of the mean loss of all steps
    speedup                  tokens a second of training, bfloat16_autocast over float32

The last line is one JSON object.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import polars as pl

from lance_assets.records import SFT_SET
from lance_assets.settings.experiment import SeedSettings
from lance_assets.small_world import SMALL_MODEL
from lance_assets.small_world.seeds import draw_seeds
from resources.readers.seed_files import read_seeds
from resources.training.stage_settings import SftSettings, TrainingDtype
from resources.training.trainer import TrainJob, TrainResult, train_checkpoint

MAX_LENGTH = 256
RUNS: dict[str, tuple[TrainingDtype, bool]] = {
    "float32": ("float32", False),
    "bfloat16_autocast": ("bfloat16_autocast", False),
    "whole": ("float32", True),
}
"""The dtype of each run, and whether its batches are computed whole."""


def write_rows(seeds: Path | None, num_rows: int, file: Path) -> Path:
    """The first seeds as a table of SFT rows."""
    if seeds is None:
        rows = [{"prompt": row["prompt"], "completion": row["completion"]} for row in draw_seeds(num_seeds=num_rows)]
    else:
        settings = SeedSettings(path=str(seeds.resolve()), turns="join")
        rows = read_seeds(settings, Path()).select("prompt", "completion").head(num_rows).to_dicts()
    blank = dict.fromkeys(SFT_SET)
    pl.DataFrame(
        [blank | row | {"row_id": str(place)} for place, row in enumerate(rows)], schema=SFT_SET
    ).write_parquet(file)
    return file


def train(
    model: Path, rows: Path, *, batch_size: int, dtype: TrainingDtype, is_whole: bool
) -> tuple[TrainResult, float]:
    """Train once; the result, and the seconds between the first line of training and the last."""
    marks: list[float] = []

    def note(line: str) -> None:
        marks.append(time.perf_counter())
        print(line, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        sft = SftSettings(
            batch_size=batch_size,
            max_length=MAX_LENGTH,
            learning_rate=2e-5,
            gradient_accumulation_steps=1 if is_whole else None,
        )
        job = TrainJob(start_checkpoint=model, sft_path=rows, staging=Path(folder), sft=sft, dtype=dtype)
        result = train_checkpoint(job, log=note)
    # The first line of a stage comes just before its first step; the last step's line is the last.
    return result, marks[-1] - marks[0]


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four steps")
    parser.add_argument("--model", type=Path, default=SMALL_MODEL, help="folder of a model")
    parser.add_argument("--seeds", type=Path, help="a file of seeds")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps")
    parser.add_argument("--batch-size", type=int, default=4, help="rows of a step")
    options = parser.parse_args()
    steps = 4 if options.quick else options.steps
    figures: dict[str, object] = {"num_steps": steps}
    losses: dict[str, list[float]] = {}
    rates: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        rows = write_rows(options.seeds, steps * options.batch_size, Path(folder) / "rows.parquet")
        for name, (dtype, is_whole) in RUNS.items():
            result, seconds = train(options.model, rows, batch_size=options.batch_size, dtype=dtype, is_whole=is_whole)
            losses[name], rates[name] = result.sft_losses, result.num_tokens / seconds
            figures[name] = {
                "tokens_per_second": round(rates[name], 1),
                "peak_gib": round(result.peak_host_gib, 2),
                "computed_in": result.computed_in["sft"],
                "losses": [round(loss, 4) for loss in result.sft_losses],
            }
            print(name, json.dumps(figures[name]), flush=True)
    pairs = list(zip(losses["float32"], losses["bfloat16_autocast"], strict=True))
    figures["largest_loss_difference"] = round(max(abs(one - other) for one, other in pairs), 5)
    figures["mean_loss_difference"] = round(abs(sum(one - other for one, other in pairs)) / len(pairs), 5)
    figures["speedup"] = round(rates["bfloat16_autocast"] / rates["float32"], 2)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
