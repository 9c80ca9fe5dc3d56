"""The kept texts of a round: what is compared, what the history in LanceDB has to hold, and how it is rebuilt.

The tables are the truth. What the history holds of a round has to be the kept rows of its `cleaned_set`, with the
vectors of `kept_vectors`. That is looked at before anything is compared with the past, since a search in a history that
lost a round finds nothing and says so of everything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from lance_assets.conversations import show_prompt
from lance_assets.recipes.contract import AnyRecipe
from lance_assets.records import KEPT_VECTORS
from lance_assets.rounds.round import Round
from resources.stores.history import Digest, digest_rows, digest_texts, hash_history_text
from resources.stores.lance_tables import HistoryError

TEXTS = pl.Schema(
    {"row_id": pl.String, "round": pl.String, "text": pl.String, "prompt": pl.String, "completion": pl.String}
)
"""Kept texts; `completion` is null where the prompt alone is compared, and `text` is what is compared as a whole."""


class LostHistoryError(HistoryError):
    """The history does not hold what rounds stored in it."""


def text_to_compare(recipe: AnyRecipe) -> pl.Expr:
    """What of a candidate is compared: a prompt that a model wrote, or a prompt with its completion."""
    return (
        pl.when(pl.col("kind").is_in(recipe.compared_prompts))
        .then("prompt")
        .otherwise(pl.col("prompt") + "\n" + pl.col("completion"))
    )


def list_texts(recipe: AnyRecipe, cleaned: pl.DataFrame, key: str) -> pl.DataFrame:
    """The kept texts of a cleaned set, schema `TEXTS`, by row id; conversations as transcripts."""
    shown = pl.col("prompt").map_elements(show_prompt, return_dtype=pl.String)
    kept = cleaned.filter(pl.col("drop_reason").is_null()).with_columns(shown)
    completion = pl.when(~pl.col("kind").is_in(recipe.compared_prompts)).then("completion")
    columns = {"round": pl.lit(key, pl.String), "text": text_to_compare(recipe), "completion": completion}
    return kept.select("row_id", "prompt", **columns).select(TEXTS.names()).cast(TEXTS).sort("row_id")


def tabulate_vectors(kept: pl.DataFrame, vectors: np.ndarray, *, model_hash: str) -> pl.DataFrame:
    """The vectors of kept rows, schema `KEPT_VECTORS`, by row id.

    Args:
        kept: the rows, with a column `row_id`.
        vectors: float32 [num_rows, dim], one for each row.
        model_hash: the embedding model's.
    """
    if kept.is_empty():
        return pl.DataFrame(schema=KEPT_VECTORS)
    column = pl.Series("vector", np.ascontiguousarray(vectors, dtype=np.float32))
    table = kept.select("row_id", model_hash=pl.lit(model_hash, pl.String)).with_columns(column)
    return table.select(KEPT_VECTORS.names()).cast(KEPT_VECTORS).sort("row_id")


@dataclass(frozen=True)
class Loss:
    """A round of which the history does not hold what was stored."""

    round_key: str
    """The round."""
    what: str
    """What is wrong, in words."""


def read_kept(this_round: Round, key: str) -> tuple[pl.DataFrame, np.ndarray | None, str]:
    """The kept texts of a round by row id, their vectors and the embedding model; no vectors of an older version's.

    Raises:
        OSError: the round has no cleaned_set.
        ValueError: a table is damaged, or its vectors are not those of the rows.
    """
    texts = list_texts(this_round.plan.recipe, this_round.read("cleaned_set", key), key).select("row_id", "text")
    if not this_round.has("kept_vectors", key):
        return texts, None, ""
    stored = this_round.read("kept_vectors", key)
    if stored["row_id"].to_list() != texts["row_id"].to_list():
        raise ValueError(
            f"{this_round.plan.name} {key}: the rows of kept_vectors are not the kept ones of cleaned_set; materialize "
            f"{this_round.plan.name}/cleaned_set for {key} again"
        )
    # NumPy cannot work out a width of -1 where there are no rows.
    vectors = stored["vector"].explode().to_numpy().reshape(len(stored), -1 if len(stored) else 0)
    return texts, vectors, stored["model_hash"][0] if len(stored) else ""


def find_losses(this_round: Round, keys: Sequence[str]) -> list[Loss]:
    """The rounds of which the history does not hold what they stored. Reads the tables and the history once.

    Args:
        this_round: a round of the experiment.
        keys: the rounds that are looked at; each has a cleaned_set.

    Raises:
        HistoryError: the history cannot be read.
        OSError: a round has no cleaned_set.
        ValueError: a table is damaged.
    """
    # A round is the first of its experiment where there is nothing to be lost.
    held, losses = this_round.platform.history.digest_rounds(this_round.plan.name) if keys else {}, []
    for key in keys:
        texts, vectors, model_hash = read_kept(this_round, key)
        ids, hashes = texts["row_id"].to_list(), [hash_history_text(text) for text in texts["text"]]
        there = held.get(key, Digest())
        if vectors is None:
            # An older version kept no vectors beside its tables.
            there, wanted = Digest(there.num_rows, there.texts), digest_texts(ids, hashes)
        else:
            wanted = digest_rows(ids, hashes, [model_hash] * len(ids), vectors)
        if there.num_rows != wanted.num_rows:
            losses.append(Loss(key, f"it holds {there.num_rows} of the {wanted.num_rows} texts of {key}"))
        elif there.texts != wanted.texts:
            losses.append(Loss(key, f"it holds {there.num_rows} texts of {key}, and others than {key} kept"))
        elif there.vectors != wanted.vectors:
            losses.append(Loss(key, f"its vectors of {key} are not those that {key} stored"))
    return losses


def require_history(this_round: Round, keys: Sequence[str]) -> None:
    """Check that the history holds what rounds stored in it.

    Raises:
        LostHistoryError: it does not; the message says of which rounds, and what to do.
        HistoryError, OSError, ValueError: as `find_losses`.
    """
    losses = find_losses(this_round, keys)
    if losses:
        name, uri = this_round.plan.name, this_round.platform.history.uri
        raise LostHistoryError(
            f"the history in {uri} is not what the rounds of {name} stored: {'; '.join(loss.what for loss in losses)}. "
            f"{this_round.key} is not compared with it; lance doctor {name} --fix writes these rounds again from their "
            "tables, then run the step again"
        )


def rebuild_history(this_round: Round, keys: Sequence[str]) -> None:
    """Write rounds of the history again from their tables, with the same vectors.

    Rounds of an older version, which kept no vectors, are embedded again. A history that cannot be read is moved aside
    first, and then holds the rounds of other experiments no more: they are found lost, and are written in the same way.

    Args:
        this_round: a round of the experiment.
        keys: the rounds that are written.

    Raises:
        HistoryError: the history cannot be written.
        OSError: a round has no cleaned_set.
        ValueError: a table is damaged.
    """
    history = this_round.platform.history
    try:
        history.digest_rounds(this_round.plan.name)
    except HistoryError:
        history.set_aside()
    for key in keys:
        texts, vectors, model_hash = read_kept(this_round, key)
        if vectors is None:
            vectors, model_hash = this_round.embed(texts["text"].to_list()), this_round.embedder.model_hash
        history.replace_round(this_round.plan.name, key, texts, vectors, model_hash=model_hash)
    history.maintain()
