"""One LanceDB table that several processes write at once, on a disk or in a bucket, and the index of its vectors.

LanceDB refuses a commit that conflicts with one made meanwhile, and it is tried again. A table on a disk is made in a
folder of its own that is then renamed; in a bucket LanceDB's own creation is refused where there is one. Every error
says where it happened and what to do. A table carries the number of its format, so that one written by a newer version
of the project is refused rather than misread.

Up to `FLAT_ROWS` rows there is no index: the search is exact, and its cost is a matrix product. Above it the index is
IVF_FLAT, whose only loss is rows in partitions that are not probed; above `PQ_ROWS` it is IVF_PQ, which reads a 32nd of
the bytes and refines the best candidates by their full vectors. Partitions are cells of k-means; their number grows
with the square root of the rows, and so does what a query reads.
"""

import math
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import polars as pl

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.db import DBConnection
    from lancedb.table import Table

MAX_ATTEMPTS = 20
"""Attempts of one write while others commit first; LanceDB makes up to ten of its own within each."""
FORMAT = 1
"""The format of the tables this version writes; a table without a number is of format 1."""
_FORMAT_KEY = b"lance_on_dagster_format"
# LanceDB has no class for conflicts: they are a RuntimeError with these words.
_CONFLICT = re.compile(r"conflict|incompatible transaction|concurrent", re.IGNORECASE)
# Nor for a table that is not there, or is there already: they are a ValueError.
_MISSING, _TAKEN = "was not found", "already exists"
FLAT_ROWS = 50_000
"""Rows up to which the search is exact."""
PQ_ROWS = 2_000_000
"""Rows above which vectors are compressed: 3 GiB of float32 at 384 dimensions do not stay in memory beside a model."""
TRAINED_ROWS_A_PARTITION = 40
"""Rows of the sample, for each partition, by which the cells of IVF_FLAT are trained; LanceDB's 256 are nearly all rows
of a table of 100,000, and find no more neighbours."""
TRAINING_STEPS = 6
"""Steps of k-means over them; LanceDB makes 50."""
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
_Result = TypeVar("_Result")


class HistoryError(RuntimeError):
    """The history cannot be read or written, or holds vectors that cannot be compared."""


@dataclass(frozen=True)
class LanceTable:
    """A table by its place; it need not exist."""

    uri: Path | str
    """The folder of the LanceDB database, or its address in an object store, such as `s3://bucket/history.lancedb`."""
    name: str
    """The table's."""
    remedy: str
    """What to do when it is corrupt."""

    @property
    def place(self) -> str:
        """The table's folder or address, for a person."""
        return f"{self.uri}/{self.name}.lance"

    def open(self) -> "Table | None":
        """The newest version, or None where nothing was ever written.

        Raises:
            HistoryError: it was written by a newer version of the project.
        """
        if isinstance(self.uri, Path) and not self._find_folder(self.uri).exists():
            return None
        try:
            table = connect(self.uri).open_table(self.name)
        except ValueError as error:
            if isinstance(self.uri, str) and _MISSING in str(error):
                return None
            raise
        found = int((table.schema.metadata or {}).get(_FORMAT_KEY, FORMAT))
        if found > FORMAT:
            raise HistoryError(
                f"{self.place} was written in format {found}, this version of the project knows format {FORMAT}: "
                "upgrade the project, or use another data root"
            )
        return table

    def create(self, schema: "pa.Schema") -> "Table":
        """Make the empty table, unless another process has made it meanwhile."""
        numbered = schema.with_metadata({**(schema.metadata or {}), _FORMAT_KEY: str(FORMAT)})
        if isinstance(self.uri, Path):
            self._create_folder(self.uri, numbered)
        else:
            try:
                connect(self.uri).create_table(self.name, schema=numbered, mode="create")
            except ValueError as error:
                if _TAKEN not in str(error):
                    raise
        table = self.open()
        assert table is not None
        return table

    def _create_folder(self, uri: Path, schema: "pa.Schema") -> None:
        """On a disk LanceDB's own creation, done by two processes at once, overwrites what one has already inserted."""
        making, folder = uri / f".making-{self.name}-{os.getpid()}", self._find_folder(uri)
        # A process with this number may have been killed here.
        shutil.rmtree(making, ignore_errors=True)
        try:
            connect(making).create_table(self.name, schema=schema, mode="create")
            try:
                # A folder cannot be renamed onto one that holds something: of two processes one wins, and the other
                # takes its table.
                (making / folder.name).rename(folder)
            except OSError:
                if not folder.exists():
                    raise
        finally:
            shutil.rmtree(making, ignore_errors=True)

    def set_aside(self) -> Path | None:
        """Let a table that cannot be read make room for a new one: a folder is moved, in an object store it is removed.

        Returns:
            Where it is now; None where there was none, or where it was removed.
        """
        if isinstance(self.uri, str):
            connect(self.uri).drop_table(self.name, ignore_missing=True)
            return None
        folder = self._find_folder(self.uri)
        if not folder.exists():
            return None
        names = (folder.with_name(f"{self.name}.damaged-{number}") for number in range(1, 10_000))
        return folder.rename(next(name for name in names if not name.exists()))

    def _find_folder(self, uri: Path) -> Path:
        return uri / f"{self.name}.lance"

    def optimize(self, keep_seconds: float) -> None:
        """Merge small files, take new rows into the indices, and delete what was replaced `keep_seconds` ago.

        A version that was the newest one within that time is kept, however long before it was written: who began to
        read since then reads on. One that began earlier and still reads an old version would fail.

        Raises:
            ValueError: keep_seconds is not above 0.
            HistoryError: the table cannot be written.
        """
        if not keep_seconds > 0:
            raise ValueError(f"keep_seconds must be above 0, got {keep_seconds}")

        def optimize() -> None:
            table = self.open()
            if table is not None:
                table.optimize(cleanup_older_than=_find_oldest_kept(table, keep_seconds))

        self.retry(optimize, doing="compact")

    def retry(self, write: Callable[[], _Result], *, doing: str) -> _Result:
        """Do a write, again while other processes commit first.

        Raises:
            HistoryError: it failed for another reason, or too often.
        """
        with self.explain(doing):
            for attempt in range(MAX_ATTEMPTS):
                try:
                    return write()
                except RuntimeError as error:
                    if isinstance(error, HistoryError) or not _CONFLICT.search(str(error)):
                        raise
                    if attempt == MAX_ATTEMPTS - 1:
                        raise
                    # The pause is random and grows, so that writers that met once do not meet again.
                    time.sleep(random.uniform(0.01, 0.05) * (attempt + 1))
        raise AssertionError("every attempt returns or raises")

    @contextmanager
    def explain(self, doing: str) -> Iterator[None]:
        """Say where and what to do for errors of LanceDB, which are RuntimeError, OSError or ValueError."""
        try:
            yield
        except HistoryError:
            raise
        except (RuntimeError, OSError, ValueError) as error:
            if isinstance(error, RuntimeError) and _CONFLICT.search(str(error)):
                remedy = f"other processes wrote first {MAX_ATTEMPTS} times: run the step again when they are done"
            elif isinstance(self.uri, str):
                remedy = f"does the store answer, and do the credentials allow it? If it is corrupt, {self.remedy}"
            elif re.search(r"permission denied|read-only file system", str(error), re.IGNORECASE):
                remedy = "make the folder and all in it writable for this user, and run the step again"
            elif re.search(r"no space left|os error 28", str(error), re.IGNORECASE):
                folder = self._find_folder(self.uri)
                free = shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free
                remedy = f"the disk is full, {free} bytes free: free some space, and run the step again"
            else:
                remedy = f"the table is locked or corrupt: {self.remedy}"
            raise HistoryError(f"cannot {doing} in {self.place}: {remedy} ({error})") from error


