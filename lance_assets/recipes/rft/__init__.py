"""RFT: a model is trained on the seeds and on its own right solutions that reason differently (arXiv 2308.01825).

One round, with the round's model M, which SFT on the seeds made (r0000), or the round before:

    propose     M writes k completions of every seed's prompt
    signal      the verifier: a row is right or wrong
    choose      of each prompt the right completions whose lists of equations differ, and whose equations hold
    train       SFT of the base model on the seeds and on the chosen rows of all rounds

Differences:

1.  The paper samples once, from the model after SFT; further rounds sample from what the round before trained.
2.  Of completions without equations those are alike that are the same but for case and blanks; the paper's data is
    GSM8K, where all have some.
3.  Of those that reason alike the first sample is taken; the paper takes any, and of several models' samples the one
    that is farthest by Levenshtein's distance.
4.  What is right is the verifier's: answers by rule or by math-verify, tests of programs, rules, or a function.

Unknown: the nucleus mass, and the longest completion.
"""

from typing import ClassVar, get_args

import polars as pl
from pydantic import Field

from lance_assets.algorithms.filters.contract import Filter
from lance_assets.algorithms.filters.rules import Complete, EvaluationOverlap
from lance_assets.algorithms.verifying.equations import Reason, list_reasons
from lance_assets.recipes.asking import build_requests, close_thoughts, read_completion
from lance_assets.recipes.axes import Losses, RecipeSettings, StartsFrom, TrainsOn
from lance_assets.recipes.contract import Recipe, RoundInputs, Stage, list_no_prompts
from lance_assets.recipes.steps.right_rows import find_right_rows, join_sft_rows
from lance_assets.recipes.steps.rows import Seed, build_table, originate, read_rows, record_samples
from lance_assets.recipes.steps.sets import build_no_pairs, review_without_scores, start_sft_set, take_file_seeds
from lance_assets.records import RAW_GENERATIONS


class RftSettings(RecipeSettings):
    """RFT's parameters; the defaults are the paper's constants."""

    usable_losses: ClassVar[tuple[Losses, ...]] = ("sft",)

    starts_from: StartsFrom = "base"
    trains_on: TrainsOn = "all"
    losses: Losses = "sft"
    temperature: float = Field(0.7, ge=0, le=5, description="Sampling temperature.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass.")
    max_seeds: int | None = Field(None, ge=1, description="Seeds completed each round; none takes all.")
    num_samples: int = Field(100, ge=1, le=1024, description="Completions sampled of each seed's prompt (k).")
    max_rows: int | None = Field(None, ge=1, description="Most rows that one prompt brings in a round; none: all.")

    @property
    def has_scale(self) -> bool:
        """A row is right or wrong."""
        return False


Inputs = RoundInputs[RftSettings]


def generate(inputs: Inputs, seeds: pl.DataFrame, trained: pl.DataFrame) -> pl.DataFrame:
    """K completions of every seed's prompt, schema `RAW_GENERATIONS`."""
    rows, number = read_rows(Seed, seeds), inputs.settings.num_samples
    requests = build_requests(inputs.identity, "solution", [(row.row_id, row.prompt) for row in rows], number)
    samples = close_thoughts(inputs.ask("solution", requests))
    origins = [
        originate(
            rows[place // number],
            place % number,
            prompt=rows[place // number].prompt,
            completion=read_completion(inputs.identity, sample),
        )
        for place, sample in enumerate(samples)
    ]
    return build_table(record_samples("solution", origins, requests, samples), RAW_GENERATIONS)


def list_filters(settings: RftSettings) -> list[Filter]:
    """Drop what was cut, and evaluation prompts."""
    return [Complete(), EvaluationOverlap()]


def describe_reviews(inputs: Inputs, reviewed: pl.DataFrame) -> dict[str, float | int]:
    """How many right rows are left out, by reason, before they are compared with what is trained on already."""
    rows = find_right_rows(reviewed).select("prompt", "completion").rows()
    reasons = list_reasons(rows, prompt=lambda row: row[0], completion=lambda row: row[1])
    return {f"left_out/{reason}": reasons.count(reason) for reason in get_args(Reason)}


def build_sft_set(inputs: Inputs, reviewed: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """This round's right rows that reason differently from each other and from all that is trained on already."""
    right, known = find_right_rows(reviewed), earlier.filter(pl.col("source") != "eft")
    both = [*known.select("prompt", "completion").iter_rows(), *right.select("prompt", "completion").iter_rows()]
    reasons = list_reasons(both, prompt=lambda row: row[0], completion=lambda row: row[1])[len(known) :]
    chosen = right.filter(pl.Series([reason is None for reason in reasons], dtype=pl.Boolean))
    if inputs.settings.max_rows is not None:
        chosen = chosen.filter(pl.int_range(pl.len()).over("prompt") < inputs.settings.max_rows)
    return join_sft_rows(inputs, chosen, earlier)


RECIPE: Recipe[RftSettings] = Recipe(
    name="rft",
    settings=RftSettings,
    stages=(Stage("solution", asked_in="raw_generations", mixes=True),),
    settings_of_step={
        "seed_set": ("max_seeds",),
        "raw_generations": ("num_samples",),
        "sft_set": ("trains_on", "sft_on_seeds", "max_rows"),
        "preference_pairs": ("losses",),
        "checkpoint": ("starts_from",),
    },
    needs_verifier=True,
    build_seed_set=take_file_seeds,
    start_sft_set=start_sft_set,
    generate=generate,
    list_filters=list_filters,
    review=review_without_scores,
    build_sft_set=build_sft_set,
    build_pairs=build_no_pairs,
    describe_reviews=describe_reviews,
    list_prompts=list_no_prompts,
)
