"""DiverseEvol: a model chooses, of a fixed pool, what is unlike all it was trained on (arXiv 2311.08182).

One round, with the round's model M, which the round before trained, and a pool of prompts with completions:

    propose     M reads the whole pool; k items are taken by k-center: each the farthest, by M's mean hidden state, from
                all taken before it
    signal      that distance
    train       SFT of the base model on everything taken so far

Round r0000 is SFT on `num_first` items drawn at random, the same ones for every method. Constants are those of the
authors' code (OFA-Sys/DiverseEvol, commit a22e952).

Controls: `method` takes items at random, or those of which M is least sure (confidence, margin, entropy);
`states_of="base"` reads the pool with the base model, which makes a one-shot k-center of a single round with
`num_picks` for the whole budget.

Each SFT set is shown with the Vendi score of what was taken, on the base model's mean hidden states, as the paper's.

Differences from the authors' code:

1.  Rows are read in batches, with a mask; their code reads one by one. The means are equal to float rounding.
2.  The first pool comes from `rng_seed`; their code draws another one in each run.
3.  With `token_budget` every round after r0000 trains on the same number of tokens, so that they differ in data alone;
    their code trains 3 epochs of what there is, so that later rounds also have more steps. Each checkpoint shows its
    number of steps.
4.  Rows are cut at `training.sft.max_length`, in training and when they are read; their code cuts at 512 tokens.
5.  Rows are asked with the experiment's chat template, in place of Alpaca's.
"""

from contextlib import closing
from typing import ClassVar, Literal, Self

import polars as pl
from pydantic import Field, model_validator

from lance_assets.algorithms.filters.contract import Filter
from lance_assets.algorithms.filters.rules import Complete, EvaluationOverlap
from lance_assets.algorithms.selection.pool_selection import PoolMethod, draw_first_pool, select_from_pool
from lance_assets.recipes.axes import AxisSettings, Losses, StartsFrom, keep_rounds
from lance_assets.recipes.contract import Recipe, RoundInputs, list_no_prompts
from lance_assets.recipes.forecasts.pool_reading import forecast_pool_reading
from lance_assets.recipes.steps.rows import Generation, Seed, build_table, read_rows
from lance_assets.recipes.steps.sets import (
    build_no_pairs,
    review_without_scores,
    seeds_as_sft_rows,
    take_all_file_seeds,
)
from lance_assets.records import RAW_GENERATIONS, SFT_SET

SCORE_OF_METHOD = {"least_confidence": "mean_max_logit", "margin": "mean_margin", "entropy": "mean_entropy"}
"""Which of the reader's measures a method picks by."""


class DiverseEvolSettings(AxisSettings):
    """DiverseEvol's parameters; the defaults are the authors' constants. Nothing is sampled."""

    usable_losses: ClassVar[tuple[Losses, ...]] = ("sft",)

    starts_from: StartsFrom = "base"
    trains_on: Literal["all"] = Field(
        "all", description="Everything taken so far: what the training set lacks would be taken again."
    )
    losses: Losses = "sft"
    sft_on_seeds: Literal[True] = Field(True, description="r0000 trains on the first items of the pool.")
    num_first: int = Field(100, ge=1, description="Items drawn at random for r0000.")
    num_picks: int | None = Field(100, ge=1, description="Items taken in each round (k); none: all that are left.")
    method: PoolMethod = Field("k_center", description="How items are taken; all but k_center are controls.")
    states_of: Literal["round", "base"] = Field(
        "round", description="Which model reads the pool: the round's, or the base model."
    )

    @model_validator(mode="after")
    def _has_a_reader(self) -> Self:
        if self.states_of == "base" and self.method == "random":
            raise ValueError("states_of: base needs a method that reads the pool, got method: random, which reads none")
        return self

    @property
    def reads_states(self) -> bool:
        """Whether the pool is read, by distance or by how sure the model is."""
        return self.method != "random"

    @property
    def has_reviews(self) -> bool:
        """Nothing is reviewed: distance is the signal."""
        return False


