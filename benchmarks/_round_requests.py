"""The requests of a LANCE round on the packaged small model, recorded while the recipe runs once."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import polars as pl

from lance_assets.prompts import Templates
from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.contract import RoundInputs
from lance_assets.recipes.lance import RECIPE
from lance_assets.recipes.lance_settings import LanceSettings
from lance_assets.records import SEED_SET, SFT_SET, Request, Sample, SamplingSettings, derive_row_id
from lance_assets.small_world.seeds import draw_seeds
from lance_assets.small_world.tasks import RUNGS, complete, draw_problem, phrase_prompt
from resources.engines.contract import Engine, sample_in_order

SAMPLING = SamplingSettings(temperature=0.7, top_p=0.9, max_new_tokens=160)
"""LANCE's decoding, with room enough for the small model's longest completions."""
HARD_SHARE = 0.3
"""Of seeds from the upper half of the ladder: answered well they score high, so that both branches are asked."""


def draw_mixed_seeds(num_seeds: int) -> pl.DataFrame:
    """Seeds of all rungs, schema `SEED_SET`. Those of `mini_lance` are all easy and would all go to the low branch."""
    rng = random.Random(0)
    rows = draw_seeds(num_seeds=40 * -(-num_seeds // 40))[:num_seeds]
    for place in range(round(HARD_SHARE * num_seeds)):
        rung = rng.choice(RUNGS[len(RUNGS) // 2 :])
        problem = draw_problem(rng, task=rng.choice(["reverse", "sort", "sum", "story"]), rung=rung, held_out=False)
        rows[place] = {"prompt": phrase_prompt(problem, rng), "completion": complete(problem), "answer": problem.answer}
    seeds = pl.DataFrame(
        [{"row_id": derive_row_id(row["prompt"]), "source": "seed"} | row for row in rows], schema=SEED_SET
    )
    return seeds.unique("row_id", maintain_order=True)


def record_round(engine: Engine, num_seeds: int, log: Callable[[str], None]) -> dict[str, list[Request]]:
    """Every request of a round, by stage, in the order they are asked; grammars are not asked for."""
    asked: dict[str, list[Request]] = {}

    def ask(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
        asked[stage] = list(requests)
        return sample_in_order(engine, requests, replace(sampling or SAMPLING, grammar=None, tail_tokens=0))

    inputs = RoundInputs(
        identity=RoundIdentity("engine", "r0001", 0, Templates("compact", "lance")),
        settings=LanceSettings(max_new_tokens=SAMPLING.max_new_tokens),
        ask=ask,
        is_evaluation_prompt=lambda _: False,
    )
    seeds = draw_mixed_seeds(num_seeds)
    generated = RECIPE.generate(inputs, seeds, pl.DataFrame(schema=SFT_SET))
    cleaned = RECIPE.clean(inputs, generated, seeds)
    RECIPE.review(inputs, cleaned, seeds, generated)
    log(f"requests of a round over {len(seeds)} seeds: { ({stage: len(rows) for stage, rows in asked.items()}) }")
    return asked
