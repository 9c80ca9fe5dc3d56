"""DiverseEvol: a model chooses, of a fixed pool, what is unlike all it was trained on (arXiv 2311.08182).

One round, with the round's model M, which the round before trained, and a pool of prompts with completions:

    propose     M reads the whole pool; k items are taken by k-center: each the farthest, by M's mean hidden state, from
                all taken before it
    signal      that distance
    train       SFT of the base model on everything taken so far

Round r0000 is SFT on `num_first` items drawn by lot, the same for every method. Constants are those of the authors'
code (OFA-Sys/DiverseEvol, commit a22e952).

Controls: `method` takes items by lot, or those of which M is least sure (confidence, margin, entropy);
`states_of="base"` reads the pool with the base model, which makes a one-shot k-center of a single round with
`num_picks` for the whole budget.

Beside each SFT set stands the Vendi score of what was taken, on the base model's mean hidden states, as the paper's.

Differences from the authors' code:

1.  Rows are read in batches, with a mask; theirs one by one. The means are equal to float rounding.
2.  The first pool comes from `rng_seed`; theirs is drawn anew each run.
3.  With `token_budget` every round after r0000 trains on the same number of tokens, so that they differ in data alone;
    theirs train 3 epochs of what there is, so that later rounds also have more steps. Steps are told with each
    checkpoint.
4.  Rows are cut at `training.sft.max_length`, in training and when they are read; theirs at 512 tokens in both.
5.  Rows are asked with the experiment's chat template, in place of Alpaca's.
"""

from collections.abc import Callable
from contextlib import closing
from typing import ClassVar, Literal, Protocol, Self

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from lance_assets.algorithms.filters.cleaning import mark_unusable
from lance_assets.algorithms.selection.pool_selection import PoolMethod, draw_first_pool, select_from_pool
from lance_assets.prompts import build_messages
from lance_assets.recipes import steps
from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.axes import AxisSettings, Losses, StartsFrom, keep_rounds
from lance_assets.recipes.steps import seeds_as_sft_rows
from lance_assets.records import RAW_GENERATIONS, SFT_SET

SCORE_OF_METHOD = {"least_confidence": "mean_max_logit", "margin": "mean_margin", "entropy": "mean_entropy"}
"""Which of the reader's measures a method picks by."""


class StateReader(Protocol):
    """Reads rows with a model; `resources.engines.transformers.model_states.ModelReader`."""

    def embed(self, rows: list) -> np.ndarray:
        """Mean hidden states, float32 [num_rows, hidden]."""
        ...

    def measure_confidence(self, rows: list) -> pl.DataFrame:
        """How sure the model is of each row."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


class DiverseEvolSettings(AxisSettings):
    """DiverseEvol's parameters; the defaults are the authors' constants. Nothing is sampled."""

    usable_losses: ClassVar[tuple[Losses, ...]] = ("sft",)

    starts_from: StartsFrom = "base"
    trains_on: Literal["all"] = Field(
        "all", description="Everything taken so far: what the training set lacks would be taken again."
    )
    losses: Losses = "sft"
    num_first: int = Field(100, ge=1, description="Items drawn by lot for r0000.")
    num_picks: int = Field(100, ge=1, description="Items taken in each round (k).")
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
    def has_reviews(self) -> bool:
        """Nothing is reviewed: distance is the signal."""
        return False


SETTINGS = DiverseEvolSettings
ROLES = ()
ROLE_OF_STAGE: dict[str, str] = {}
SETTINGS_OF_JUDGING = ()
READS_STATES = True
"""raw_generations reads rows with a model, cut where training cuts them."""
REPORTS_VENDI = True
"""Each SFT set's Vendi score is told, on the base model's states."""
SETTINGS_OF_STEP: dict[str, tuple[str, ...]] = {
    "raw_generations": ("num_picks", "method", "states_of"),
    "sft_set": ("num_first", "trains_on"),
    "preference_pairs": ("losses",),
    "checkpoint": ("starts_from",),
}

review = steps.review_without_scores
build_pairs = steps.build_no_pairs


def build_seed_set(
    file_seeds: pl.DataFrame, _: dict[str, pl.DataFrame], *, settings: DiverseEvolSettings, identity: RoundIdentity
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The pool, the same in every round."""
    del settings, identity
    return file_seeds, {"num_pool": len(file_seeds)}