Inputs = RoundInputs[DiverseEvolSettings]


def start_sft_set(inputs: Inputs, seeds: pl.DataFrame, eft: pl.DataFrame) -> pl.DataFrame:
    """The first items, drawn at random, and the EFT rows where the experiment has them. Schema `SFT_SET`."""
    first = draw_first_pool(len(seeds), inputs.settings.num_first, inputs.identity.rng_seed)
    return pl.concat([seeds_as_sft_rows(seeds[first], round_key=inputs.round_key), eft])


def generate(inputs: Inputs, seeds: pl.DataFrame, trained: pl.DataFrame) -> pl.DataFrame:
    """The items taken in this round, in the order of taking, schema `RAW_GENERATIONS`.

    Raises:
        ValueError: fewer items are left than `num_picks`.
    """
    settings, identity = inputs.settings, inputs.identity
    # What was taken is known from the training set, whose rows name the items they came from.
    is_chosen = seeds["row_id"].is_in(trained["source_id"].implode()).to_numpy()
    ask = identity.templates.build_messages
    rows = [(ask(prompt), completion) for prompt, completion in seeds.select("prompt", "completion").rows()]
    vectors, scores = None, None
    if settings.method != "random":
        # The reader holds a model, whose memory the training needs.
        with closing(inputs.read_states(of_base=settings.states_of == "base")) as reader:
            if settings.method == "k_center":
                vectors = reader.embed(rows)
            else:
                scores = reader.measure_confidence(rows)[SCORE_OF_METHOD[settings.method]].to_numpy()
    taken = select_from_pool(
        settings.method,
        vectors=vectors,
        scores=scores,
        is_chosen=is_chosen,
        num_picks=int((~is_chosen).sum()) if settings.num_picks is None else settings.num_picks,
        rng_seed=identity.rng_seed,
    )
    measures = [None] * len(taken.places) if taken.values is None else taken.values.tolist()
    return _record_picks(read_rows(Seed, seeds[taken.places]), measures)


def _record_picks(picked: list[Seed], measures: list[float | None]) -> pl.DataFrame:
    """Items in the order of taking, each with what it was taken by, schema `RAW_GENERATIONS`."""
    rows = [
        Generation(
            row_id=seed.row_id,
            kind="pool_row",
            seed_id=seed.row_id,
            parent_id=seed.row_id,
            sample_number=place,
            prompt=seed.prompt,
            completion=seed.completion,
            raw_text=seed.completion,
            finish_reason="stop",
            pool_measure=measure,
        )
        for place, (seed, measure) in enumerate(zip(picked, measures, strict=True))
    ]
    return build_table(rows, RAW_GENERATIONS)


def list_filters(settings: DiverseEvolSettings) -> list[Filter]:
    """Drop evaluation prompts alone, since people wrote the pool."""
    return [Complete(), EvaluationOverlap()]


def build_sft_set(inputs: Inputs, reviewed: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """This round's items, then those taken before. Schema `SFT_SET`."""
    kept = keep_rounds(earlier, trains_on=inputs.settings.trains_on, round_key=inputs.round_key)
    return pl.concat([seeds_as_sft_rows(reviewed, round_key=inputs.round_key), kept]).cast(SFT_SET)


RECIPE: Recipe[DiverseEvolSettings] = Recipe(
    name="diverse_evol",
    settings=DiverseEvolSettings,
    stages=(),
    settings_of_step={
        "raw_generations": ("num_picks", "method", "states_of"),
        "sft_set": ("num_first", "trains_on", "sft_on_seeds"),
        "preference_pairs": ("losses",),
        "checkpoint": ("starts_from",),
    },
    build_seed_set=take_all_file_seeds,
    start_sft_set=start_sft_set,
    generate=generate,
    list_filters=list_filters,
    review=review_without_scores,
    build_sft_set=build_sft_set,
    build_pairs=build_no_pairs,
    reports_vendi=True,
    list_prompts=list_no_prompts,
    forecast=forecast_pool_reading(lambda settings: (settings.num_first, settings.num_picks)),
)
