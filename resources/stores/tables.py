"""The tables of all rounds on disk: one Parquet file per experiment, round and asset.

A table appears whole or not at all: it is written beside its place, flushed to the disk and renamed. The same rows
give the same bytes, so that the hash of the file says whether anything changed.

The hash of every table is kept in `hashes/<experiment>/<round>/<asset>.json`, and every read compares it. Before a
table is replaced, its record names both hashes, and afterwards the new one alone: a power cut between two of the writes
leaves a table that its record knows. A process hashes a file once, and again when its size, times or inode are others.
Parquet alone does not notice: of 2,000 single flipped bits in a table of 16 kB, polars 1.44 read 1,131 as other rows
without an error.
"""

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from resources.stores.files import ROUND_KEY, validate_name, validate_round_key, write_file_atomically
from resources.stores.hashes import TableRecord, describe_state, hash_file, read_hashed, read_record, warn_unrecorded

_ROW_GROUP_ROWS = 65_536


class MissingTableError(FileNotFoundError):
    """A table was read that no run has written."""


class CorruptTableError(ValueError):
    """A table's file is there and is not what was written: it has another hash, or is no readable Parquet file."""


@dataclass(frozen=True)
class TableVersion:
    """What a write left on disk."""

    path: Path
    """The Parquet file."""
    num_rows: int
    """Rows in it."""
    content_hash: str
    """SHA-256 of the file's bytes, 64 hex digits."""


def encode_table(table: pl.DataFrame, *, metadata: dict[str, str] | None = None) -> bytes:
    """The table as Parquet; the same rows give the same bytes, in however many pieces they lie in memory."""
    buffer = io.BytesIO()
    table.rechunk().write_parquet(
        buffer,
        compression="zstd",
        compression_level=3,
        statistics=True,
        row_group_size=_ROW_GROUP_ROWS,
        metadata=metadata,
    )
    return buffer.getvalue()


def check_schema(found: pl.Schema, wanted: pl.Schema, *, file: Path) -> None:
    """Check that a table has exactly the wanted columns and dtypes, in any order.

    Raises:
        ValueError: a column is missing, not wanted, or of another dtype.
    """
    for column, dtype in wanted.items():
        if column not in found:
            raise ValueError(f"column {column!r} is missing, wanted {dtype}, found the columns {list(found)}: {file}")
        if found[column] != dtype:
            raise ValueError(f"column {column!r} is {found[column]}, wanted {dtype}: {file}")
    for column in found:
        if column not in wanted:
            raise ValueError(f"column {column!r} ({found[column]}) is not of this table, wanted {list(wanted)}: {file}")


