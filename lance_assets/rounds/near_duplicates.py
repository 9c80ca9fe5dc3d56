"""A round's near-duplicates: its kept texts against all rounds before it, then against each other, in three tiers."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from lance_assets.algorithms.filters.cleaning import mark_dropped
from lance_assets.algorithms.similarity.decontamination import normalise_text
from lance_assets.algorithms.similarity.lexical_pairs import find_lexical_pairs
from lance_assets.algorithms.similarity.near_duplicates import choose_survivors, find_exact_pairs
from lance_assets.algorithms.similarity.similar_pairs import find_similar_pairs
from lance_assets.records import NEAR_DUPLICATES
from lance_assets.rounds.round import Round
from lance_assets.settings.experiment import NearDuplicateSettings

COMPARED_TOGETHER = (("new_prompt",), ("named_prompt",), ("completion", "degraded_completion"))
"""Kinds whose texts are compared, with each other and with earlier rounds, in this order; others may well be alike."""

TEXTS = pl.Schema({"row_id": pl.String, "round": pl.String, "text": pl.String})


@dataclass(frozen=True)
class Deduplicated:
    """What comparing a round with itself and all rounds before gave."""

    cleaned: pl.DataFrame
    """The cleaned set with further drops, schema `CLEANED_SET`."""
    pairs: pl.DataFrame
    """Every pair of like texts, schema `NEAR_DUPLICATES`."""
    kept: pl.DataFrame
    """The rows that stay: row_id, text."""
    vectors: np.ndarray
    """Their vectors, float32 [num_kept, dim], L2-normalised."""


def text_to_compare() -> pl.Expr:
    """What of a candidate is compared: a prompt that a model wrote, or a prompt with its completion."""
    return (
        pl.when(pl.col("kind").is_in(["new_prompt", "named_prompt"]))
        .then("prompt")
        .otherwise(pl.col("prompt") + "\n" + pl.col("completion"))
    )


def list_texts(cleaned: pl.DataFrame, key: str) -> pl.DataFrame:
    """The kept texts of a cleaned set, schema `TEXTS`, by row id."""
    kept = cleaned.filter(pl.col("drop_reason").is_null())
    return kept.select("row_id", round=pl.lit(key, pl.String), text=text_to_compare()).cast(TEXTS).sort("row_id")


def name_pairs(found: pl.DataFrame, left: pl.DataFrame, right: pl.DataFrame, tier: str) -> pl.DataFrame:
    """Pairs of positions (left, right, similarity) as pairs of rows, schema `NEAR_DUPLICATES`."""
    rows = left.select(pl.all().gather(found["left"]))
    others = right.select(pl.all().gather(found["right"]))
    return pl.DataFrame(
        {
            "row_id": rows["row_id"],
            "other_id": others["row_id"],
            "other_round": others["round"],
            "tier": [tier] * len(found),
            "similarity": found["similarity"],
            "text": rows["text"],
            "other_text": others["text"],
        },
        schema=NEAR_DUPLICATES,
    )


def find_equal(texts: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """Positions of equal texts after normalisation: each row with the first of its equals in an earlier round."""
    first: dict[str, int] = {}
    for position, text in enumerate(earlier["text"]):
        first.setdefault(normalise_text(text), position)
    found = [
        (row, first[normal], 1.0) for row, text in enumerate(texts["text"]) if (normal := normalise_text(text)) in first
    ]
    return pl.DataFrame(found, schema={"left": pl.Int64, "right": pl.Int64, "similarity": pl.Float64}, orient="row")


def compare_with_earlier(this_round: Round, texts: pl.DataFrame, vectors: np.ndarray) -> pl.DataFrame:
    """Pairs of this round's texts with texts that earlier rounds kept; by embedding the nearest one of each row."""
    settings, history = this_round.plan.settings.near_duplicates, this_round.platform.history
    earlier = pl.concat(
        [texts.clear(), *(list_texts(this_round.read("cleaned_set", key), key) for key in this_round.earlier_keys)]
    )
    pairs = [pl.DataFrame(schema=NEAR_DUPLICATES)]
    if settings.exact:
        pairs.append(name_pairs(find_equal(texts, earlier), texts, earlier, "exact"))
    if settings.lexical_threshold is not None:
        lexical = find_lexical_pairs(
            texts["text"].to_list(), threshold=settings.lexical_threshold, against=earlier["text"].to_list()
        )
        pairs.append(name_pairs(lexical, texts, earlier, "lexical"))
    if settings.embedding_threshold is not None:
        nearest = history.find_nearest(
            vectors,
            experiment=this_round.plan.name,
            before_round=this_round.key,
            model_hash=this_round.embedder.model_hash,
        )
        named = pl.concat([texts.select("row_id", "text"), nearest], how="horizontal").drop_nulls("nearest_id")
        named = named.rename({"nearest_id": "other_id", "nearest_round": "other_round"}).join(
            earlier.select(other_id="row_id", other_text="text"), on="other_id", how="left", maintain_order="left"
        )
        pairs.append(named.with_columns(tier=pl.lit("embedding")).select(NEAR_DUPLICATES.names()).cast(NEAR_DUPLICATES))
    return pl.concat(pairs)


