"""The hashes of files: what a process has hashed once, and what is kept of a table beside it."""

import hashlib
import json
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

_SETTLED_NS = 2_000_000_000
"""A file that was changed so short a time ago may change once more with the same time, so its hash is not kept."""

logger = logging.getLogger(__name__)
State = tuple[int, int, int, int]
"""What tells that a file is the one that was hashed: size, times of the last change, inode."""
_HASHES: dict[Path, tuple[State, str]] = {}
"""The hash of every file that this process has read, with the state that it had then."""
_WARNED: set[Path] = set()
"""The folders of experiments whose tables without a recorded hash were told of."""


@dataclass(frozen=True)
class TableRecord:
    """What is kept of a table beside it."""

    content_hash: str
    """SHA-256 of the file's bytes, 64 hex digits."""
    made_by: str
    """The asset that wrote it: several tables may belong to one."""
    replaced: str | None = None
    """The hash of the table that is there until this one has taken its place; None once it has."""


def describe_state(found: os.stat_result) -> State:
    """What tells that a file is still the same one."""
    # The time of the last change of the inode cannot be set back by a program that keeps the other one.
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def read_hashed(path: Path, *, reads: bool) -> tuple[bytes, State, str]:
    """A file's bytes, empty unless they are read, with its state and hash; a hash that is known is not computed."""
    with path.open("rb") as file:
        state = describe_state(os.fstat(file.fileno()))
        known = _HASHES.get(path)
        if known is not None and known[0] == state:
            return file.read() if reads else b"", state, known[1]
        content = file.read()
    found = hashlib.sha256(content).hexdigest()
    # Where the clock was set back, the age is below zero and nothing is kept.
    if time.time_ns() - max(state[1:3]) > _SETTLED_NS:
        _HASHES[path] = state, found
    return content if reads else b"", state, found


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits, computed once a process."""
    return read_hashed(path, reads=False)[2]


def read_record(path: Path) -> TableRecord | None:
    """What is kept of a table; None where nothing is, or where it cannot be read."""
    try:
        return TableRecord(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        if path not in _WARNED:
            _WARNED.add(path)
            logger.warning("%s cannot be read (%s), so its table is not verified; remove it", path, error)
        return None


def warn_unrecorded(root: Path, experiment: str, path: Path) -> None:
    """Say once a process that an experiment has tables whose hash nobody kept.

    Args:
        root: the platform's data folder.
        experiment: whose tables.
        path: one of them.
    """
    folder = root / "hashes" / experiment
    if folder not in _WARNED:
        _WARNED.add(folder)
        logger.warning(
            "%s has no recorded hash, nor may other tables of %s: an older version of this project wrote them, and a "
            "changed byte in them is not noticed. lance doctor %s --fix records what is there now",
            *(path, experiment, experiment),
        )
