"""Reading the prompts of a batch: what they share once, over every prompt whole.

    python -m benchmarks.shared_prefix [--quick] [--model DIR] [--seeds FILE] [--rows N] [--repeats N]

The prompts are one batch: reviews by LANCE's full template of the seeds of a file, or of the small world's. Both sides
read them in turn in one process, and the medians are compared.

    prefill_speedup   seconds of reading every prompt whole over those of reading what they share once
    num_shared        tokens that all prompts share, of `mean_tokens`
    largest_difference  of the next token's log-probability among the 20 likeliest, over all rows
    equal_texts       share of rows whose next 16 greedy tokens are the same

The last line is one JSON object.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lance_assets.prompts import Templates
from lance_assets.recipes.lance_settings import RUBRIC
from lance_assets.records import SamplingSettings
from lance_assets.settings.experiment import SeedSettings
from lance_assets.small_world import SMALL_MODEL
from lance_assets.small_world.seeds import draw_seeds
from resources.engines.sampling import SeededTopP
from resources.engines.transformers.engine import TransformersEngine
from resources.engines.transformers.prefixes import count_begun
from resources.engines.transformers.row_batch import find_least_shared
from resources.models.chat_format import encode_messages
from resources.readers.seed_files import read_seeds

GREEDY = SamplingSettings(temperature=0.0, top_p=1.0, max_new_tokens=16)


def build_prompts(tokenizer: Any, seeds: Path | None, number: int) -> list[tuple[int, ...]]:
    """The reviews of so many seeds, the shortest first."""
    if seeds is None:
        rows = [dict(row) for row in draw_seeds(num_seeds=40 * -(-number // 40))]
    else:
        rows = read_seeds(SeedSettings(path=str(seeds.resolve()), turns="join"), Path()).to_dicts()
    templates = Templates("full", "lance")
    asked = [
        templates.render("lance/review", prompt=row["prompt"], completion=row["completion"], **RUBRIC.scale)
        for row in rows[:number]
    ]
    return sorted((encode_messages(tokenizer, templates.build_messages(text)) for text in asked), key=len)


def read(model: Any, prompts: Sequence[tuple[int, ...]], least_shared: int) -> tuple[float, Any]:
    """Seconds of reading the prompts, and the log-probabilities behind each."""
    import torch

    from resources.engines.transformers import row_batch

    row_batch.find_least_shared = lambda num_parameters: least_shared
    with torch.inference_mode():
        started = time.perf_counter()
        batch = row_batch.read_prompts(model, prompts, 0)
        return time.perf_counter() - started, batch.logits.float().log_softmax(dim=-1)


def decode(model: Any, prompts: Sequence[Sequence[int]], least_shared: int) -> list[list[int]]:
    """The first greedy tokens of each row."""
    from resources.engines.transformers import decoding, row_batch

    row_batch.find_least_shared = lambda num_parameters: least_shared
    sampler = SeededTopP([0] * len(prompts), GREEDY, device=model.device)
    rules = decoding.Rules(frozenset(), pad_id=0)
    return [row.tokens for row in decoding.decode_batch(model, prompts, sampler, rules)]


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="eight prompts, once")
    parser.add_argument("--model", type=Path, default=SMALL_MODEL, help="folder of a model")
    parser.add_argument("--seeds", type=Path, help="a file of seeds")
    parser.add_argument("--rows", type=int, default=32, help="prompts of the batch")
    parser.add_argument("--repeats", type=int, default=3, help="how often each side reads them")
    options = parser.parse_args()
    engine = TransformersEngine(options.model, device="cpu", dtype="float32")
    model, tokenizer = engine.load()
    prompts = build_prompts(tokenizer, options.seeds, 8 if options.quick else options.rows)
    least_shared = find_least_shared(model.num_parameters())
    shared = count_begun(list(dict.fromkeys(prompts)), least_shared)
    sides = {"whole": 10**9, "shared": least_shared}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    seen: dict[str, Any] = {}
    for _ in range(1 if options.quick else options.repeats):
        for name, least in sides.items():
            took, seen[name] = read(model, prompts, least)
            seconds[name].append(took)
            print(f"{name}: {took:.2f} s", flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    likeliest = seen["whole"].topk(20, dim=-1).indices
    differences = (seen["whole"].gather(-1, likeliest) - seen["shared"].gather(-1, likeliest)).abs()
    texts = [decode(model, prompts, least) for least in sides.values()]
    figures = {
        "num_rows": len(prompts),
        "mean_tokens": round(statistics.fmean(map(len, prompts)), 1),
        "num_shared": shared,
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "prefill_speedup": round(medians["whole"] / medians["shared"], 2),
        "largest_difference": float(differences.max()),
        "equal_texts": statistics.fmean(one == other for one, other in zip(*texts, strict=True)),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
