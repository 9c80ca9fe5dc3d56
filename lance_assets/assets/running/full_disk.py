"""A disk that is full where Dagster keeps its runs: SQLite's own error names neither the place nor what helps."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# There is no public name for the error of a run whose steps' processes failed.
from dagster._core.errors import DagsterSubprocessError

from resources.stores.files import DiskFullError

FULL = "disk is full"
"""What SQLite says of a write that has no room."""
MAYBE_FULL = ("disk I/O error", "unable to open database file")
"""What it says where a file beside the database, such as its journal, cannot be made or grown, among other causes."""
MIN_FREE_BYTES = 1 << 20
"""With less than this free, those other words are taken to mean a full disk."""


@contextmanager
def explain_full_instance(folder: Path) -> Iterator[None]:
    """Say of a full disk under Dagster's own storage where it is, how much is free, and what helps.

    Args:
        folder: DAGSTER_HOME.

    Raises:
        DiskFullError: the disk is full; a step's process that found it so counts too.
    """
    # Whoever loads definitions asks no database, and its library takes a while to import.
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, DagsterSubprocessError) as error:
        free = shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free
        if not _is_full(error, free):
            raise
        raise DiskFullError(
            errno.ENOSPC,
            f"the disk is full where Dagster keeps its runs, {free} bytes free: free some space, and start the same "
            "again; it goes on from the step that was lost, and what was finished is kept",
            str(folder),
        ) from error


def _is_full(error: Exception, free: int) -> bool:
    told = [str(error)]
    if isinstance(error, DagsterSubprocessError):
        told = [info.to_string() for info in error.subprocess_error_infos]
    return any(FULL in text or (free < MIN_FREE_BYTES and any(w in text for w in MAYBE_FULL)) for text in told)
