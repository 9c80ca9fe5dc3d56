"""What a grammar costs the transformers engine's decode loop.

    python -m benchmarks.constrained [--quick] [--model NAME] [--rows N] [--tokens N] [--repeats N]

The same review requests are decoded with the rubric's grammar and without one, in turn, each row for the same number of
tokens, so that both sides make equally many steps of equally many rows. CPU seconds are compared, which other processes
on the machine change less than wall time.

    constrained_vs_free   the free side's CPU seconds over the constrained side's, median of the turns: above 0.9 the
                          grammar costs less than a tenth of the speed
    grammar_share         CPU seconds of masks and of noting tokens, over all CPU seconds of the constrained side: what
                          the grammar takes by itself, whatever else differs between two turns
    scored_rate           share of constrained reviews whose text matches the grammar when they are cut there

The last line is one JSON object.
"""

import argparse
import json
import random
import re
import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks._models import find_model
from lance_assets.prompts import Templates
from lance_assets.recipes.lance_settings import RUBRIC
from lance_assets.records import SamplingSettings
from lance_assets.small_world.tasks import complete, draw_problem, phrase_prompt
from resources.engines.sampling import SeededTopP
from resources.engines.transformers.engine import TransformersEngine
from resources.models.chat_format import encode_messages

if TYPE_CHECKING:
    import torch

    from resources.engines.transformers.constraint import Constraint

TASKS = ("sum", "sort", "reverse")


def build_prompts(engine: TransformersEngine, num_rows: int) -> list[tuple[int, ...]]:
    """Token ids of reviews of small-world completions, in the short words of the compact profile."""
    rng, templates, prompts = random.Random(0), Templates("compact"), []
    _, tokenizer = engine.load()
    for number in range(num_rows):
        problem = draw_problem(rng, task=TASKS[number % len(TASKS)], rung=2, held_out=False)
        texts = {"prompt": phrase_prompt(problem, rng), "completion": complete(problem)}
        text = templates.render(RUBRIC.step, **texts, **RUBRIC.scale)
        prompts.append(encode_messages(tokenizer, templates.build_messages(text)))
    return prompts


class Timed:
    """A constraint that notes the CPU seconds it takes."""

    def __init__(self, constraint: "Constraint") -> None:
        """Begin at none."""
        self.constraint = constraint
        self.seconds = 0.0

    def mask(self, logits: "torch.Tensor", rows: Sequence[int]) -> "torch.Tensor":
        """As the constraint's."""
        began = time.process_time()
        masked = self.constraint.mask(logits, rows)
        self.seconds += time.process_time() - began
        return masked

    def advance(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """As the constraint's."""
        began = time.process_time()
        self.constraint.advance(rows, tokens)
        self.seconds += time.process_time() - began

    def is_whole(self, row: int) -> bool:
        """As the constraint's."""
        return self.constraint.is_whole(row)


def measure(
    engine: TransformersEngine, prompts: list[tuple[int, ...]], sampling: SamplingSettings
) -> tuple[float, float, list[str]]:
    """CPU seconds of a batch, those of the grammar among them, and the texts."""
    from resources.engines.transformers.decoding import Rules, decode_batch

    model, tokenizer = engine.load()
    sampler = SeededTopP(range(len(prompts)), sampling, device=model.device)
    constraint = engine.constrain(sampling.grammar, len(prompts))
    timed = None if constraint is None else Timed(constraint)
    began = time.process_time()
    # Without stop ids no row ends, so both sides make the same steps.
    decoded = decode_batch(model, prompts, sampler, Rules(frozenset(), pad_id=0), constraint=timed)
    seconds = time.process_time() - began
    texts = [tokenizer.decode(row.tokens, skip_special_tokens=True) for row in decoded]
    return seconds, 0.0 if timed is None else timed.seconds, texts


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rows and tokens")
    parser.add_argument("--model", default="small", help="folder, GGUF file or hub id; the packaged small model")
    parser.add_argument("--rows", type=int, help="rows in the batch")
    parser.add_argument("--tokens", type=int, help="tokens of each row")
    parser.add_argument("--repeats", type=int, help="turns of each side")
    options = parser.parse_args()
    rows = options.rows or (8 if options.quick else 32)
    tokens = options.tokens or (40 if options.quick else 120)
    engine = TransformersEngine(find_model(options.model, parser), dtype="float32", num_threads=1)
    prompts = build_prompts(engine, rows)
    free = SamplingSettings(1.0, 1.0, tokens)
    constrained = SamplingSettings(1.0, 1.0, tokens, grammar=RUBRIC.grammar)
    measure(engine, prompts, SamplingSettings(1.0, 1.0, 2, grammar=RUBRIC.grammar))  # what is done once is done here
    ratios, shares, rates, matched = [], [], [], 0
    for turn in range(options.repeats or (2 if options.quick else 3)):
        seconds, in_grammar, texts = measure(engine, prompts, constrained)
        free_seconds, _, _ = measure(engine, prompts, free)
        ratios.append(free_seconds / seconds)
        shares.append(in_grammar / seconds)
        rates.append(rows * tokens / free_seconds)
        matched = sum(re.fullmatch(RUBRIC.grammar, text) is not None for text in texts)
        print(
            f"turn {turn}: free {free_seconds:.2f} CPU seconds, constrained {seconds:.2f} ({in_grammar:.2f} in it)",
            flush=True,
        )
    figures = {
        "constrained_vs_free": round(statistics.median(ratios), 3),
        "grammar_share": round(statistics.median(shares), 4),
        "free_tokens_per_cpu_second": round(statistics.median(rates), 1),
        "scored_rate": round(matched / rows, 3),
        "num_rows": rows,
        "num_tokens": tokens,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
