"""How many of the tasks that a real model proposes are tasks, by prompt profile, and why the others are dropped.

Every profile is asked from the same seeds, with the same sampling, by LANCE's own step; what is read of each sample
goes through LANCE's filters, and then through those of `lance_assets.settings.filters.OF_SMALL_MODELS`. A kept proposal
is one that no rule drops; whether it is a good task, no rule says.

    python -m benchmarks.real_proposals --model /models/SmolLM2-135M-Instruct --data DIR

The folder has `self_instruct_seed_tasks.jsonl`: rows of `instruction`, and `instances` of `input` and `output`.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks._models import find_model, tell_model
from benchmarks._proposals import clean, propose
from benchmarks._real_data import find_data, skip
from lance_assets.algorithms.filters.contract import count_drop_reasons
from lance_assets.prompts import Templates
from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.lance import RECIPE
from lance_assets.recipes.lance_settings import LanceSettings
from lance_assets.recipes.steps.rows import Generation, Seed, build_table
from lance_assets.records import RAW_GENERATIONS, Request, Sample, SamplingSettings, derive_row_id
from resources.engines.contract import Engine, sample_in_order
from resources.engines.transformers.engine import TransformersEngine

STEP = "lance/new_prompt"
FILE = "self_instruct_seed_tasks.jsonl"
MAX_PROMPT_WORDS, MAX_COMPLETION_WORDS = 60, 100
"""Longer seeds are left out, so that a small model's context holds four of them."""


def read_seeds(file: Path, number: int) -> list[Seed]:
    """The first short seed tasks of a file, an instruction with its first input as the prompt."""
    seeds = []
    for line in file.read_text(encoding="utf-8").splitlines():
        task = json.loads(line)
        instance = task["instances"][0]
        prompt, completion = f"{task['instruction']}\n{instance['input']}".strip(), instance["output"].strip()
        if len(prompt.split()) <= MAX_PROMPT_WORDS and len(completion.split()) <= MAX_COMPLETION_WORDS:
            seeds.append(Seed(derive_row_id(prompt), prompt, completion, None, "seed", None, None, None))
    if len(seeds) < number:
        raise ValueError(f"--num-seeds is {number}, and {file} has {len(seeds)} short seed tasks")
    return seeds[:number]


def ask_profile(engine: Engine, profile: str, seeds: list[Seed], settings: LanceSettings) -> list[Generation]:
    """One proposal of each seed."""
    identity = RoundIdentity("real_proposals", "r0001", 0, Templates(profile, "lance"))

    def ask(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
        return sample_in_order(engine, requests, RECIPE.find_sampling(stage, settings))

    return propose(identity, ask, settings, seeds, kind="new_prompt", step=STEP)


def count_reasons(profile: str, made: list[Generation], seeds: list[Seed], settings: LanceSettings) -> dict[str, int]:
    """How many proposals are kept, and dropped by which reason; that they have no completion yet is none."""
    raw = build_table(made, RAW_GENERATIONS)
    completions = [
        # Every proposal gets a completion, so that none is dropped for want of one.
        {"row_id": derive_row_id(row.row_id), "kind": "completion", "seed_id": row.seed_id, "parent_id": row.row_id}
        | {"sample_number": 0, "prompt": row.prompt, "completion": f"{row.row_id} " * 12, "raw_text": ""}
        | {"finish_reason": "stop"}
        for row in made
    ]
    table = pl.concat([raw, pl.DataFrame(completions, schema=RAW_GENERATIONS)])
    identity = RoundIdentity("real_proposals", "r0001", 0, Templates(profile, "lance"))
    return count_drop_reasons(clean(identity, settings, table, seeds, kind="new_prompt", step=STEP))


def measure(engine: Engine, profile: str, seeds: list[Seed], settings: LanceSettings, *, show: int) -> dict[str, Any]:
    """A profile's proposals: shares and reasons."""
    started = time.monotonic()
    made = ask_profile(engine, profile, seeds, settings)
    reasons = count_reasons(profile, made, seeds, settings)
    print(f"{profile}: {reasons}")
    for row in made[:show]:
        print(f"  {row.prompt!r:.150}")
    return {
        "num_proposed": len(made),
        "ended_rate": round(sum(row.finish_reason == "stop" for row in made) / len(made), 3),
        "kept_rate": round(reasons["kept"] / len(made), 3),
        "drop_reasons": {name: number for name, number in reasons.items() if name != "kept"},
        "minutes": round((time.monotonic() - started) / 60, 1),
    }


def main() -> None:
    """Ask every profile and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="of an instruction-tuned model: folder, GGUF file or hub id")
    parser.add_argument("--data", type=Path, help=f"folder with {FILE}")
    parser.add_argument("--num-seeds", type=int, default=40)
    parser.add_argument("--profiles", nargs="+", default=["full", "small"])
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--show", type=int, default=5, help="proposals that are printed of each profile")
    given = parser.parse_args()
    if given.model is None:
        skip("no real model: name its folder by --model")
    seeds = read_seeds(find_data(parser, given.data, [FILE]) / FILE, given.num_seeds)
    settings = LanceSettings(num_prompts=1, max_new_tokens=given.max_new_tokens, min_prompt_words=3)
    engine = TransformersEngine(find_model(given.model, parser), batch_size=given.batch_size)
    found = {name: measure(engine, name, seeds, settings, show=given.show) for name in given.profiles}
    print(json.dumps({"model": tell_model(given.model), "num_seeds": len(seeds), "profiles": found}))


if __name__ == "__main__":
    main()
