"""What people decided, one SQLite file for each experiment: records are added, and none is changed or removed.

A call adds all of its records or none, whatever ends it: SQLite drops a transaction that is not whole, and `EXTRA`
flushes the file and its folder before the call returns. Several processes may add at once: they wait for each other. A
record that is there already is not added again, so that a broken-off call can be repeated.
"""

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from resources.stores.files import DamagedFileError, explain_full_disk, validate_name

WAIT_SECONDS = 30.0
"""So long a process waits for another one that adds."""


@dataclass(frozen=True)
class DecisionStore:
    """The records of one experiment."""

    root: Path
    """The platform's data folder."""
    experiment: str
    """The experiment."""

    @property
    def file(self) -> Path:
        """Where they lie, whether or not there are any."""
        return self.root / "decisions" / validate_name(self.experiment, what="experiment") / "decisions.sqlite"

    def add(self, records: Mapping[str, str]) -> int:
        """Add records, all of them or none; how many were not there yet.

        Args:
            records: by what identifies it, the text of each.

        Raises:
            DamagedFileError: the file is no database, or was damaged.
            DiskFullError: the disk is full; nothing was added.
        """
        if not records:
            return 0
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with explain_full_disk(self.file), self._open() as connection:
            with connection:
                before = connection.total_changes
                connection.executemany("INSERT OR IGNORE INTO decisions VALUES (?, ?)", records.items())
            return connection.total_changes - before

    def read(self) -> list[str]:
        """The text of each record, in the order in which they were added.

        Raises:
            DamagedFileError: the file is no database, or was damaged.
        """
        return list(self.read_records().values())

    def read_records(self) -> dict[str, str]:
        """The text of each record by what identifies it, in the order in which they were added.

        Raises:
            DamagedFileError: the file is no database, or was damaged.
        """
        if not self.file.is_file():
            return {}
        with self._open() as connection:
            return dict(connection.execute("SELECT id, text FROM decisions ORDER BY rowid"))

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.file, timeout=WAIT_SECONDS)
        try:
            connection.execute("PRAGMA synchronous = EXTRA")
            connection.execute("CREATE TABLE IF NOT EXISTS decisions (id TEXT NOT NULL UNIQUE, text TEXT NOT NULL)")
            yield connection
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
                raise OSError(28, f"the disk is full ({error})", str(self.file)) from error
            if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                raise OSError(f"{self.file} is held by another process; try again ({error})") from error
            raise DamagedFileError(
                f"{self.file} is not what was written ({error}); bring it back from a copy, or move it away and decide "
                "again: the rounds that are finished keep what was decided in their tables decision_set"
            ) from error
        finally:
            connection.close()
