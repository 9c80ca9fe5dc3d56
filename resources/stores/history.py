"""The vectors of every kept text of every round, in one LanceDB table.

A round is replaced in one transaction, so that a reader sees the round before or after, never half of it; a round is
compared with earlier rounds of its experiment only, so that doing it again gives what it gave the first time.
Several processes may write at once: LanceDB refuses a commit that conflicts, and it is tried again.
"""

import hashlib
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import polars as pl

from lance_assets.algorithms.similarity.dividing import RunParts, run_here
from resources.stores.embeddings import check_vectors, replace_surrogates
from resources.stores.files import validate_name, validate_round_key
from resources.stores.lance_tables import (
    EMPTY,
    HistoryError,
    IndexHealth,
    LanceTable,
    Search,
    choose_search,
    keep_index,
    read_width,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.table import Table

QUERIES_PER_CALL = 2048
"""Vectors looked up in one call."""
_TABLE = "history"
MIN_TIES = 4
"""Candidates fetched for a vector at first; more while all of them are equally near."""

NEAREST = pl.Schema({"nearest_id": pl.String, "nearest_round": pl.String, "similarity": pl.Float64})
"""What `find_nearest` gives for each vector; all null where there is nothing to compare with."""


@dataclass(frozen=True)
class Digest:
    """What the rows of a round are known by, in whatever order they lie."""

    num_rows: int = 0
    """How many there are."""
    texts: int = 0
    """The sum of the hashes of row ids with their texts, modulo 2**64."""
    vectors: int = 0
    """The same of row ids with their vectors and the embedding model."""

    def __add__(self, other: "Digest") -> "Digest":
        """That of the rows of both."""
        texts, vectors = (self.texts + other.texts) % _MODULUS, (self.vectors + other.vectors) % _MODULUS
        return Digest(self.num_rows + other.num_rows, texts, vectors)


_MODULUS = 2**64


def digest_rows(
    row_ids: Sequence[str], text_hashes: Sequence[str], model_hashes: Sequence[str], vectors: np.ndarray
) -> Digest:
    """The digest of rows.

    Args:
        row_ids: of the rows.
        text_hashes: as `hash_history_text` gives them, one for each row.
        model_hashes: the embedding model's, one for each row.
        vectors: float32 [num_rows, dim], contiguous.
    """
    parts = [
        _hash_part(row_id, model_hash.encode(), vector.tobytes())
        for row_id, model_hash, vector in zip(row_ids, model_hashes, vectors, strict=True)
    ]
    return digest_texts(row_ids, text_hashes) + Digest(0, 0, sum(parts) % _MODULUS)


def digest_texts(row_ids: Sequence[str], text_hashes: Sequence[str]) -> Digest:
    """The digest of rows whose vectors are not known: that of vectors is 0."""
    parts = [_hash_part(*pair) for pair in zip(row_ids, map(str.encode, text_hashes), strict=True)]
    return Digest(len(row_ids), sum(parts) % _MODULUS, 0)


def hash_history_text(text: str) -> str:
    """SHA-256 of a text as the history keeps it, 64 hex digits."""
    return hashlib.sha256(replace_surrogates(text).encode()).hexdigest()


def _hash_part(row_id: str, *parts: bytes) -> int:
    digest = hashlib.sha256(row_id.encode())
    for part in parts:
        digest.update(b"\0")
        digest.update(part)
    return int.from_bytes(digest.digest()[:8])


@dataclass(frozen=True)
class HistoryStore:
    """One row for each kept text: experiment, round, row_id, text, text_hash, model_hash, vector."""

    uri: Path | str
    """The folder of the LanceDB database, or its address in an object store."""

    def replace_round(
        self, experiment: str, round_key: str, rows: pl.DataFrame, vectors: np.ndarray, *, model_hash: str
    ) -> None:
        """Make `rows` all that the history holds of a round, in one transaction.

        Args:
            experiment: the experiment.
            round_key: the round.
            rows: columns `row_id` (unique) and `text`; may be empty, then the round has none afterwards.
            vectors: float [num_rows, dim], finite and not zero, one for each row.
            model_hash: the embedding model's.

        Raises:
            ValueError: rows and vectors that do not fit, or a name that is not one.
            HistoryError: the table cannot be written, or holds vectors of another width.
        """
        validate_name(experiment, what="experiment")
        validate_round_key(round_key)
        vectors = check_vectors(vectors, num_rows=rows.height)
        if rows["row_id"].n_unique() != rows.height:
            repeated = rows.filter(rows["row_id"].is_duplicated())["row_id"][0]
            raise ValueError(f"row ids of a round must be unique, got {repeated!r} more than once")
        if not rows.height and self._open() is None:
            return

        def replace() -> None:
            # The table is opened in each attempt: after a conflict the rows are merged into the newest version.
            table = self._open() or self._table.create(build_schema(vectors.shape[1]))
            width = read_width(table.schema)
            if rows.height and vectors.shape[1] != width:
                raise HistoryError(
                    f"{self.uri} holds vectors of {width} numbers, got {vectors.shape[1]}: embed with the model "
                    "it was made with, or use another folder for this one"
                )
            merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            merge = merge.when_not_matched_by_source_delete(f"experiment = '{experiment}' AND round = '{round_key}'")
            merge.execute(build_rows(experiment, round_key, rows, vectors, model_hash=model_hash, width=width))

        self._table.retry(replace, doing=f"replace round {round_key} of {experiment!r}")

    def find_nearest(
        self,
        vectors: np.ndarray,
        *,
        experiment: str,
        before_round: str,
        model_hash: str,
        without: Sequence[str] = (),
        run: RunParts = run_here,
    ) -> pl.DataFrame:
        """The most similar text of an earlier round for each vector: by exact search, or by the index of a large table.

        Of equally similar texts the one of the earliest round, then of the smallest row id, is taken.

        Args:
            vectors: float [num_rows, dim], finite and not zero.
            experiment: the experiment whose rounds are searched.
            before_round: rounds strictly before this one are searched.
            model_hash: of the model that made `vectors`.
            without: rounds that are not searched.
            run: looks up `QUERIES_PER_CALL` vectors at a time in a bucket, which every process that it has must be
                allowed to read. A folder, which other machines may lack, is searched here.

        Returns:
            One row for each vector, schema `NEAREST`; similarity is the cosine, in [-1, 1].

        Raises:
            ValueError: vectors or names that are not.
            HistoryError: an earlier round was embedded with another model, or the table cannot be read.
        """
        validate_name(experiment, what="experiment")
        # Round keys have four digits, so that the order of texts is the order of rounds.
        where = f"experiment = '{experiment}' AND round < '{validate_round_key(before_round)}'"
        where += "".join(f" AND round != '{validate_round_key(key)}'" for key in without)
        vectors = check_vectors(vectors, num_rows=len(vectors))
        doing = f"search rounds before {before_round} of {experiment!r}"
        with self._table.explain(doing):
            table = self._open()
            num_earlier = 0 if table is None else table.count_rows(where)
            if table is None or not len(vectors) or not num_earlier:
                return pl.DataFrame({name: [None] * len(vectors) for name in NEAREST}, schema=NEAREST)
            self._check_model(table, where, model_hash=model_hash)
            search = choose_search(table, num_earlier)
            version = table.version
        # Each part reads this version, whatever is written meanwhile.
        look_up = partial(_look_up, self, version=version, where=where, search=search, doing=doing)
        parts = np.split(vectors, range(QUERIES_PER_CALL, len(vectors), QUERIES_PER_CALL))
        return pl.concat((run if self._is_in_bucket else run_here)(look_up, (), parts))

    @property
    def _is_in_bucket(self) -> bool:
        return isinstance(self.uri, str) and urlsplit(self.uri).scheme not in ("file", "local")

    def read_round(self, experiment: str, round_key: str) -> tuple[pl.DataFrame, np.ndarray]:
        """The rows of a round, sorted by row_id; none where it has none.

        Returns:
            Rows with the columns experiment, round, row_id, text, text_hash, model_hash; and their vectors,
            float32 [num_rows, dim].
        """
        validate_name(experiment, what="experiment")
        where = f"experiment = '{experiment}' AND round = '{validate_round_key(round_key)}'"
        with self._table.explain(f"read round {round_key} of {experiment!r}"):
            table = self._open()
            found = (
                build_schema(0).empty_table() if table is None else table.search().where(where).limit(None).to_arrow()
            )
        rows = pl.DataFrame(pl.from_arrow(found)).sort("row_id")
        # NumPy cannot work out a width of -1 where there are no rows.
        vectors = rows["vector"].to_numpy().reshape(rows.height, -1 if rows.height else read_width(found.schema))
        return rows.drop("id", "vector"), np.ascontiguousarray(vectors, dtype=np.float32)

    def digest_rounds(self, experiment: str) -> dict[str, Digest]:
        """What each round of an experiment is known by, in one pass over its rows; a round without rows is left out.

        Raises:
            HistoryError: the table cannot be read.
        """
        where = f"experiment = '{validate_name(experiment, what='experiment')}'"
        columns, found = ["round", "row_id", "text_hash", "model_hash", "vector"], dict[str, Digest]()
        with self._table.explain(f"read the rounds of {experiment!r}"):
            table = self._open()
            if table is None:
                return found
            width = read_width(table.schema)
            for batch in table.search().where(where).select(columns).limit(None).to_batches():
                vectors = batch.column("vector").flatten().to_numpy().reshape(-1, width)
                keys, ids, texts, models = (batch.column(name).to_pylist() for name in columns[:4])
                for key in set(keys):
                    own = [place for place, other in enumerate(keys) if other == key]
                    ours = [[column[place] for place in own] for column in (ids, texts, models)]
                    found[key] = found.get(key, Digest()) + digest_rows(ours[0], ours[1], ours[2], vectors[own])
        return found

    def set_aside(self) -> Path | None:
        """As `LanceTable.set_aside`: its rows are in the tables of the rounds."""
        return self._table.set_aside()

    def maintain(self, *, keep_seconds: float = 3600.0) -> IndexHealth:
        """Compact, delete what was replaced `keep_seconds` ago, keep the index that the size asks for; once a round.

        Returns:
            The table's health, with the recall measured against the exact search.

        Raises:
            ValueError: keep_seconds is not above 0.
            HistoryError: the table cannot be written.
        """
        started = time.monotonic()
        self._table.optimize(keep_seconds)

        def build() -> IndexHealth:
            table = self._table.open()
            return EMPTY if table is None else keep_index(table, started=started)

        return self._table.retry(build, doing="maintain the index")

    @property
    def _table(self) -> LanceTable:
        return LanceTable(
            self.uri,
            _TABLE,
            "lance doctor --fix moves it aside and writes it again from the tables",
        )

    def _open(self) -> "Table | None":
        return self._table.open()

    def _check_model(self, table: "Table", where: str, *, model_hash: str) -> None:
        # chr(39) is the quote, which SQL writes twice within a text.
        different = f"{where} AND model_hash != '{model_hash.replace(chr(39), chr(39) * 2)}'"
        found = table.search().where(different).select(["round", "model_hash"]).limit(None).to_arrow()
        other = pl.DataFrame(pl.from_arrow(found)).sort("round")
        if other.height:
            raise HistoryError(
                f"{self.uri}: round {other['round'][0]} was embedded with model {other['model_hash'][0][:12]}, "
                f"this one with {model_hash[:12]}, and their vectors cannot be compared: materialize cleaned_set of "
                "the earlier rounds again, or set the experiment's embedder back"
            )


def build_schema(width: int) -> "pa.Schema":
    """The columns of the history, for vectors of `width` numbers."""
    import pyarrow as pa

    names = ("id", "experiment", "round", "row_id", "text", "text_hash", "model_hash")
    return pa.schema([*((name, pa.string()) for name in names), ("vector", pa.list_(pa.float32(), width))])


def build_rows(
    experiment: str, round_key: str, rows: pl.DataFrame, vectors: np.ndarray, *, model_hash: str, width: int
) -> "pa.Table":
    """The rows of a round with their vectors, as the table holds them."""
    import pyarrow as pa

    row_ids, texts = rows["row_id"].to_list(), [replace_surrogates(text) for text in rows["text"]]
    columns = [
        # Rows are merged by one column, so this one holds all three names.
        pa.array([f"{experiment}/{round_key}/{row_id}" for row_id in row_ids], pa.string()),
        pa.array([experiment] * rows.height, pa.string()),
        pa.array([round_key] * rows.height, pa.string()),
        pa.array(row_ids, pa.string()),
        pa.array(texts, pa.string()),
        pa.array([hash_history_text(text) for text in texts], pa.string()),
        pa.array([model_hash] * rows.height, pa.string()),
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), width),
    ]
    return pa.Table.from_arrays(columns, schema=build_schema(width))


