"""The tables of all rounds on disk: one Parquet file per experiment, round and asset.

A table appears whole or not at all: it is written beside its place, flushed to the disk and renamed. The same rows
give the same bytes, so that the hash of the file says whether anything changed.
"""

import errno
import hashlib
import io
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import psutil

_NAME = re.compile(r"[a-z0-9_]+")
_ROUND_KEY = re.compile(r"r[0-9]{4}")
_ROW_GROUP_ROWS = 65_536


class MissingTableError(FileNotFoundError):
    """A table was read that no run has written."""


class CorruptTableError(ValueError):
    """A table's file is there and is not a readable Parquet file."""


class DiskFullError(OSError):
    """The disk has no room for a file; nothing of it was left there."""


@dataclass(frozen=True)
class TableVersion:
    """What a write left on disk."""

    path: Path
    """The Parquet file."""
    num_rows: int
    """Rows in it."""
    content_hash: str
    """SHA-256 of the file's bytes, 64 hex digits."""


def validate_name(name: str, *, what: str) -> str:
    """Return `name` if it is safe as a folder's name.

    Args:
        name: an experiment, an asset or a stage.
        what: what it names, for the error.

    Raises:
        ValueError: it is not made of small letters, digits and underscores.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{what} must be small letters, digits and underscores ({_NAME.pattern}), got {name!r}")
    return name


def validate_round_key(round_key: str) -> str:
    """Return `round_key` if it is one.

    Raises:
        ValueError: it is not `r` and four digits.
    """
    if not _ROUND_KEY.fullmatch(round_key):
        raise ValueError(f"round must be r and four digits, like r0001, got {round_key!r}")
    return round_key


def write_file_atomically(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all, and stays after a power cut.

    What killed writers left beside it is removed.

    Raises:
        DiskFullError: the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f".{path.name}.*.tmp"):
            # The name holds the number of the writer's process: the file of one that still runs is left alone.
            if not psutil.pid_exists(int(leftover.name.split(".")[-2])):
                leftover.unlink(missing_ok=True)
        partial = path.parent / f".{path.name}.{os.getpid()}.tmp"
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        # The new name is an entry of the folder: a power cut could take it back.
        flush_to_disk(path.parent)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(next(folder for folder in path.parents if folder.exists())).free
        raise DiskFullError(
            error.errno,
            f"the disk is full: {len(content)} bytes to write, {free} bytes free; "
            "free some space and run the step again",
            str(path),
        ) from error


def flush_to_disk(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
        return sorted(path.name for path in folders if _ROUND_KEY.fullmatch(path.name) and any(path.glob("*.parquet")))

    def hash(self, experiment: str, round_key: str, asset: str) -> str:
        """SHA-256 of the table's bytes as they are on disk now.

        Raises:
            MissingTableError: it was never written.
        """
        return hashlib.sha256(self._read_bytes(experiment, round_key, asset)).hexdigest()

    def write(
        self, experiment: str, round_key: str, asset: str, table: pl.DataFrame, *, schema: pl.Schema
    ) -> TableVersion:
        """Write a table in place of the one before; columns are put in the schema's order.

        Raises:
            ValueError: a name that is not one, or columns that are not the schema's.
            DiskFullError: the disk is full; the table before is still there.
        """
        path = self.path(experiment, round_key, asset)
        check_schema(table.schema, schema, file=path)
        content = encode_table(table.select(schema.names()))
        write_file_atomically(path, content)
        return TableVersion(path=path, num_rows=table.height, content_hash=hashlib.sha256(content).hexdigest())

    def read(self, experiment: str, round_key: str, asset: str, *, schema: pl.Schema) -> pl.DataFrame:
        """Read a table.

        Raises:
            MissingTableError: it was never written.
            CorruptTableError: its file cannot be read as Parquet.
            ValueError: its columns are not the schema's: another version of the project wrote it.
        """
        path = self.path(experiment, round_key, asset)
        content = self._read_bytes(experiment, round_key, asset)
        try:
            table = pl.read_parquet(io.BytesIO(content))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise CorruptTableError(
                f"{path} ({len(content)} bytes) is not a readable Parquet file ({error}); "
                f"materialize {experiment}/{asset} for {round_key} again"
            ) from error
        try:
            check_schema(table.schema, schema, file=path)
        except ValueError as error:
            raise ValueError(
                f"{experiment} {round_key}: the table of {asset} was written by another version of this project "
                f"({error}); materialize {experiment}/{asset} for {round_key} again"
            ) from error
        return table.select(schema.names())

    def _read_bytes(self, experiment: str, round_key: str, asset: str) -> bytes:
        path = self.path(experiment, round_key, asset)
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise MissingTableError(
                f"experiment {experiment!r} has no table {asset!r} for round {round_key}: "
                f"materialize {experiment}/{asset} for {round_key} first ({path} is not there)"
            ) from error
