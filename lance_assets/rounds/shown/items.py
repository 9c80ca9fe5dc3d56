"""The evaluation's items that are shown: right and wrong ones, and those that turned since another round."""

import polars as pl

from lance_assets.rounds.report import Rows
from lance_assets.rounds.shown.samples import draw_rows

_ITEM = ("metric", "task", "prompt")
"""What is the same of an item in every round."""


def show_items(items: pl.DataFrame, *, salt: str, num_rows: int = 8) -> Rows:
    """Some greedy items of the checkpoint, right and wrong ones, over the tasks. Schema `EVAL_ITEMS`."""
    # By its prompt, so that each round shows the same items.
    mine = items.filter(model="checkpoint", metric="greedy").with_columns(row_id="prompt")
    drawn = draw_rows(mine, over=("is_correct", "task"), num_rows=num_rows, salt=salt)
    right = int(mine["is_correct"].sum())
    return Rows(
        drawn.with_columns(outcome=pl.when("is_correct").then(pl.lit("right")).otherwise(pl.lit("wrong"))),
        ("outcome", "task", "stratum", "prompt", "answer", "completion"),
        num_rows=num_rows,
        note=f"{len(drawn)} of {len(mine)} greedy items, of which {right} are right, drawn over tasks.",
    )


def find_turned(now: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    """The greedy items of the checkpoint that are right in one of two rounds alone, with both completions.

    Args:
        now: schema `EVAL_ITEMS`.
        before: the same of another round.

    Returns:
        The columns of `EVAL_ITEMS`, `before` (the other round's completion), `was_correct`, and `turned`.
    """
    mine, others = (items.filter(model="checkpoint", metric="greedy") for items in (now, before))
    # Where a prompt is asked twice, its first answer stands for it.
    then = others.unique(_ITEM, keep="first", maintain_order=True).select(
        *_ITEM, pl.col("completion").alias("before"), pl.col("is_correct").alias("was_correct")
    )
    joined = mine.join(then, on=_ITEM, how="inner", maintain_order="left")
    turned = joined.filter(pl.col("is_correct") != pl.col("was_correct"))
    gained, lost = pl.lit("wrong to right"), pl.lit("right to wrong")
    return turned.with_columns(turned=pl.when("is_correct").then(gained).otherwise(lost))


def show_turned(turned: pl.DataFrame, *, key: str, num_rows: int = 10) -> Rows:
    """Some of the items that turned since another round.

    Args:
        turned: as `find_turned` gives them.
        key: the other round.
        num_rows: how many are shown.
    """
    drawn = draw_rows(turned.with_columns(row_id="prompt"), over=("turned", "task"), num_rows=num_rows, salt=key)
    gained = turned.filter(turned="wrong to right").height
    shown = drawn.rename({"before": f"completion in {key}", "completion": "completion now"})
    return Rows(
        shown,
        ("turned", "task", "stratum", "prompt", "answer", f"completion in {key}", "completion now"),
        num_rows=num_rows,
        note=f"Since {key} {gained} greedy items turned right and {len(turned) - gained} wrong; {len(drawn)} of them.",
    )
