"""Where a function of a person's own lies, found without running any of it."""

import hashlib
from importlib.util import find_spec
from pathlib import Path


def find_named_file(name: str, folder: Path) -> Path | None:
    """The file of `package.module:NAME` or `my_check.py:NAME`; None where there is none.

    Args:
        name: of a function.
        folder: the experiment's, which a file's path is relative to.
    """
    where = name.rpartition(":")[0]
    if where.endswith(".py"):
        path = folder / Path(where).expanduser()
        return path if path.is_file() else None
    try:
        spec = find_spec(where)
    except (ImportError, ValueError, AttributeError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin and Path(spec.origin).is_file() else None


def hash_named_file(name: str, folder: Path) -> str:
    """SHA-256 of the file's content, 64 hex digits; "missing" where there is none."""
    path = find_named_file(name, folder)
    return "missing" if path is None else hashlib.sha256(path.read_bytes()).hexdigest()
