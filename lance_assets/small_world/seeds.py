"""Write what an experiment in the small world starts from: seeds, and EFT rows.

    python -m lance_assets.small_world.seeds

Seeds are problems with right completions, easy ones mostly (`SEED_RUNG_SHARES`), so that there is a ladder left to
climb. EFT rows are examples of the other jobs, as the paper's evaluation fine-tuning data (arXiv 2412.15151): mixed
into the SFT set they keep the model able to review and to propose while it is trained on answers. No row is about a
held-out problem, and the files are the same bytes on every machine.
"""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

from lance_assets.small_world.jobs import draw_degraded, draw_new_prompt, draw_review, draw_rung
from lance_assets.small_world.tasks import TASKS, complete, draw_problem, phrase_prompt

NUM_SEEDS = 160
SEED_RUNG_SHARES = {1: 0.3, 2: 0.3, 3: 0.2, 4: 0.2}
NUM_EFT_ROWS = 240
EFT_RUNG_DECAY = 0.88
EFT_SHARES = {"review": 0.5, "new_prompt": 0.25, "degrade": 0.25}
RNG_SEED = 11
_DRAW = {"review": draw_review, "new_prompt": draw_new_prompt, "degrade": draw_degraded}


def draw_seeds(*, num_seeds: int = NUM_SEEDS, rng_seed: int = RNG_SEED) -> list[dict[str, str]]:
    """Draw the seeds, each a different problem, in random order.

    Args:
        num_seeds: how many; a multiple of 40, so that every task and rung gets its exact share.
        rng_seed: the seed of the drawing.

    Returns:
        Dicts with `prompt`, `completion` and `answer`.

    Raises:
        ValueError: `num_seeds` is not a positive multiple of 40.
    """
    if num_seeds < 1 or num_seeds % 40:
        raise ValueError(f"num_seeds must be a positive multiple of 40 (4 tasks, tenths by rung), got {num_seeds}")
    rng = random.Random(rng_seed)
    rows: dict[str, dict[str, str]] = {}
    for task in TASKS:
        for rung, share in SEED_RUNG_SHARES.items():
            wanted = len(rows) + round(num_seeds * share / len(TASKS))
            while len(rows) < wanted:
                problem = draw_problem(rng, task=task, rung=rung, held_out=False)
                row = {"prompt": phrase_prompt(problem, rng), "completion": complete(problem), "answer": problem.answer}
                rows.setdefault(problem.key, row)
    seeds = list(rows.values())
    rng.shuffle(seeds)
    return seeds


def draw_eft_rows(*, num_rows: int = NUM_EFT_ROWS, rng_seed: int = RNG_SEED) -> list[dict[str, str]]:
    """Draw the EFT rows, by `EFT_SHARES`, rungs with a long tail (`EFT_RUNG_DECAY`), each prompt once, in random order.

    Args:
        num_rows: how many; a multiple of 4.
        rng_seed: the seed of the drawing.

    Returns:
        Dicts with `prompt` and `completion`.

    Raises:
        ValueError: `num_rows` is not a positive multiple of 4.
    """
    if num_rows < 1 or num_rows % 4:
        raise ValueError(
            f"num_rows must be a positive multiple of 4 (half reviews, a quarter each other job), got {num_rows}"
        )
    rng = random.Random(rng_seed)
    rows: dict[str, dict[str, str]] = {}
    for job, share in EFT_SHARES.items():
        wanted = len(rows) + round(num_rows * share)
        while len(rows) < wanted:
            rung = draw_rung(rng, EFT_RUNG_DECAY)
            problem = draw_problem(rng, task=rng.choice(TASKS), rung=rung, held_out=False)
            example = _DRAW[job](rng, problem)
            rows.setdefault(example.prompt, {"prompt": example.prompt, "completion": example.completion})
    shuffled = list(rows.values())
    rng.shuffle(shuffled)
    return shuffled


def write_rows(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write rows as JSON lines, UTF-8, each line ended by a newline."""
    path.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).parents[1] / "experiments" / "mini_lance"
    parser.add_argument("--out", type=Path, default=default, help="the experiment's folder")
    out = parser.parse_args().out
    write_rows(out / "seeds.jsonl", draw_seeds())
    write_rows(out / "eft.jsonl", draw_eft_rows())
    print(f"{NUM_SEEDS} seeds and {NUM_EFT_ROWS} EFT rows in {out}")
