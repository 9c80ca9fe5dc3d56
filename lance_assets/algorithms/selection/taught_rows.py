"""Rows that teach a model its jobs, made of the seeds by rule: reviews, comparisons, new prompts and worse completions.

| row | what the model is shown | what it learns to write |
| --- | --- | --- |
| review | a seed with its own completion | a reason, and nine tenths of the scale |
| review | a seed with one that is worse beyond doubt (`reviews/signal_pairs.py`) | what is wrong, and a low score |
| comparison | both of them, either first | which one is better |
| new prompt | a seed | another seed's prompt |
| worse completion | a seed | its own, with a part missing, a number or the answer changed, or cut short |

Each seed gives one review of its own completion and one of a worse one, the kinds taking turns, so that neither high
scores nor low ones are the more frequent: a small model repeats what it saw most.

Differences from the EFT rows of Self-Rewarding (arXiv 2401.10020), which are human rankings of Open Assistant with
rationales by a model: here a rule knows what is worse, and a sentence of its own says why. So the scores are right as
far as the seeds are, and coarse.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lance_assets.algorithms.reviews.signal_pairs import RULE_KINDS, SignalPair, SignalSeed, build_signal_pairs
from lance_assets.records import derive_row_id

OWN = "own"
"""The rule's name where a seed is reviewed with its own completion."""
SHARES = {
    OWN: 0.9,
    "dropped": 0.4,
    "truncated": 0.4,
    "number": 0.3,
    "answer": 0.3,
    "known_wrong": 0.3,
    "shuffled": 0.2,
    "other_seed": 0.0,
}
"""Where on the scale a completion lies, from 0 to 1, by how it was made; chosen, not measured."""
PLAUSIBLE = ("dropped", "number", "answer", "known_wrong", "truncated")
"""The rules whose worse completion reads like an answer, so that one may be taught to write it."""


@dataclass(frozen=True)
class TaughtReview:
    """A completion with the score that it deserves."""

    prompt: str
    completion: str
    rule: str
    """How the completion was made: a key of `SHARES`."""

    def place(self, *, lowest: int, highest: int) -> int:
        """Its whole score on a scale.

        >>> TaughtReview("Name a bird.", "A hen.", "own").place(lowest=0, highest=10)
        9
        """
        return round(lowest + SHARES[self.rule] * (highest - lowest))


@dataclass(frozen=True)
class TaughtPrompt:
    """A seed, and another seed's prompt that could follow it."""

    seed: SignalSeed
    target: SignalSeed


@dataclass(frozen=True)
class TaughtRows:
    """Everything that is taught, each in the order of the drawn seeds."""

    reviews: list[TaughtReview]
    comparisons: list[SignalPair]
    """A better and a worse completion each; which is shown first is the writer's."""
    new_prompts: list[TaughtPrompt]
    worse: list[SignalPair]
    """A seed's completion, and the worse one that is to be written."""


def draw_taught_rows(seeds: Sequence[SignalSeed], *, rng_seed: int, max_seeds: int | None = None) -> TaughtRows:
    """The rows of some seeds, deterministic by rng_seed whatever the order of the seeds.

    Args:
        seeds: with ids that differ, at least two with a completion.
        rng_seed: draws which seeds, and what each rule leaves open.
        max_seeds: how many seeds give rows; None for all.

    Raises:
        ValueError: fewer than two seeds with a completion, or max_seeds below 2.

    >>> seeds = [SignalSeed(name, f"Name {name}.", f"It is {number}.") for number, name in enumerate("abc", start=2)]
    >>> rows = draw_taught_rows(seeds, rng_seed=0)
    >>> len(rows.reviews), len(rows.new_prompts)
    (6, 3)
    """
    usable = [seed for seed in seeds if seed.completion.strip()]
    number = len(usable) if max_seeds is None else min(max_seeds, len(usable))
    if number < 2:
        raise ValueError(f"rows are made of two seeds or more, got {len(usable)} with a completion and {max_seeds=}")
    drawn = sorted(usable, key=lambda seed: derive_row_id(rng_seed, seed.row_id))[:number]
    built = build_signal_pairs(drawn, num_pairs=number, rng_seed=rng_seed).pairs
    by_seed: dict[str, list[SignalPair]] = {seed.row_id: [] for seed in drawn}
    for pair in built:
        by_seed[pair.seed_id].append(pair)
    reviews, comparisons, new_prompts, worse = [], [], [], []
    for turn, seed in enumerate(drawn):
        reviews.append(TaughtReview(seed.prompt, seed.completion, OWN))
        # The kinds take turns; where one cannot be made of a seed, the next one is.
        own = by_seed[seed.row_id]
        ordered = sorted(own, key=lambda pair: (RULE_KINDS.index(pair.kind) - turn) % len(RULE_KINDS))
        if ordered:
            reviews.append(TaughtReview(seed.prompt, ordered[0].worse, ordered[0].rule))
            comparisons.append(ordered[-1])
        worse += [pair for pair in ordered if pair.rule in PLAUSIBLE][:1]
        rng = random.Random(derive_row_id(rng_seed, "new_prompt", seed.row_id))
        others = [other for other in drawn if other.prompt != seed.prompt]
        if others:
            new_prompts.append(TaughtPrompt(seed, rng.choice(others)))
    return TaughtRows(reviews, comparisons, new_prompts, worse)
