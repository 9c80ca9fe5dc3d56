"""Make the small model's relatives: itself after SFT on further jobs, minutes of two CPU cores each.

    python -m lance_assets.small_world.extend teacher --out lance_assets/small_world/teacher
    python -m lance_assets.small_world.extend kun --out lance_assets/small_world/kun

`teacher` works problems of all rungs out, where the packaged model guesses at long ones (`jobs.HURRY_RATES`), and
goes on writing new prompts. `kun` hurries as the packaged model does, and has learned what Kun asks: naming the
prompt that a text answers, judging a prompt, and polishing a text. No row is about a held-out problem.
"""

import argparse
import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from lance_assets.records import SFT_SET, derive_row_id
from lance_assets.small_world import SMALL_MODEL
from lance_assets.small_world.jobs import draw_example
from resources.training.stage_settings import DpoSettings, SftSettings
from resources.training.trainer import TrainJob, train_checkpoint


@dataclass(frozen=True)
class Relative:
    """One of the models."""

    num_rows: int
    """Rows it is trained on, each once."""
    shares: dict[str, float]
    """How often each job is drawn."""
    rung_decay: dict[str, float]
    """How fast each job's rungs become rare."""
    is_hurried: bool
    """Whether hard prompts are guessed at."""
    learning_rate: float = 3e-4
    """Peak rate."""


RELATIVES = {
    "teacher": Relative(8000, {"answer": 0.75, "new_prompt": 0.25}, {"answer": 0.95, "new_prompt": 0.9}, False),
    "kun": Relative(
        48_000,
        {"answer": 0.25, "label": 0.45, "verdict": 0.1, "polish": 0.2},
        {"answer": 0.95, "label": 0.9, "verdict": 0.9, "polish": 0.9},
        True,
        learning_rate=1e-3,
    ),
}
RNG_SEED = 23
SFT = SftSettings(num_epochs=1, batch_size=32, max_length=512, warmup_steps=10)


def draw_rows(relative: Relative) -> pl.DataFrame:
    """What it is trained on, schema `SFT_SET`."""
    rng = random.Random(RNG_SEED)
    examples = [
        draw_example(rng, shares=relative.shares, rung_decay=relative.rung_decay, is_hurried=relative.is_hurried)
        for _ in range(relative.num_rows)
    ]
    rows = [
        {
            "row_id": derive_row_id("extend", number),
            "prompt": example.prompt,
            "completion": example.completion,
            "source": "seed",
            "source_round": "r0000",
            "source_id": None,
            "review_score": None,
        }
        for number, example in enumerate(examples)
    ]
    return pl.DataFrame(rows, schema=SFT_SET)


def main() -> None:
    """Train, and put the model's files into the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the model's folder")
    parser.add_argument("relative", choices=RELATIVES, help="which of the models")
    options = parser.parse_args()
    out, relative = options.out, RELATIVES[options.relative]
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.parquet"
        draw_rows(relative).write_parquet(rows)
        sft = SFT.model_copy(update={"learning_rate": relative.learning_rate})
        job = TrainJob(
            start_checkpoint=SMALL_MODEL,
            base_model=None,
            sft_path=rows,
            pairs_path=None,
            staging=Path(folder) / "staging",
            sft=sft,
            dpo=DpoSettings(),
            lora=None,
            token_budget=None,
            launcher=None,
            rng_seed=RNG_SEED,
        )
        result = train_checkpoint(job, log=print)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(result.path, out, ignore=shutil.ignore_patterns("adapter", "training_log.json"))
    print(f"{result.num_tokens} tokens in {result.seconds:.0f} s, loss {result.sft_losses[-1]:.3f}")


if __name__ == "__main__":
    main()