def start_sft_set(
    seeds: pl.DataFrame, eft: pl.DataFrame, *, settings: DiverseEvolSettings, identity: RoundIdentity
) -> pl.DataFrame:
    """The first items, drawn by lot, and the EFT rows where the experiment has them. Schema `SFT_SET`."""
    first = draw_first_pool(len(seeds), settings.num_first, identity.rng_seed)
    return pl.concat([seeds_as_sft_rows(seeds[first], round_key=identity.round_key), eft])


def generate(
    seeds: pl.DataFrame,
    *,
    settings: DiverseEvolSettings,
    identity: RoundIdentity,
    trained: pl.DataFrame,
    read_states: Callable[..., StateReader],
    **_: object,
) -> pl.DataFrame:
    """The items taken in this round, in the order of taking, schema `RAW_GENERATIONS`.

    Raises:
        ValueError: fewer items are left than `num_picks`.
    """
    is_chosen = seeds["row_id"].is_in(trained["source_id"].implode()).to_numpy()
    rows = [(build_messages(identity.prompt_profile, p), c) for p, c in seeds.select("prompt", "completion").rows()]
    vectors, scores = None, None
    if settings.method != "random":
        with closing(read_states(of_base=settings.states_of == "base")) as reader:
            if settings.method == "k_center":
                vectors = reader.embed(rows)
            else:
                scores = reader.measure_confidence(rows)[SCORE_OF_METHOD[settings.method]].to_numpy()
    taken = select_from_pool(
        settings.method,
        vectors=vectors,
        scores=scores,
        is_chosen=is_chosen,
        num_picks=settings.num_picks,
        rng_seed=identity.rng_seed,
    )
    values = [None] * len(taken.places) if taken.values is None else taken.values.tolist()
    return _record_picks(seeds[taken.places].to_dicts(), values)


def _record_picks(picked: list[dict], values: list[float | None]) -> pl.DataFrame:
    """Items in the order of taking, each with what it was taken by, schema `RAW_GENERATIONS`."""
    blank: dict = dict.fromkeys(RAW_GENERATIONS.names())
    rows_out = [
        blank
        | {"row_id": row["row_id"], "kind": "pool_row", "seed_id": row["row_id"], "parent_id": row["row_id"]}
        | {"sample_number": place, "prompt": row["prompt"], "completion": row["completion"], "value": value}
        | {"raw_text": row["completion"], "finish_reason": "stop", "prompt_tokens": 0, "completion_tokens": 0}
        for place, (row, value) in enumerate(zip(picked, values, strict=True))
    ]
    return pl.DataFrame(rows_out, schema=RAW_GENERATIONS)


def clean(
    raw_generations: pl.DataFrame,
    seeds: pl.DataFrame,
    *,
    settings: DiverseEvolSettings,
    is_evaluation_prompt: Callable[[str], bool],
) -> pl.DataFrame:
    """Drop evaluation prompts alone: the pool is people's. Schema `CLEANED_SET`."""
    del settings
    return mark_unusable(raw_generations, seeds.clear(), is_evaluation_prompt=is_evaluation_prompt)


def build_sft_set(
    reviewed: pl.DataFrame, earlier: pl.DataFrame, *, settings: DiverseEvolSettings, round_key: str
) -> pl.DataFrame:
    """This round's items, then those taken before. Schema `SFT_SET`."""
    kept = keep_rounds(earlier, trains_on=settings.trains_on, round_key=round_key)
    return pl.concat([seeds_as_sft_rows(reviewed, round_key=round_key), kept]).cast(SFT_SET)
