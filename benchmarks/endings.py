"""Reviews that are forced to their endings while the engine holds them, against endings in a stage of their own.

    python -m benchmarks.endings [--data DIR] [--model DIR] [--rows N] [--tokens N] [--quick]

GSM8K's questions with their solutions are reviewed three times each by LANCE's template, and cut after `--tokens`.
The same endings are then asked twice: by `generate_followed`, and as requests of their own, as an engine is asked that
does not follow.

    num_endings         requests that force an ending, two for each review (is it a 1 or a 10?)
    seconds             of the reviews alone, of the reviews with their endings, and of the endings in a stage of theirs
    endings_speedup     seconds of the endings' own stage over what they add to the reviews
    largest_difference  of the likeliest token's probability

The last line is one JSON object. The packaged small model is asked, of its own world's seeds, unless folders are given.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lance_assets.prompts import Templates
from lance_assets.recipes.steps.reviewing import (
    Rubric,
    build_ending_sampling,
    build_review_sampling,
    follow_reviews,
)
from lance_assets.records import Request, Sample, SamplingSettings
from lance_assets.small_world import SMALL_MODEL
from lance_assets.small_world.seeds import draw_seeds
from resources.engines.transformers.engine import TransformersEngine

RUBRIC = Rubric("lance/review", 0, 10)
NUM_REVIEWS = 3


def build_reviews(data: Path | None, number: int) -> list[Request]:
    """Requests for the reviews of so many solutions."""
    if data is None:
        rows = [(str(seed["prompt"]), str(seed["completion"])) for seed in draw_seeds(num_seeds=-(-number // 40) * 40)]
    else:
        lines = (data / "gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines()[:number]
        rows = [(row["question"], row["answer"]) for row in map(json.loads, lines)]
    templates = Templates("small" if data is None else "full", "lance")
    return [
        Request(f"{place}-{turn}", tuple(templates.build_messages(text)), NUM_REVIEWS * place + turn)
        for place, (prompt, completion) in enumerate(rows[:number])
        for text in [templates.render("lance/review", prompt=prompt, completion=completion, **RUBRIC.scale)]
        for turn in range(NUM_REVIEWS)
    ]


def measure(ask: Callable[[], Iterable[Sequence[Sample]]]) -> tuple[float, dict[str, Sample]]:
    """Seconds, and the samples by row id."""
    started = time.perf_counter()
    samples = {sample.row_id: sample for group in ask() for sample in group}
    return time.perf_counter() - started, samples


def find_likeliest(ending: Sample) -> float:
    """The probability of the likeliest token where the score is due."""
    return math.exp(max(ending.tail[0].alternatives.values()))


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four solutions, cut after 8 tokens")
    parser.add_argument("--data", type=Path, help="folder of gsm8k_train.jsonl")
    parser.add_argument("--model", type=Path, default=SMALL_MODEL, help="folder of a model")
    parser.add_argument("--rows", type=int, default=32, help="solutions")
    parser.add_argument("--tokens", type=int, default=128, help="of a review, before it is cut")
    options = parser.parse_args()
    number, tokens = (4, 8) if options.quick else (options.rows, options.tokens)
    requests = build_reviews(options.data, number)
    engine = TransformersEngine(options.model, batch_size=NUM_REVIEWS * number, device="cpu", dtype="float32")
    engine.load()
    sampling = build_review_sampling(SamplingSettings(1.0, 0.95, tokens), RUBRIC, score_from="expected")
    ending = build_ending_sampling(RUBRIC)
    follow_up = follow_reviews("review", RUBRIC, force_ending=True, score_from="expected")
    assert follow_up is not None, "endings are forced"
    # What runs for the first time takes longer.
    measure(lambda: engine.generate(requests[:1], sampling))
    alone, reviews = measure(lambda: engine.generate(requests, sampling))
    followed, with_endings = measure(lambda: engine.generate_followed(requests, sampling, follow_up, ending))
    asked = [one for request in requests for one in follow_up.list_requests(request, reviews[request.row_id])]
    apart, endings = measure(lambda: engine.generate(asked, ending))
    engine.close()
    at_once = {one.row_id: one for review in with_endings.values() for one in review.followed}
    figures = {
        "model": options.model.name,
        "num_reviews": len(requests),
        "num_endings": len(asked),
        "num_at_once": len(at_once),
        "seconds": {"reviews": round(alone, 1), "with_endings": round(followed, 1), "endings_apart": round(apart, 1)},
        "endings_speedup": round(apart / max(followed - alone, 1e-9), 1),
        "largest_difference": max(
            abs(find_likeliest(at_once[name]) - find_likeliest(one)) for name, one in endings.items()
        ),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
