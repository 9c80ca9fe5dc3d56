"""What recipes share that train on what a verifier calls right."""

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from lance_assets.recipes.axes import AxisSettings, keep_rounds
from lance_assets.recipes.contract import RoundInputs
from lance_assets.recipes.steps.rows import Generation
from lance_assets.recipes.steps.sets import reviewed_as_sft_rows
from lance_assets.records import SFT_SET

RIGHT_SCORE = 1.0
"""The review score of a right row, of recipes whose only score is the verdict."""


def judge_generations(inputs: RoundInputs[AxisSettings], rows: Sequence[Generation]) -> list[Generation]:
    """Rows with `is_correct` as the verifier finds it; None of one that is cut, empty or unverified."""
    verifier = inputs.verifier
    assert verifier is not None, "the recipe has needs_verifier: checked when the experiment's file is loaded"
    whole = [row for row in rows if row.prompt and row.completion and row.finish_reason == "stop"]
    verdicts = verifier.judge([(row.row_id, row.prompt or "", row.completion or "") for row in whole])
    found = {row.row_id: verdict.is_right for row, verdict in zip(whole, verdicts, strict=True)}
    return [replace(row, is_correct=found[row.row_id]) if row.row_id in found else row for row in rows]


def find_right_rows(reviewed: pl.DataFrame) -> pl.DataFrame:
    """The rows of a reviewed set that the verifier calls right, in order."""
    return reviewed.filter(pl.col("review_score") == RIGHT_SCORE)


def build_right_sft_set(
    inputs: RoundInputs[AxisSettings], reviewed: pl.DataFrame, earlier: pl.DataFrame
) -> pl.DataFrame:
    """This round's right rows, the rows that `trains_on` keeps, and the EFT rows. Schema `SFT_SET`."""
    return join_sft_rows(inputs, find_right_rows(reviewed), earlier)


def join_sft_rows(inputs: RoundInputs[AxisSettings], chosen: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """Chosen rows of this round, the rows that `trains_on` keeps, and the EFT rows. Schema `SFT_SET`."""
    kept = keep_rounds(earlier, trains_on=inputs.settings.trains_on, round_key=inputs.round_key)
    eft = earlier.filter(pl.col("source") == "eft")
    rows = pl.concat([reviewed_as_sft_rows(chosen, round_key=inputs.round_key), kept, eft]).cast(SFT_SET)
    return rows.unique("row_id", maintain_order=True)