def connect(uri: Path | str) -> "DBConnection":
    """A LanceDB database; credentials of an object store come by the usual chain of its own tools."""
    import lancedb

    endpoint = find_endpoint(uri) if isinstance(uri, str) else ""
    # Without encryption only where the address of the server says so.
    is_plain = endpoint.startswith("http://")
    return lancedb.connect(uri, storage_options={"endpoint": endpoint, "allow_http": "true"} if is_plain else None)


def find_endpoint(address: str) -> str:
    """The server with the S3 API that an address is on; empty for Amazon's own, and for another kind of store."""
    if not address.startswith("s3"):
        return ""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def _find_oldest_kept(table: "Table", keep_seconds: float) -> timedelta:
    """The age from which on versions of a table were replaced `keep_seconds` ago or earlier.

    LanceDB goes by when a version was written, and one that was written long ago may be the newest until now. Merging
    takes time before it deletes, so that one is kept by `keep_seconds` more.
    """
    # LanceDB gives local times without a zone.
    ages = [time.time() - version["timestamp"].timestamp() for version in table.list_versions()]
    newest_then = min((age for age in ages if age >= keep_seconds), default=keep_seconds)
    return timedelta(seconds=newest_then + keep_seconds)


def read_width(schema: "pa.Schema") -> int:
    """How many numbers a vector of a table has."""
    return int(schema.field("vector").type.list_size)


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
        config: IvfFlat | IvfPq = IvfFlat(
            distance_type="cosine",
            num_partitions=num_partitions,
            sample_rate=TRAINED_ROWS_A_PARTITION,
            max_iterations=TRAINING_STEPS,
        )
    else:
        width = read_width(table.schema)
        num_parts = next(parts for parts in range(max(1, width // NUMBERS_A_CODE), 0, -1) if width % parts == 0)
        # Its codes are trained by the same settings, and were measured with LanceDB's own.
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
        # A stored vector is nearest to itself, so the farther of the two found is the nearest other one.
        second = found.group_by("query_index").agg(pl.col("_distance").max()).sort("query_index")
        return second["_distance"].to_numpy()

    # Distances are compared and not rows, since equally near rows may come in any order.
    return float((find(search) <= find(Search("flat")) + 1e-6).mean())
