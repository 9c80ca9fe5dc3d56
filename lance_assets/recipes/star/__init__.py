"""STaR: a model is trained on its own rationales that come to the right answer (arXiv 2203.14465).

One round, with the round's model M, which the round before trained:

    propose     M answers every seed's prompt; where the verifier finds the answer wrong, M is shown the gold answer and
                explains it (rationalization), and what it writes is kept as an answer to the prompt without the hint
    signal      the verifier: a row is right or wrong
    train       SFT of the base model on the right rows of this round, of either kind

Round r0000 is the base model as it is, or SFT on the seeds with `sft_on_seeds`.

Differences:

1.  The paper's model is no chat model and is shown examples of rationales; here a model is asked as it is, unless the
    experiment's own words show some. Its base model need not follow instructions where `sft_on_seeds` trains it first.
2.  The steps of training are the experiment's epochs; the paper begins with 40 steps and adds 20% in each round.
3.  A rationalization that says the gold answer and nothing else teaches nothing, and is left out (`min_words`).
4.  What is right is the verifier's: answers by rule or by math-verify, tests of programs, rules, or a function.

Unknown: the longest rationale; how rationalizations are sampled (here greedily, as rationales are).
"""

from typing import ClassVar

import polars as pl
from pydantic import Field

from lance_assets.algorithms.filters.contract import Filter
from lance_assets.algorithms.filters.rules import Complete, EvaluationOverlap, Words
from lance_assets.prompts import PromptStep
from lance_assets.recipes.asking import build_requests, close_thoughts, read_completion
from lance_assets.recipes.axes import Losses, RecipeSettings, StartsFrom, TrainsOn
from lance_assets.recipes.contract import Recipe, RoundInputs, Stage
from lance_assets.recipes.steps.right_rows import build_right_sft_set, judge_generations
from lance_assets.recipes.steps.rows import (
    Generation,
    Seed,
    build_table,
    complete_prompts,
    originate,
    read_rows,
    record_samples,
)
from lance_assets.recipes.steps.sets import build_no_pairs, review_without_scores, start_sft_set, take_file_seeds
from lance_assets.records import RAW_GENERATIONS


class StarSettings(RecipeSettings):
    """STaR's parameters; the defaults are the paper's constants."""

    usable_losses: ClassVar[tuple[Losses, ...]] = ("sft",)

    starts_from: StartsFrom = "base"
    trains_on: TrainsOn = "latest"
    losses: Losses = "sft"
    sft_on_seeds: bool = Field(False, description="Whether r0000 trains on the seeds; later rounds never do.")
    temperature: float = Field(0.0, ge=0, le=5, description="Sampling temperature; 0 is greedy, as in the paper.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus mass.")
    max_seeds: int | None = Field(None, ge=1, description="Seeds answered each round; none takes all.")
    rationalizes: bool = Field(True, description="Whether M explains the gold answer where its own was wrong.")
    min_words: int = Field(3, ge=0, description="Shortest rationale, in words.")

    @property
    def has_scale(self) -> bool:
        """A row is right or wrong."""
        return False


Inputs = RoundInputs[StarSettings]


def generate(inputs: Inputs, seeds: pl.DataFrame, trained: pl.DataFrame) -> pl.DataFrame:
    """M's rationale of every seed, and its explanation of the gold answer where it was wrong."""
    rows = read_rows(Seed, seeds)
    tried = judge_generations(inputs, complete_prompts(inputs.identity, inputs.ask, rows, stage="rationale"))
    failed = [seed for seed, own in zip(rows, tried, strict=True) if own.is_correct is not True and seed.answer]
    return build_table(tried + (rationalize(inputs, failed) if inputs.settings.rationalizes else []), RAW_GENERATIONS)


def rationalize(inputs: Inputs, failed: list[Seed]) -> list[Generation]:
    """M's explanation of the gold answer of each seed, recorded as an answer to the prompt without the hint."""
    identity, stage = inputs.identity, "rationalization"
    asked = [
        (seed.row_id, identity.templates.render("star/hint", prompt=seed.prompt, answer=seed.answer)) for seed in failed
    ]
    requests = build_requests(identity, stage, asked, 1)
    samples = close_thoughts(inputs.ask(stage, requests)) if requests else []
    origins = [
        originate(seed, 0, prompt=seed.prompt, completion=read_completion(identity, sample))
        for seed, sample in zip(failed, samples, strict=True)
    ]
    return judge_generations(inputs, record_samples(stage, origins, requests, samples))


def describe_generations(inputs: Inputs, raw_generations: pl.DataFrame) -> dict[str, float | int]:
    """How many rows of each kind are right."""
    right = raw_generations.filter(is_correct=True)["kind"]
    return {f"right/{kind}": int((right == kind).sum()) for kind in ("rationale", "rationalization")}


def list_filters(settings: StarSettings) -> list[Filter]:
    """Drop what was cut, evaluation prompts, and answers without a rationale."""
    return [Complete(), EvaluationOverlap(), Words(of="completion", min_words=settings.min_words)]


def list_prompts(settings: StarSettings) -> tuple[PromptStep, ...]:
    """What M is asked with beside the prompts themselves."""
    return (PromptStep("hint", ("raw_generations",), ("prompt", "answer"), (), {}, settings.rationalizes),)


RECIPE: Recipe[StarSettings] = Recipe(
    name="star",
    settings=StarSettings,
    stages=(Stage("rationale", asked_in="raw_generations"), Stage("rationalization", asked_in="raw_generations")),
    settings_of_step={
        "seed_set": ("max_seeds",),
        "raw_generations": ("rationalizes",),
        "cleaned_set": ("min_words",),
        "sft_set": ("trains_on", "sft_on_seeds"),
        "preference_pairs": ("losses",),
        "checkpoint": ("starts_from",),
    },
    needs_verifier=True,
    answering_kinds=("rationale",),
    build_seed_set=take_file_seeds,
    start_sft_set=start_sft_set,
    generate=generate,
    list_filters=list_filters,
    review=review_without_scores,
    build_sft_set=build_right_sft_set,
    build_pairs=build_no_pairs,
    describe_generations=describe_generations,
    list_prompts=list_prompts,
)