def compare_within(settings: NearDuplicateSettings, texts: pl.DataFrame, vectors: np.ndarray) -> pl.DataFrame:
    """Pairs of like texts of one round, each naming the row with the smaller id as the other."""
    pairs = [pl.DataFrame(schema=NEAR_DUPLICATES)]
    if settings.exact:
        exact = find_exact_pairs(texts["row_id"].to_list(), texts["text"].to_list())
        named = exact.join(texts.select("row_id", "text"), on="row_id", maintain_order="left").join(
            texts.select(other_id="row_id", other_round="round", other_text="text"),
            on="other_id",
            maintain_order="left",
        )
        pairs.append(named.select(NEAR_DUPLICATES.names()))
    if settings.lexical_threshold is not None:
        lexical = find_lexical_pairs(texts["text"].to_list(), threshold=settings.lexical_threshold)
        pairs.append(
            name_pairs(lexical.select(left="right", right="left", similarity="similarity"), texts, texts, "lexical")
        )
    if settings.embedding_threshold is not None:
        similar = find_similar_pairs(vectors, threshold=settings.embedding_threshold).pairs
        pairs.append(
            name_pairs(similar.select(left="right", right="left", similarity="similarity"), texts, texts, "embedding")
        )
    return pl.concat(pairs)


def compare_kept(this_round: Round, kept: pl.DataFrame) -> pl.DataFrame:
    """All pairs of like texts that kept rows of a cleaned set have, with each other and with earlier rounds."""
    texts = list_texts(kept, this_round.key)
    vectors = this_round.embed(texts["text"].to_list())
    within = compare_within(this_round.plan.settings.near_duplicates, texts, vectors)
    return pl.concat([compare_with_earlier(this_round, texts, vectors), within])


def read_thresholds(settings: NearDuplicateSettings, tolerance: float = 0.0) -> dict[str, float]:
    """The threshold of each tier that is on, cosines with a tolerance; equal texts have the similarity 1."""
    bars = {
        "exact": 0.0 if settings.exact else None,
        "lexical": settings.lexical_threshold,
        "embedding": None if settings.embedding_threshold is None else settings.embedding_threshold + tolerance,
    }
    return {tier: bar for tier, bar in bars.items() if bar is not None}


def drop_near_duplicates(this_round: Round, cleaned: pl.DataFrame) -> Deduplicated:
    """Drop texts like those of earlier rounds, then new prompts like each other, then completions like each other.

    In this order a row is compared only with rows that stay: what hangs on a dropped prompt goes before completions
    are compared.
    """
    settings = this_round.plan.settings.near_duplicates
    thresholds = read_thresholds(settings)
    texts = list_texts(cleaned, this_round.key)
    vectors = this_round.embed(texts["text"].to_list())
    compared = cleaned.filter(pl.col("kind").is_in([kind for kinds in COMPARED_TOGETHER for kind in kinds]))["row_id"]
    is_compared = texts["row_id"].is_in(compared.implode())
    rows = texts.filter(is_compared)
    found = [compare_with_earlier(this_round, rows, vectors[is_compared.to_numpy()])]
    dropped = choose_survivors(rows["row_id"].to_list(), found[0], thresholds=thresholds)
    cleaned = mark_dropped(cleaned, dropped, reason="like_history")
    for kinds in COMPARED_TOGETHER:
        kept = cleaned.filter(pl.col("drop_reason").is_null() & pl.col("kind").is_in(kinds))["row_id"]
        is_in = texts["row_id"].is_in(kept.implode())
        rows = texts.filter(is_in)
        found.append(compare_within(settings, rows, vectors[is_in.to_numpy()]))
        dropped = choose_survivors(rows["row_id"].to_list(), found[-1], thresholds=thresholds)
        cleaned = mark_dropped(cleaned, dropped, reason="like_in_round")
    stays = texts["row_id"].is_in(cleaned.filter(pl.col("drop_reason").is_null())["row_id"].implode())
    pairs = pl.concat(found).sort("row_id", "other_id", "tier")
    return Deduplicated(cleaned, pairs, texts.filter(stays).drop("round"), vectors[stays.to_numpy()])