@dataclass(frozen=True)
class TableStore:
    """Reads and writes the tables under one folder."""

    root: Path
    """The platform's data folder; tables lie in `tables/` there."""

    def path(self, experiment: str, round_key: str, asset: str) -> Path:
        """Where a table lies, whether or not it is there.

        Raises:
            ValueError: a name that is not one.
        """
        validate_name(experiment, what="experiment")
        validate_name(asset, what="asset")
        return self.root / "tables" / experiment / validate_round_key(round_key) / f"{asset}.parquet"

    def exists(self, experiment: str, round_key: str, asset: str) -> bool:
        """Whether the table was written."""
        return self.path(experiment, round_key, asset).is_file()

    def list_experiments(self) -> list[str]:
        """Every experiment that has a folder of tables, by name."""
        folder = self.root / "tables"
        return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []

    def list_rounds(self, experiment: str) -> list[str]:
        """Every round of an experiment that has a table, oldest first."""
        folders = (self.root / "tables" / validate_name(experiment, what="experiment")).glob("r[0-9]*")
        return sorted(path.name for path in folders if ROUND_KEY.fullmatch(path.name) and any(path.glob("*.parquet")))

    def hash(self, experiment: str, round_key: str, asset: str) -> str:
        """SHA-256 of the table's bytes as they are on disk now, compared with what was recorded.

        Raises:
            MissingTableError: it was never written.
            CorruptTableError: it is not what was written.
        """
        return self._verify(experiment, round_key, asset)[1]

    def write(
        self,
        experiment: str,
        round_key: str,
        asset: str,
        table: pl.DataFrame,
        *,
        schema: pl.Schema,
        made_by: str | None = None,
    ) -> TableVersion:
        """Write a table in place of the one before; columns are put in the schema's order.

        Args:
            experiment: the experiment.
            round_key: the round.
            asset: the table's name.
            table: its rows.
            schema: its columns.
            made_by: the asset that it belongs to; None where both have one name.

        Raises:
            ValueError: a name that is not one, or columns that are not the schema's.
            DiskFullError: the disk is full; the table before is still there.
        """
        path, record = self.path(experiment, round_key, asset), self.record_path(experiment, round_key, asset)
        check_schema(table.schema, schema, file=path)
        content = encode_table(table.select(schema.names()))
        made = TableRecord(hashlib.sha256(content).hexdigest(), made_by or asset)
        before = read_record(record)
        if before != made:
            # Until the file is in its place the record has to know the one that is there now.
            there = None if before is None else before.content_hash
            if path.is_file() and (before is None or before.replaced is not None):
                there = hash_file(path)
            _write_record(record, TableRecord(made.content_hash, made.made_by, there if path.is_file() else None))
        write_file_atomically(path, content)
        if read_record(record) != made:
            _write_record(record, made)
        return TableVersion(path=path, num_rows=table.height, content_hash=made.content_hash)

    def read(self, experiment: str, round_key: str, asset: str, *, schema: pl.Schema) -> pl.DataFrame:
        """Read a table.

        Raises:
            MissingTableError: it was never written.
            CorruptTableError: it is not what was written, or cannot be read as Parquet.
            ValueError: its columns are not the schema's: another version of the project wrote it.
        """
        content, _ = self._verify(experiment, round_key, asset, reads=True)
        try:
            table = pl.read_parquet(io.BytesIO(content))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise self._explain_unreadable(experiment, round_key, asset, len(content), error) from error
        self._check_version(experiment, round_key, asset, table.schema, schema)
        return table.select(schema.names())

    def scan(
        self, experiment: str, round_key: str, asset: str, *, schema: pl.Schema, row_number: str | None = None
    ) -> pl.LazyFrame:
        """A table that is read when it is collected, and then only the columns and rows that are needed.

        Its hash is compared now. A writer that replaces it meanwhile replaces it whole, so what is collected is one
        table or the other.

        Args:
            experiment: the experiment.
            round_key: the round.
            asset: the table's name.
            schema: its columns.
            row_number: the name of a column before the others that holds each row's number, from 0; None: none.

        Raises:
            MissingTableError, CorruptTableError, ValueError: as `read`.
        """
        path = self.path(experiment, round_key, asset)
        self._verify(experiment, round_key, asset)
        try:
            scanned = pl.scan_parquet(path, row_index_name=row_number)
            found = scanned.collect_schema()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise self._explain_unreadable(experiment, round_key, asset, path.stat().st_size, error) from error
        if row_number is not None:
            found = pl.Schema({name: dtype for name, dtype in found.items() if name != row_number})
        self._check_version(experiment, round_key, asset, found, schema)
        return scanned.select(*([row_number] if row_number is not None else []), *schema.names())

    def _explain_unreadable(
        self, experiment: str, round_key: str, asset: str, num_bytes: int, error: Exception
    ) -> CorruptTableError:
        path, again = self.path(experiment, round_key, asset), self.explain_again(experiment, round_key, asset)
        return CorruptTableError(f"{path} ({num_bytes} bytes) is not a readable Parquet file ({error}); {again}")

    def _check_version(self, experiment: str, round_key: str, asset: str, found: pl.Schema, schema: pl.Schema) -> None:
        try:
            check_schema(found, schema, file=self.path(experiment, round_key, asset))
        except ValueError as error:
            raise ValueError(
                f"{experiment} {round_key}: the table of {asset} was written by another version of this project "
                f"({error}); {self.explain_again(experiment, round_key, asset)}"
            ) from error

    def record_path(self, experiment: str, round_key: str, asset: str) -> Path:
        """Where the hash of a table is kept, whether or not it is there."""
        self.path(experiment, round_key, asset)
        return self.root / "hashes" / experiment / round_key / f"{asset}.json"

    def is_recorded(self, experiment: str, round_key: str, asset: str) -> bool:
        """Whether the hash of a table was kept when it was written."""
        return read_record(self.record_path(experiment, round_key, asset)) is not None

    def record_as_it_is(self, experiment: str, round_key: str, asset: str, *, made_by: str) -> None:
        """Keep the hash of a table that an older version wrote, so that later changes are noticed.

        Raises:
            ValueError: a hash is kept already.
        """
        record = self.record_path(experiment, round_key, asset)
        if read_record(record) is not None:
            raise ValueError(f"{record} keeps the hash of {asset} already; it is not replaced by that of the file")
        _write_record(record, TableRecord(hash_file(self.path(experiment, round_key, asset)), made_by))

    def explain_again(self, experiment: str, round_key: str, asset: str) -> str:
        """In words how a table is made again: the asset that it belongs to, and the round."""
        record = read_record(self.record_path(experiment, round_key, asset))
        return f"materialize {experiment}/{record.made_by if record else asset} for {round_key} again"

    def _verify(self, experiment: str, round_key: str, asset: str, *, reads: bool = False) -> tuple[bytes, str]:
        """The bytes of a table, empty unless they are read, and their hash, which is the recorded one."""
        path, place = self.path(experiment, round_key, asset), (experiment, round_key, asset)
        while True:
            try:
                content, state, found = read_hashed(path, reads=reads)
            except FileNotFoundError as error:
                again = self.explain_again(*place).replace(" again", " first")
                raise MissingTableError(
                    f"experiment {experiment!r} has no table {asset!r} for round {round_key}: {again} "
                    f"({path} is not there)"
                ) from error
            record = read_record(self.record_path(*place))
            if record is None:
                warn_unrecorded(self.root, experiment, path)
                return content, found
            if found in (record.content_hash, record.replaced):
                return content, found
            # A writer may have replaced both between the two reads: then the file is another one now.
            if path.is_file() and describe_state(path.stat()) == state:
                break
        raise CorruptTableError(
            f"{path} is not what was written: its hash is {found[:12]}, and {record.content_hash[:12]} was recorded, "
            f"so the file was changed or damaged since; {self.explain_again(*place)} (lance run {experiment} "
            f"--redo-from {round_key} makes the whole round again), or bring the file back from a copy; if you changed "
            f"it on purpose, remove {self.record_path(*place)}, and it counts as it is"
        )


def _write_record(path: Path, record: TableRecord) -> None:
    write_file_atomically(path, (json.dumps(asdict(record), indent=1) + "\n").encode())
