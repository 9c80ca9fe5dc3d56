"""The tables of all rounds on disk: one Parquet file per experiment, round and asset.

A table appears whole or not at all: it is written beside its place, flushed to the disk and renamed. The same rows
give the same bytes, so that the hash of the file says whether anything changed.

The hash of every table is kept in `hashes/<experiment>/<round>/<asset>.json`, and every read compares it. Before a
table is replaced, its record names both hashes, and afterwards the new one alone: a power cut between two of the writes
leaves a table that its record knows. A process hashes a file once, and again when its size, times or inode are others.
Parquet alone does not notice: of 2,000 single flipped bits in a table of 16 kB, polars 1.44 read 1,131 as other rows
without an error.
"""

import errno
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
import psutil

from resources.stores.hashes import TableRecord, describe_state, hash_file, read_hashed, read_record, warn_unrecorded

_NAME = re.compile(r"[a-z0-9_]+")
_ROUND_KEY = re.compile(r"r[0-9]{4}")
_ROW_GROUP_ROWS = 65_536


class MissingTableError(FileNotFoundError):
    """A table was read that no run has written."""


class CorruptTableError(ValueError):
    """A table's file is there and is not what was written: it has another hash, or is no readable Parquet file."""


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
    with explain_full_disk(path, num_bytes=len(content)):
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


class DamagedFileError(ValueError):
    """A small file that is kept beside the tables is half-written or damaged."""


def read_json_file(path: Path, *, remedy: str) -> Any:
    """What a small file beside the tables holds.

    Args:
        path: the file, which is there.
        remedy: what to do where it cannot be read.

    Raises:
        DamagedFileError: it cannot be read; the message names the file and the remedy.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedFileError(f"{path} is half-written or damaged ({error}); {remedy}") from error


@contextmanager
def explain_full_disk(path: Path, *, num_bytes: int | None = None) -> Iterator[None]:
    """Say of a full disk which file has no room and how much is free.

    Args:
        path: the file or folder that is written.
        num_bytes: what is to be written, where that is known.

    Raises:
        DiskFullError: the disk is full, or the user's share of it is.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, DiskFullError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(next(folder for folder in path.parents if folder.exists())).free
        wanted = "" if num_bytes is None else f"{num_bytes} bytes to write, "
        raise DiskFullError(
            error.errno,
            f"the disk is full: {wanted}{free} bytes free; free some space and run the step again",
            str(path),
        ) from error


def flush_folder(folder: Path) -> None:
    """Make a folder and everything in it survive a power cut.

    Raises:
        DiskFullError: the disk is full.
    """
    with explain_full_disk(folder):
        for path in [*sorted(folder.rglob("*")), folder]:
            flush_to_disk(path)


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
        path = self.path(experiment, round_key, asset)
        content, _ = self._verify(experiment, round_key, asset, reads=True)
        again = self.explain_again(experiment, round_key, asset)
        try:
            table = pl.read_parquet(io.BytesIO(content))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise CorruptTableError(
                f"{path} ({len(content)} bytes) is not a readable Parquet file ({error}); {again}"
            ) from error
        try:
            check_schema(table.schema, schema, file=path)
        except ValueError as error:
            raise ValueError(
                f"{experiment} {round_key}: the table of {asset} was written by another version of this project "
                f"({error}); {again}"
            ) from error
        return table.select(schema.names())

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
