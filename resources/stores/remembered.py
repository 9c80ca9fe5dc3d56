"""What takes long to compute, remembered between processes: one small file each under the user's cache folder.

A key says everything that its value depends on. The folder may be removed at any time; where it cannot be written,
values are computed each time.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

MAX_FILES = 2_000
"""Of one sort; the oldest beyond them are removed."""

Value = TypeVar("Value", str, dict[str, str])
"""What can be remembered."""


def find_cache_folder() -> Path:
    """Where values are remembered: `$XDG_CACHE_HOME/lance-on-dagster`, or below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lance-on-dagster"


def remember(sort: str, key: str, compute: Callable[[], Value]) -> Value:
    """A value that was computed before, or is computed now.

    Args:
        sort: what kind of value it is; a folder is named after it.
        key: everything that the value depends on.
        compute: gives the value.
    """
    file = find_cache_folder() / sort / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    try:
        found: Value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent, or cut short by a power cut
        found = compute()
        _write(file, json.dumps(found))
    return found


def _write(file: Path, text: str) -> None:
    beside = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # not flushed to the disk: what a power cut takes is computed again
        beside.write_text(text, encoding="utf-8")
        beside.replace(file)
        written = list(file.parent.iterdir())
        if len(written) > MAX_FILES:
            for old in sorted(written, key=lambda each: each.stat().st_mtime)[: MAX_FILES // 2]:
                old.unlink(missing_ok=True)
    except OSError:  # a read-only home, or a full disk
        return
