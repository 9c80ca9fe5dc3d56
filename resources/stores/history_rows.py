"""The rows of the history, and the exact search among them."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from resources.stores.vector_index import Search

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.table import Table

MIN_TIES = 4
"""Candidates fetched for a vector at first; more while all of them are equally near."""

NEAREST = pl.Schema({"nearest_id": pl.String, "nearest_round": pl.String, "similarity": pl.Float64})
"""What `find_nearest` gives for each vector; all null where there is nothing to compare with."""


def build_schema(width: int) -> "pa.Schema":
    """The columns of the history, for vectors of `width` numbers."""
    import pyarrow as pa

    names = ("id", "experiment", "round", "row_id", "text", "text_hash", "model_hash")
    return pa.schema([*((name, pa.string()) for name in names), ("vector", pa.list_(pa.float32(), width))])


def read_width(schema: "pa.Schema") -> int:
    """How many numbers a vector of a table has."""
    return int(schema.field("vector").type.list_size)


def replace_surrogates(text: str) -> str:
    r"""A text that UTF-8 can hold: unpaired surrogates, which a broken byte stream leaves, become U+FFFD.

    >>> replace_surrogates("a\ud800b") == "a\ufffdb"
    True
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def check_vectors(vectors: np.ndarray, *, num_rows: int) -> np.ndarray:
    """Return vectors as float32 [num_rows, dim].

    Raises:
        ValueError: another shape, or a vector that is not finite or is zero and has no direction.
    """
    if vectors.ndim != 2 or len(vectors) != num_rows:
        raise ValueError(f"vectors must be [num_rows={num_rows}, dim], got shape {vectors.shape}")
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(vectors, axis=1)
    wrong = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(wrong):
        raise ValueError(f"vectors must be finite and not zero, got {vectors[wrong[0]][:4]}... in row {wrong[0]}")
    return vectors


def build_rows(
    experiment: str, round_key: str, rows: pl.DataFrame, vectors: np.ndarray, *, model_hash: str, width: int
) -> "pa.Table":
    """The rows of a round with their vectors, as the table holds them."""
    import pyarrow as pa

    row_ids, texts = rows["row_id"].to_list(), [replace_surrogates(text) for text in rows["text"]]
    columns = [
        pa.array([f"{experiment}/{round_key}/{row_id}" for row_id in row_ids], pa.string()),
        pa.array([experiment] * rows.height, pa.string()),
        pa.array([round_key] * rows.height, pa.string()),
        pa.array(row_ids, pa.string()),
        pa.array(texts, pa.string()),
        pa.array([hashlib.sha256(text.encode()).hexdigest() for text in texts], pa.string()),
        pa.array([model_hash] * rows.height, pa.string()),
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), width),
    ]
    return pa.Table.from_arrays(columns, schema=build_schema(width))


def search_nearest(
    table: "Table", vectors: np.ndarray, where: str, search: Search, *, num_candidates: int = MIN_TIES
) -> pl.DataFrame:
    """The nearest row of each vector; candidates that are all equally near are fetched again, twice as many.

    A vector for which an index finds nothing, since all rows it looked at are filtered out, is searched exactly.
    """
    query = search.prepare(table.search(vectors, vector_column_name="vector").distance_type("cosine"))
    query = query.where(where, prefilter=True).select(["row_id", "round", "_distance"]).limit(num_candidates)
    found = pl.DataFrame(pl.from_arrow(query.to_arrow()))
    if "query_index" not in found.columns:
        found = found.with_columns(query_index=pl.lit(0, dtype=pl.Int32))
    by_query = found.group_by("query_index").agg(
        is_tied=(pl.col("_distance").max() == pl.col("_distance").min()) & (pl.len() == num_candidates)
    )
    nearest = (
        found.sort("query_index", "_distance", "round", "row_id")
        .unique("query_index", keep="first", maintain_order=True)
        .select(
            pl.col("query_index"),
            pl.col("row_id").alias("nearest_id"),
            pl.col("round").alias("nearest_round"),
            (1.0 - pl.col("_distance").cast(pl.Float64)).clip(-1.0, 1.0).alias("similarity"),
        )
    )
    tied = sorted(by_query.filter("is_tied")["query_index"].to_list())
    unseen = sorted(set(range(len(vectors))) - set(nearest["query_index"].to_list()))
    nearest = nearest.filter(~pl.col("query_index").is_in(tied))
    for places, how, wanted in ((tied, search, 2 * num_candidates), (unseen, Search("flat"), num_candidates)):
        if places:
            again = search_nearest(table, vectors[places], where, how, num_candidates=wanted)
            again = again.with_columns(query_index=pl.Series(places, dtype=nearest.schema["query_index"]))
            nearest = pl.concat([nearest, again.select(nearest.columns)])
    return nearest.sort("query_index").select(NEAREST.names())
