"""Dropped rows beside the text that each of them is like, with the similarity and the threshold that it is above."""

from collections.abc import Mapping

import polars as pl

LIKE = ("row_id", "drop_reason", "text", "like_text", "likeness", "like_id")
"""The columns that are shown of a dropped row."""


def join_likeness(
    dropped: pl.DataFrame,
    *,
    pairs: pl.DataFrame,
    others: pl.DataFrame,
    thresholds: Mapping[str, Mapping[str, float]],
) -> pl.DataFrame:
    """The dropped rows that are too like a text, each with that text: the columns of `CLEANED_SET` and `LIKE`.

    `likeness` says in words how it was found: the tier, the similarity and the threshold.

    Args:
        dropped: rows of `CLEANED_SET`.
        pairs: schema `NEAR_DUPLICATES`, of the round; it holds the texts of earlier rounds.
        others: columns `row_id`, `prompt` and `completion`, of every row of this round that another may be like.
        thresholds: by drop reason and tier the similarity that a row is dropped above.
    """
    of_earlier = pairs.select(
        "row_id", pl.col("other_id").alias("nearest_id"), pl.col("other_text"), pl.col("other_round")
    ).unique(["row_id", "nearest_id"], keep="first", maintain_order=True)
    here = others.unique("row_id", keep="first", maintain_order=True).select(
        pl.col("row_id").alias("nearest_id"),
        pl.col("prompt").alias("other_prompt"),
        pl.col("completion").alias("other_completion"),
    )
    joined = (
        dropped.filter(pl.col("tier").is_not_null())
        .join(of_earlier, on=["row_id", "nearest_id"], how="left", maintain_order="left")
        .join(here, on="nearest_id", how="left", maintain_order="left")
    )
    told = [
        say_likeness(tier, similarity, thresholds[reason][tier] if tier in thresholds.get(reason, {}) else None)
        for reason, tier, similarity in joined.select("drop_reason", "tier", "similarity").iter_rows()
    ]
    # A prompt is compared with prompts, a completion with completions.
    is_prompt = pl.col("completion").is_null()
    own = pl.when(is_prompt).then(pl.col("other_prompt")).otherwise(pl.col("other_completion"))
    with_round = pl.format("{} in {}", "nearest_id", "other_round")
    return joined.with_columns(
        pl.coalesce("completion", "prompt").alias("text"),
        pl.coalesce(own, "other_text").alias("like_text"),
        pl.Series("likeness", told, pl.String),
        pl.when(pl.col("other_round").is_null()).then(pl.col("nearest_id")).otherwise(with_round).alias("like_id"),
    )


def say_likeness(tier: str, similarity: float | None, threshold: float | None) -> str:
    """How a row was found to be like another, in words.

    >>> say_likeness("lexical", 0.75, 0.7), say_likeness("exact", 1.0, None)
    ('lexical 0.75, above 0.7', 'exact')
    """
    if tier == "exact" or similarity is None:
        return tier
    return f"{tier} {similarity:.4g}" + ("" if threshold is None else f", above {threshold:g}")
