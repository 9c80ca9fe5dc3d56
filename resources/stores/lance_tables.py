"""One LanceDB table on disk, safe to be written by several processes at once.

LanceDB refuses a commit that conflicts with one made meanwhile, and it is tried again; a table is made in a folder of
its own that is then renamed; and every error says where it stood and what to do. A table carries the number of its
format, so that one written by a newer version of the project is refused rather than misread.
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

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.table import Table

MAX_ATTEMPTS = 20
"""Attempts of one write while others commit first; LanceDB makes up to ten of its own within each."""
FORMAT = 1
"""The format of the tables this version writes; a table without a number is of format 1."""
_FORMAT_KEY = b"lance_on_dagster_format"
_CONFLICT = re.compile(r"conflict|incompatible transaction|concurrent", re.IGNORECASE)
_Result = TypeVar("_Result")


class HistoryError(RuntimeError):
    """The history cannot be read or written, or holds vectors that cannot be compared."""


@dataclass(frozen=True)
class LanceTable:
    """A table by its place; it need not exist."""

    uri: Path
    """The folder of the LanceDB database."""
    name: str
    """The table's."""
    remedy: str
    """What to do when it is corrupt."""

    @property
    def path(self) -> Path:
        """The table's folder."""
        return self.uri / f"{self.name}.lance"

    def open(self) -> "Table | None":
        """The newest version, or None where nothing was ever written.

        Raises:
            HistoryError: it was written by a newer version of the project.
        """
        if not self.path.exists():
            return None
        import lancedb

        table = lancedb.connect(self.uri).open_table(self.name)
        found = int((table.schema.metadata or {}).get(_FORMAT_KEY, FORMAT))
        if found > FORMAT:
            raise HistoryError(
                f"{self.path} was written in format {found}, this version of the project knows format {FORMAT}: "
                "upgrade the project, or use another data root"
            )
        return table

    def create(self, schema: "pa.Schema") -> "Table":
        """Make the empty table, unless another process has made it meanwhile.

        LanceDB's own creation, done by two processes at once, overwrites what one of them has already inserted.
        """
        import lancedb

        making = self.uri / f".making-{self.name}-{os.getpid()}"
        numbered = schema.with_metadata({**(schema.metadata or {}), _FORMAT_KEY: str(FORMAT)})
        try:
            lancedb.connect(making).create_table(self.name, schema=numbered, mode="overwrite")
            try:
                (making / f"{self.name}.lance").rename(self.path)
            except OSError:
                if not self.path.exists():
                    raise
        finally:
            shutil.rmtree(making, ignore_errors=True)
        table = self.open()
        assert table is not None
        return table

    def optimize(self, keep_seconds: float) -> None:
        """Merge small files, take new rows into the indices, and delete versions older than `keep_seconds`.

        A reader that began earlier than that and still reads an old version would fail.

        Raises:
            ValueError: keep_seconds is not above 0.
            HistoryError: the table cannot be written.
        """
        if not keep_seconds > 0:
            raise ValueError(f"keep_seconds must be above 0, got {keep_seconds}")

        def optimize() -> None:
            table = self.open()
            if table is not None:
                table.optimize(cleanup_older_than=timedelta(seconds=keep_seconds))

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
            elif re.search(r"permission denied|read-only file system", str(error), re.IGNORECASE):
                remedy = "make the folder and all in it writable for this user, and run the step again"
            elif re.search(r"no space left|os error 28", str(error), re.IGNORECASE):
                remedy = "the disk is full: free some space, and run the step again"
            else:
                remedy = f"the table is locked or corrupt: {self.remedy}"
            raise HistoryError(f"cannot {doing} in {self.path}: {remedy} ({error})") from error
