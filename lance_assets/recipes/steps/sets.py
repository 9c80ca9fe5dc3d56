"""The sets that recipes share: the seeds of a round, LANCE's filters, and rows to train on."""

from typing import Protocol

import polars as pl

from lance_assets.algorithms.filters.contract import Filter
from lance_assets.algorithms.filters.rules import list_word_filters
from lance_assets.algorithms.selection.pairing import take_seeds
from lance_assets.recipes.axes import AxisSettings
from lance_assets.recipes.contract import RoundInputs
from lance_assets.recipes.steps.reviewing import Rubric, review_rows
from lance_assets.recipes.steps.rows import CleanedRow, build_reviewed_row, build_table, read_kept, read_rows
from lance_assets.recipes.steps.verifying import verifies_alone
from lance_assets.records import PREFERENCE_PAIRS, REVIEWED_SET, SFT_SET, derive_row_id


class TakesSeeds(Protocol):
    """Settings of a recipe that proposes from the file's seeds."""

    @property
    def max_seeds(self) -> int | None:
        """Seeds of a round; None for all."""
        ...


class BoundsWords(Protocol):
    """Settings of a recipe that cleans new prompts and completions as LANCE does."""

    @property
    def min_prompt_words(self) -> int:
        """Shortest new prompt."""
        ...

    @property
    def min_completion_words(self) -> int:
        """Shortest completion."""
        ...

    @property
    def max_words(self) -> int:
        """Longest prompt or completion."""
        ...

    @property
    def rouge_l_threshold(self) -> float:
        """Two texts above it are near-duplicates."""
        ...


def take_all_file_seeds(
    inputs: RoundInputs[object], file_seeds: pl.DataFrame, earlier_reviewed: dict[str, pl.DataFrame]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """All seeds of the file, the same in every round, and their number."""
    return file_seeds, {"num_pool": len(file_seeds)}


def take_file_seeds(
    inputs: RoundInputs[TakesSeeds], file_seeds: pl.DataFrame, earlier_reviewed: dict[str, pl.DataFrame]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """The file's seeds sampled down to `max_seeds`, other ones each round, and counts."""
    number, identity = inputs.settings.max_seeds or max(len(file_seeds), 1), inputs.identity
    taken, left = take_seeds(file_seeds, max_seeds=number, rng_seed=identity.rng_seed, round_key=identity.round_key)
    return taken, {"num_pool": len(file_seeds), "num_not_taken": len(left)}


def filter_by_words(settings: BoundsWords) -> list[Filter]:
    """LANCE's filters, with one upper bound for prompts and completions."""
    return list_word_filters(
        min_prompt_words=settings.min_prompt_words,
        max_prompt_words=settings.max_words,
        min_completion_words=settings.min_completion_words,
        max_completion_words=settings.max_words,
        threshold=settings.rouge_l_threshold,
    )


class ReviewsByRubric(Protocol):
    """Settings of a recipe that has its completions scored by a rubric."""

    @property
    def rubric(self) -> Rubric:
        """What a review is asked for."""
        ...

    @property
    def num_reviews(self) -> int:
        """Reviews of each completion."""
        ...

    @property
    def force_ending(self) -> bool:
        """Whether a review without a score is made to end in one."""
        ...


def score_by_rubric(inputs: RoundInputs[ReviewsByRubric], rows: pl.DataFrame) -> pl.DataFrame:
    """The reviewer on completions, rows as cleaning keeps them. Schema `REVIEWED_SET`."""
    settings, kept = inputs.settings, read_rows(CleanedRow, rows)
    reviews = review_rows(
        inputs.identity,
        inputs.ask,
        kept,
        rubric=settings.rubric,
        num_reviews=0 if verifies_alone(inputs.verifier) else settings.num_reviews,
        force_ending=settings.force_ending,
    )
    return build_table([build_reviewed_row(row, own) for row, own in zip(kept, reviews, strict=True)], REVIEWED_SET)


def review_without_scores(
    inputs: RoundInputs[object], cleaned: pl.DataFrame, seeds: pl.DataFrame, raw_generations: pl.DataFrame
) -> pl.DataFrame:
    """The rows that cleaning kept, for recipes whose signal is no review. Schema `REVIEWED_SET`."""
    return build_table([build_reviewed_row(row) for row in read_kept(cleaned)], REVIEWED_SET)


def build_no_sft_rows(inputs: RoundInputs[object], reviewed: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """No row, for recipes that train by DPO alone after r0000. Schema `SFT_SET`."""
    return pl.DataFrame(schema=SFT_SET)


def build_no_pairs(inputs: RoundInputs[object], reviewed: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """No pair, for recipes that train by SFT alone. Schema `PREFERENCE_PAIRS`."""
    return pl.DataFrame(schema=PREFERENCE_PAIRS)


def seeds_as_sft_rows(seeds: pl.DataFrame, *, round_key: str) -> pl.DataFrame:
    """Seeds as rows to train on, schema `SFT_SET`."""
    return seeds.select(
        "row_id",
        "prompt",
        "completion",
        pl.lit("seed").alias("source"),
        pl.lit(round_key).alias("source_round"),
        pl.col("row_id").alias("source_id"),
        pl.lit(None, pl.Float64).alias("review_score"),
    ).cast(SFT_SET)


def start_sft_set(inputs: RoundInputs[AxisSettings], seeds: pl.DataFrame, eft: pl.DataFrame) -> pl.DataFrame:
    """Round r0000's SFT set: the seeds unless `sft_on_seeds` leaves them out, and the EFT rows. Schema `SFT_SET`."""
    if not inputs.settings.sft_on_seeds:
        return eft
    return pl.concat([seeds_as_sft_rows(seeds, round_key=inputs.round_key), eft])


def reviewed_as_sft_rows(rows: pl.DataFrame, *, round_key: str) -> pl.DataFrame:
    """Rows of a reviewed set as rows to train on, schema `SFT_SET`."""
    ids = [derive_row_id("sft_set", round_key, row_id) for row_id in rows["row_id"]]
    return rows.select(
        pl.Series("row_id", ids, pl.String),
        "prompt",
        "completion",
        pl.lit("generated").alias("source"),
        pl.lit(round_key).alias("source_round"),
        pl.col("row_id").alias("source_id"),
        "review_score",
    ).cast(SFT_SET)
