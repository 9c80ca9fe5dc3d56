"""Make the teacher of the small world: the small model after SFT on worked problems, a minute of two CPU cores.

    python -m lance_assets.small_world.teach --out lance_assets/small_world/teacher

The packaged small model guesses at long problems (`jobs.HURRY_RATES`); a teacher should not. This one is trained on
problems of all rungs worked out, and goes on writing new prompts. No row is about a held-out problem.
"""

import argparse
import random
import shutil
import tempfile
from pathlib import Path

import polars as pl

from lance_assets.records import SFT_SET, derive_row_id
from lance_assets.small_world import SMALL_MODEL
from lance_assets.small_world.jobs import draw_example
from resources.trainer import DpoSettings, SftSettings, TrainJob, train_checkpoint

NUM_ROWS = 8000
SHARES = {"answer": 0.75, "new_prompt": 0.25}
RUNG_DECAY = {"answer": 0.95, "new_prompt": 0.9}
RNG_SEED = 23
SFT = SftSettings(learning_rate=3e-4, num_epochs=1, batch_size=32, max_length=512, warmup_steps=10)


def draw_rows(num_rows: int = NUM_ROWS) -> pl.DataFrame:
    """Worked problems and new prompts, schema `SFT_SET`."""
    rng = random.Random(RNG_SEED)
    examples = [draw_example(rng, shares=SHARES, rung_decay=RUNG_DECAY, is_hurried=False) for _ in range(num_rows)]
    rows = [
        {
            "row_id": derive_row_id("teacher", number),
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
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.parquet"
        draw_rows().write_parquet(rows)
        job = TrainJob(
            start_checkpoint=SMALL_MODEL,
            base_model=None,
            sft_path=rows,
            pairs_path=None,
            staging=Path(folder) / "staging",
            prompt_profile="compact",
            sft=SFT,
            dpo=DpoSettings(),
            lora=None,
            token_budget=None,
            launcher=None,
            rng_seed=RNG_SEED,
        )
        result = train_checkpoint(job, log=print)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(result.path, out, ignore=shutil.ignore_patterns("trainer", "adapter"))
    print(f"{result.num_tokens} tokens in {result.seconds:.0f} s, loss {result.sft_losses[-1]:.3f}")


if __name__ == "__main__":
    main()
