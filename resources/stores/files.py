"""Small files and folders on disk: written whole or not at all, flushed, and told of when they are damaged."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

_NAME = re.compile(r"[a-z0-9_]+")
ROUND_KEY = re.compile(r"r[0-9]{4}")
EXPERIMENT_FOLDERS = (
    *("stages", "evaluation_prompts", "judge_opponents", "studies", "checks", "origins", "costs", "identity", "made"),
    *("hashes", "decisions", "waiting", "removed", "checkpoints"),
    "tables",  # last: as long as an experiment has none here, it is not there
)
"""The folders of the data root that hold a folder for each experiment, in the order in which they are moved."""


class DiskFullError(OSError):
    """The disk has no room for a file; nothing of it was left there."""


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
    if not ROUND_KEY.fullmatch(round_key):
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


def hash_whole(file: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits, read now."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def copy_whole(file: Path, to: Path) -> None:
    """Copy a file so that it appears whole."""
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = to.with_name(f".{to.name}.{os.getpid()}.tmp")
    with explain_full_disk(to):
        try:
            shutil.copyfile(file, partial)
            flush_to_disk(partial)
            partial.replace(to)
        finally:
            partial.unlink(missing_ok=True)


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
