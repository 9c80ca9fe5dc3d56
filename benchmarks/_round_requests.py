"""The requests of a LANCE round: recorded while the recipe runs on the packaged small model, or of a finished round."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from lance_assets.algorithms.reviews.forced_endings import remove_forced
from lance_assets.prompts import Templates
from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.contract import RoundInputs
from lance_assets.recipes.lance import RECIPE
from lance_assets.recipes.lance_settings import LanceSettings
from lance_assets.recipes.steps.reviewing import name_endings
from lance_assets.records import SEED_SET, SFT_SET, Request, Sample, SamplingSettings, derive_row_id
from lance_assets.rounds.round import Round
from lance_assets.small_world.seeds import draw_seeds
from lance_assets.small_world.tasks import RUNGS, complete, draw_problem, phrase_prompt
from resources.engines.contract import Engine, sample_in_order
from resources.engines.loading import load_tokenizer

SAMPLING = SamplingSettings(temperature=0.7, top_p=0.9, max_new_tokens=160)
"""LANCE's decoding, with room enough for the small model's longest completions."""
ENDINGS = tuple(name_endings(stage) for stage in ("seed_review", "review"))
"""The stages that force reviews to their endings."""
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


@dataclass
class Question:
    """A chat that a round asked, with all of its samples: what the authors' code asks in one call."""

    messages: tuple[dict[str, str], ...]
    """The chat."""
    lengths: list[int] = field(default_factory=list)
    """The tokens of each sample."""


def replay_round(this_round: Round) -> dict[str, list[Question]]:
    """What a finished LANCE round asked, by stage, in the order of asking, without forced endings (`replay`)."""
    tokenizer = load_tokenizer(this_round.start_path())
    tables = {name: this_round.read(name) for name in ("seed_set", "raw_generations", "cleaned_set", "reviewed_set")}
    return replay(
        this_round.build_inputs(),
        tables,
        this_round.read_grown("sft_set"),
        count_tokens=lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]),
    )


def replay(
    inputs: RoundInputs[LanceSettings],
    tables: Mapping[str, pl.DataFrame],
    trained: pl.DataFrame,
    *,
    count_tokens: Callable[[str], int],
) -> dict[str, list[Question]]:
    """What a round asked: the recipe runs once more and is answered from the round's tables.

    Args:
        inputs: of the round; its `ask` is replaced.
        tables: the round's seed_set, raw_generations, cleaned_set and reviewed_set.
        trained: the SFT set of the round before.
        count_tokens: of a review, whose tokens are in no table.

    Returns:
        By stage the questions. Requests that force a review to its ending are left out: tables hold their scores and
        not which of them were asked, and the authors' code asks none.
    """
    written = tables["reviewed_set"].filter(pl.col("kind") != "seed")["reviews"]
    reviews = iter([text for texts in written for text in texts])
    raw = {row["row_id"]: row for row in tables["raw_generations"].to_dicts()}
    asked: dict[str, dict[str, Question]] = {}

    def answer(stage: str, request: Request) -> Sample:
        if stage in ENDINGS:
            # A review that stands in a table was forced before; one that has no score all the same stays as it is.
            return Sample(request.row_id, "", "error", 0, 0)
        if stage == "review":
            text = next(reviews)
            return Sample(request.row_id, text, "stop", 0, count_tokens(remove_forced(text)))
        row = raw[request.row_id]
        return Sample(
            request.row_id, row["raw_text"], row["finish_reason"], row["prompt_tokens"], row["completion_tokens"]
        )

    def ask(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
        samples = [answer(stage, request) for request in requests]
        if stage in ENDINGS:
            return samples
        mine = asked.setdefault(stage, {})
        for request, sample in zip(requests, samples, strict=True):
            question = mine.setdefault(json.dumps(request.messages), Question(request.messages))
            question.lengths.append(sample.completion_tokens)
        return samples

    own, seeds = replace(inputs, ask=ask), tables["seed_set"]
    generated = RECIPE.generate(own, seeds, trained)
    RECIPE.review(own, tables["cleaned_set"], seeds, generated)
    return {stage: list(questions.values()) for stage, questions in asked.items()}
