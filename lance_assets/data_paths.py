"""Which files a path in an experiment means: a file, a folder, a pattern, or a data set of the hub.

The files of a folder belong to splits by their names, as `datasets` has it: `train-00000.parquet`, `data/test.jsonl`.
"""

import re
from collections.abc import Sequence
from pathlib import Path

HUB = "hf://datasets/"
"""What the name of a data set may begin with."""

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab", ".parquet", ".arrow", ".feather", ".ipc")
"""The endings of files that hold rows."""
COMPRESSED = (".gz", ".gzip", ".zst", ".zstd", ".bz2")
"""What may follow an ending."""

_DATASET = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_SPLITS = {
    "train": re.compile(r"(?<![a-z])train(ing)?(?![a-z])", re.IGNORECASE),
    "validation": re.compile(r"(?<![a-z])(validation|valid|val|dev)(?![a-z])", re.IGNORECASE),
    "test": re.compile(r"(?<![a-z])(test(ing)?|eval(uation)?)(?![a-z])", re.IGNORECASE),
}


def find_ending(name: str) -> str:
    """The ending that says what a file holds, in lower case.

    >>> find_ending("seeds.CSV.gz"), find_ending("seeds")
    ('.csv', '')
    """
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    while suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def name_dataset(name: str, folder: Path, *, split: str | None) -> str | None:
    """The hub id that a path means; None for a path on this machine.

    A path is an id when it begins with `hf://datasets/`, or when a split is asked for and there is no such file.

    Args:
        name: the path as the experiment has it.
        folder: the experiment's, which relative paths start from.
        split: the part of the data set.
    """
    if name.startswith(HUB):
        return name.removeprefix(HUB).strip("/")
    is_id = split is not None and _DATASET.fullmatch(name) is not None and find_ending(name) not in ENDINGS
    return name if is_id and not (folder / name).exists() else None


def is_pattern(path: Path) -> bool:
    """Whether a path that does not exist names files by `*`, `?` or `[...]`."""
    return not path.exists() and any(sign in str(path) for sign in "*?[")


def list_files(path: Path, *, endings: Sequence[str] = ENDINGS) -> list[Path]:
    """The files that a path means, by name: itself, those of a folder that hold rows, or those that match a pattern.

    Args:
        path: a file, a folder or a pattern.
        endings: which files of a folder count; hidden ones do not.
    """
    if is_pattern(path):
        place = Path(path.anchor) if path.is_absolute() else Path()
        return sorted(file for file in place.glob(str(path.relative_to(path.anchor))) if file.is_file())
    if not path.is_dir():
        return [path] if path.exists() else []
    inside = (file for file in path.rglob("*") if not any(part[0] in "._" for part in file.relative_to(path).parts))
    return sorted(file for file in inside if file.is_file() and find_ending(file.name) in endings)


def find_split(file: Path, folder: Path) -> str | None:
    """The split that a file belongs to by its name or its folder's; None where they say nothing.

    >>> find_split(Path("d/train-00000-of-00001.parquet"), Path("d")), find_split(Path("d/latest.csv"), Path("d"))
    ('train', None)
    """
    inside = file.relative_to(folder) if file.is_relative_to(folder) else Path(file.name)
    for part in reversed(inside.parts):
        for split, named in _SPLITS.items():
            if named.search(part):
                return split
    return None
