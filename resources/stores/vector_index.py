"""Which index a table of vectors has, by its size, and how much of the exact search it finds.

Up to `FLAT_ROWS` rows none: the search is exact, and its cost is a matrix product. Above it IVF_FLAT, whose only loss
is rows in partitions that are not probed; above `PQ_ROWS` IVF_PQ, which reads a 32nd of the bytes and refines
the best candidates by their full vectors. Partitions are cells of k-means; their number grows with the square root of
the rows, so that what a query reads grows with the square root too.
"""

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from lancedb.table import Table

FLAT_ROWS = 50_000
"""Rows up to which the search is exact."""
PQ_ROWS = 2_000_000
"""Rows above which vectors are compressed: 3 GiB of float32 at 384 dimensions do not stay in memory beside a model."""
NUM_PROBES = 8
"""Partitions a query reads."""
NUMBERS_A_CODE = 8
"""Numbers of a vector that IVF_PQ keeps as one byte: a 32nd of the bytes of float32."""
REFINE_FACTOR = 10
"""How many times as many candidates as wanted are compared by their full vectors, with IVF_PQ."""
MAX_UNINDEXED_RATE = 0.5
"""Share of rows added since the index was trained above which it is trained again."""
NUM_SAMPLED = 200
"""Stored vectors whose nearest neighbours measure the recall."""


@dataclass(frozen=True)
class Search:
    """How a table is searched."""

    kind: str
    """"flat", "ivf_flat" or "ivf_pq"."""
    num_probes: int = 0
    """Partitions a query reads; 0 for flat."""

    def prepare(self, query: Any) -> Any:
        """Set a LanceDB query up."""
        if self.kind == "flat":
            return query.bypass_vector_index()
        query = query.nprobes(self.num_probes)
        return query.refine_factor(REFINE_FACTOR) if self.kind == "ivf_pq" else query


@dataclass(frozen=True)
class IndexHealth:
    """A table's size and index after maintenance."""

    num_rows: int
    """Rows of all experiments and rounds."""
    num_fragments: int
    """Data files' groups; compaction keeps them few."""
    num_versions: int
    """Versions of the table that are kept."""
    index: str
    """"flat", "ivf_flat" or "ivf_pq"."""
    num_partitions: int
    """Of the index; 0 for flat."""
    measured_recall: float
    """Share of sampled rows whose nearest other row the index finds; 1.0 for flat, by definition."""
    seconds: float
    """What the maintenance took."""


EMPTY = IndexHealth(0, 0, 0, "flat", 0, 1.0, 0.0)


def choose_kind(num_rows: int) -> str:
    """The kind of index a table of so many rows has."""
    if num_rows <= FLAT_ROWS:
        return "flat"
    return "ivf_flat" if num_rows <= PQ_ROWS else "ivf_pq"


def choose_num_partitions(num_rows: int) -> int:
    """Partitions for so many rows: the square root, at least 16."""
    return max(16, math.isqrt(num_rows))


def find_index(table: "Table") -> Any:
    """The index of the vectors as LanceDB lists it, or None."""
    return next((index for index in table.list_indices() if index.columns == ["vector"]), None)


def choose_search(table: "Table", num_searched: int) -> Search:
    """How rows of a table are searched: by its index where it has one and the rows are many, exactly otherwise."""
    index = find_index(table) if num_searched > FLAT_ROWS else None
    return Search("flat") if index is None else Search(_name_kind(index), NUM_PROBES)


def _name_kind(index: Any) -> str:
    return "ivf_pq" if "pq" in str(index.index_type).lower() else "ivf_flat"


def keep_index(table: "Table", *, started: float) -> IndexHealth:
    """Build, replace or drop the index as the number of rows asks, and measure it.

    Args:
        table: with a column `vector`; compacted already, so that an existing index covers the newest rows.
        started: `time.monotonic()` when the maintenance began.
    """
    num_rows, index = table.count_rows(), find_index(table)
    wanted = choose_kind(num_rows)
    if index is not None and wanted == "flat":
        table.drop_index(index.name)
    elif wanted != "flat" and (index is None or _name_kind(index) != wanted or _has_outgrown(table, index, num_rows)):
        _build(table, wanted, choose_num_partitions(num_rows))
    search = choose_search(table, num_rows)
    stats = table.stats()
    return IndexHealth(
        num_rows=num_rows,
        num_fragments=int(stats["fragment_stats"]["num_fragments"]),
        num_versions=len(table.list_versions()),
        index=search.kind,
        num_partitions=0 if search.kind == "flat" else choose_num_partitions(num_rows),
        measured_recall=measure_recall(table, search, num_rows),
        seconds=time.monotonic() - started,
    )


def _has_outgrown(table: "Table", index: Any, num_rows: int) -> bool:
    """Whether the table is much larger than when its partitions were trained."""
    stats = table.index_stats(index.name)
    return stats is not None and stats.num_unindexed_rows > MAX_UNINDEXED_RATE * num_rows


def _build(table: "Table", kind: str, num_partitions: int) -> None:
    from lancedb.index import IvfFlat, IvfPq

    if kind == "ivf_flat":
        config = IvfFlat(distance_type="cosine", num_partitions=num_partitions)
    else:
        width = int(table.schema.field("vector").type.list_size)
        num_parts = next(parts for parts in range(max(1, width // NUMBERS_A_CODE), 0, -1) if width % parts == 0)
        config = IvfPq(distance_type="cosine", num_partitions=num_partitions, num_sub_vectors=num_parts)
    table.create_index("vector", config=config, replace=True)


def measure_recall(table: "Table", search: Search, num_rows: int) -> float:
    """The share of sampled rows whose nearest other row, by exact search, the index finds at the same distance."""
    if search.kind == "flat" or not num_rows:
        return 1.0
    places = np.unique(np.linspace(0, num_rows - 1, NUM_SAMPLED).astype(int))
    column = table.take_offsets(places.tolist()).select(["vector"]).to_arrow().column("vector").combine_chunks()
    vectors = column.values.to_numpy().reshape(len(places), -1)

    def find(how: Search) -> np.ndarray:
        query = how.prepare(table.search(vectors, vector_column_name="vector").distance_type("cosine"))
        found = pl.DataFrame(pl.from_arrow(query.select(["_distance"]).limit(2).to_arrow()))
        second = found.group_by("query_index").agg(pl.col("_distance").max()).sort("query_index")
        return second["_distance"].to_numpy()

    return float((find(search) <= find(Search("flat")) + 1e-6).mean())