def _look_up(
    store: HistoryStore, vectors: np.ndarray, *, version: int, where: str, search: Search, doing: str
) -> pl.DataFrame:
    """The nearest rows of some vectors in a version of the table, in whatever process.

    Raises:
        HistoryError: the table cannot be read.
    """
    with store._table.explain(doing):
        table = store._open()
        if table is None:
            raise HistoryError(f"{store.uri} has no history on {platform.node()}: can that machine read the bucket?")
        table.checkout(version)
        return search_nearest(table, vectors, where, search)


def search_nearest(
    table: "Table", vectors: np.ndarray, where: str, search: Search, *, num_candidates: int = MIN_TIES
) -> pl.DataFrame:
    """The nearest row of each vector; candidates that are all equally near are fetched again, twice as many.

    A vector for which an index finds nothing, since all rows it looked at are filtered out, is searched exactly.
    """
    query = search.prepare(table.search(vectors, vector_column_name="vector").distance_type("cosine"))
    query = query.where(where, prefilter=True).select(["row_id", "round", "_distance"]).limit(num_candidates)
    found = pl.DataFrame(pl.from_arrow(query.to_arrow()))
    # LanceDB leaves the column out where it is asked for one vector.
    if "query_index" not in found.columns:
        found = found.with_columns(query_index=pl.lit(0, dtype=pl.Int32))
    # Where all candidates are equally near, the one that the rule takes may lie beyond them.
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
            # Rounding may lead a little out of the range of a cosine.
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
