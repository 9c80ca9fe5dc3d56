"""The vectors of every kept text of every round, in one LanceDB table.

A round is replaced in one transaction, so that a reader sees the round before or after, never half of it; a round is
compared with earlier rounds of its experiment only, so that doing it again gives what it gave the first time.
Several processes may write at once: LanceDB refuses a commit that conflicts, and it is tried again.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from resources.stores.history_rows import NEAREST, build_rows, build_schema, check_vectors, read_width, search_nearest
from resources.stores.lance_tables import HistoryError, LanceTable
from resources.stores.tables import validate_name, validate_round_key
from resources.stores.vector_index import EMPTY, IndexHealth, choose_search, keep_index

if TYPE_CHECKING:
    from lancedb.table import Table

QUERIES_PER_CALL = 2048
"""Vectors looked up in one call."""
_TABLE = "history"


@dataclass(frozen=True)
class HistoryStore:
    """One row for each kept text: experiment, round, row_id, text, text_hash, model_hash, vector."""

    uri: Path
    """The folder of the LanceDB database."""

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

    def find_nearest(self, vectors: np.ndarray, *, experiment: str, before_round: str, model_hash: str) -> pl.DataFrame:
        """The most similar text of an earlier round for each vector: by exact search, or by the index of a large table.

        Of equally similar texts the one of the earliest round, then of the smallest row id, is taken.

        Args:
            vectors: float [num_rows, dim], finite and not zero.
            experiment: the experiment whose rounds are searched.
            before_round: rounds strictly before this one are searched.
            model_hash: of the model that made `vectors`.

        Returns:
            One row for each vector, schema `NEAREST`; similarity is the cosine, in [-1, 1].

        Raises:
            ValueError: vectors or names that are not.
            HistoryError: an earlier round was embedded with another model, or the table cannot be read.
        """
        validate_name(experiment, what="experiment")
        where = f"experiment = '{experiment}' AND round < '{validate_round_key(before_round)}'"
        vectors = check_vectors(vectors, num_rows=len(vectors))
        with self._table.explain(f"search rounds before {before_round} of {experiment!r}"):
            table = self._open()
            num_earlier = 0 if table is None else table.count_rows(where)
            if table is None or not len(vectors) or not num_earlier:
                return pl.DataFrame({name: [None] * len(vectors) for name in NEAREST}, schema=NEAREST)
            self._check_model(table, where, model_hash=model_hash)
            search = choose_search(table, num_earlier)
            starts = range(0, len(vectors), QUERIES_PER_CALL)
            return pl.concat(
                [search_nearest(table, vectors[start : start + QUERIES_PER_CALL], where, search) for start in starts]
            )

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
        vectors = rows["vector"].to_numpy().reshape(rows.height, -1 if rows.height else read_width(found.schema))
        return rows.drop("id", "vector"), np.ascontiguousarray(vectors, dtype=np.float32)

    def maintain(self, *, keep_seconds: float = 3600.0) -> IndexHealth:
        """Compact, delete versions older than `keep_seconds`, and keep the index that the size asks for; once a round.

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
            "move the folder away and materialize cleaned_set of every round in order, which writes it anew",
        )

    def _open(self) -> "Table | None":
        return self._table.open()

    def _check_model(self, table: "Table", where: str, *, model_hash: str) -> None:
        different = f"{where} AND model_hash != '{model_hash.replace(chr(39), chr(39) * 2)}'"
        found = table.search().where(different).select(["round", "model_hash"]).limit(None).to_arrow()
        other = pl.DataFrame(pl.from_arrow(found)).sort("round")
        if other.height:
            raise HistoryError(
                f"{self.uri}: round {other['round'][0]} was embedded with model {other['model_hash'][0][:12]}, "
                f"this one with {model_hash[:12]}, and their vectors cannot be compared: materialize cleaned_set of "
                "the earlier rounds again, or set the experiment's embedder back"
            )
