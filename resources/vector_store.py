"""The vectors of every kept text of every round, in one LanceDB table.

A round is replaced in one transaction, so that a reader sees the round before or after, never half of it; a round is
compared with earlier rounds of its experiment only, so that doing it again gives what it gave the first time.
Several processes may write at once: LanceDB refuses a commit that conflicts, and it is tried again.
"""

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
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import polars as pl

from resources.history_rows import NEAREST, build_rows, build_schema, check_vectors, read_width, search_nearest
from resources.tables import validate_name, validate_round_key

if TYPE_CHECKING:
    from lancedb.table import Table

MAX_ATTEMPTS = 20
"""Attempts of one write while others commit first; LanceDB makes up to ten of its own within each."""
QUERIES_PER_CALL = 256
"""Vectors looked up in one call."""
_TABLE = "history"
_CONFLICT = re.compile(r"conflict|incompatible transaction|concurrent", re.IGNORECASE)
_Result = TypeVar("_Result")


class HistoryError(RuntimeError):
    """The history cannot be read or written, or holds vectors that cannot be compared."""


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
            table = self._open() or self._create(vectors.shape[1])
            width = read_width(table.schema)
            if rows.height and vectors.shape[1] != width:
                raise HistoryError(
                    f"{self.uri} holds vectors of {width} numbers, got {vectors.shape[1]}: embed with the model "
                    "it was made with, or use another folder for this one"
                )
            merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            merge = merge.when_not_matched_by_source_delete(f"experiment = '{experiment}' AND round = '{round_key}'")
            merge.execute(build_rows(experiment, round_key, rows, vectors, model_hash=model_hash, width=width))

        self._retry(replace, doing=f"replace round {round_key} of {experiment!r}")

    def find_nearest(self, vectors: np.ndarray, *, experiment: str, before_round: str, model_hash: str) -> pl.DataFrame:
        """The most similar text of an earlier round for each vector, by an exact search over all of them.

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
        with self._explain(f"search rounds before {before_round} of {experiment!r}"):
            table = self._open()
            if table is None or not len(vectors) or not table.count_rows(where):
                return pl.DataFrame({name: [None] * len(vectors) for name in NEAREST}, schema=NEAREST)
            self._check_model(table, where, model_hash=model_hash)
            starts = range(0, len(vectors), QUERIES_PER_CALL)
            return pl.concat(
                [search_nearest(table, vectors[start : start + QUERIES_PER_CALL], where) for start in starts]
            )

    def read_round(self, experiment: str, round_key: str) -> tuple[pl.DataFrame, np.ndarray]:
        """The rows of a round, sorted by row_id; none where it has none.

        Returns:
            Rows with the columns experiment, round, row_id, text, text_hash, model_hash; and their vectors,
            float32 [num_rows, dim].
        """
        validate_name(experiment, what="experiment")
        where = f"experiment = '{experiment}' AND round = '{validate_round_key(round_key)}'"
        with self._explain(f"read round {round_key} of {experiment!r}"):
            table = self._open()
            found = (
                build_schema(0).empty_table() if table is None else table.search().where(where).limit(None).to_arrow()
            )
        rows = pl.DataFrame(pl.from_arrow(found)).sort("row_id")
        vectors = rows["vector"].to_numpy().reshape(rows.height, -1 if rows.height else read_width(found.schema))
        return rows.drop("id", "vector"), np.ascontiguousarray(vectors, dtype=np.float32)

    def count(self, experiment: str) -> int:
        """Rows of an experiment, all rounds."""
        validate_name(experiment, what="experiment")
        with self._explain(f"count {experiment!r}"):
            table = self._open()
            return 0 if table is None else table.count_rows(f"experiment = '{experiment}'")

    def compact(self, *, keep_seconds: float = 3600.0) -> None:
        """Merge small files into large ones and delete versions older than `keep_seconds`; once a round is enough.

        A reader that began earlier than that and still reads an old version would fail.

        Raises:
            ValueError: keep_seconds is not above 0.
            HistoryError: the table cannot be written.
        """
        if not keep_seconds > 0:
            raise ValueError(f"keep_seconds must be above 0, got {keep_seconds}")

        def optimize() -> None:
            table = self._open()
            if table is not None:
                table.optimize(cleanup_older_than=timedelta(seconds=keep_seconds))

        self._retry(optimize, doing="compact")

    def _open(self) -> "Table | None":
        """The newest version of the table, or None where nothing was ever written."""
        if not (self.uri / f"{_TABLE}.lance").exists():
            return None
        import lancedb

        return lancedb.connect(self.uri).open_table(_TABLE)

    def _create(self, width: int) -> "Table":
        """Make the empty table, in a folder of its own that is then renamed.

        LanceDB's own creation, done by two processes at once, overwrites what one of them has already inserted.
        """
        import lancedb

        making = self.uri / f".making-{os.getpid()}"
        try:
            lancedb.connect(making).create_table(_TABLE, schema=build_schema(width), mode="overwrite")
            try:
                (making / f"{_TABLE}.lance").rename(self.uri / f"{_TABLE}.lance")
            except OSError:
                if not (self.uri / f"{_TABLE}.lance").exists():
                    raise
        finally:
            shutil.rmtree(making, ignore_errors=True)
        table = self._open()
        assert table is not None
        return table

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

    def _retry(self, write: Callable[[], _Result], *, doing: str) -> _Result:
        with self._explain(doing):
            for attempt in range(MAX_ATTEMPTS):
                try:
                    return write()
                except RuntimeError as error:
                    if isinstance(error, HistoryError) or not _CONFLICT.search(str(error)):
                        raise
                    if attempt == MAX_ATTEMPTS - 1:
                        raise
                    time.sleep(random.uniform(0.01, 0.05) * (attempt + 1))
        raise AssertionError("every attempt returns or raises")

    @contextmanager
    def _explain(self, doing: str) -> Iterator[None]:
        """Say where and what to do for errors of LanceDB, which are RuntimeError, OSError or ValueError."""
        try:
            yield
        except HistoryError:
            raise
        except (RuntimeError, OSError, ValueError) as error:
            if isinstance(error, RuntimeError) and _CONFLICT.search(str(error)):
                remedy = f"other processes wrote first {MAX_ATTEMPTS} times: run the step again when they are done"
            elif re.search(r"permission denied|read-only file system", str(error), re.IGNORECASE):
                remedy = "make the folder and all in it writable for this user, and run the step again"
            elif re.search(r"no space left|os error 28", str(error), re.IGNORECASE):
                remedy = "the disk is full: free some space, and run the step again"
            else:
                remedy = (
                    "the table is locked or corrupt: move the folder away and materialize cleaned_set of every round "
                    "in order, which writes it anew"
                )
            raise HistoryError(f"cannot {doing} in {self.uri / _TABLE}.lance: {remedy} ({error})") from error
