"""Rows from wherever people keep them: a file, a folder or pattern of files, a saved data set, or one of the hub."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lance_assets.data_paths import ENDINGS, find_ending, find_split, is_pattern, list_files, name_dataset
from resources.readers.mistakes import Mistakes, refuse_file
from resources.readers.row_files import Budget, Row, build_budget, number_rows, read_file

if TYPE_CHECKING:
    from datasets import Dataset

SAVED = ("dataset_info.json", "dataset_dict.json")
"""A folder with one of these files was written by the `save_to_disk` of `datasets`."""

TEXT_ENDINGS = (".txt", ".text", ".md")
"""The endings of plain text."""


@dataclass(frozen=True)
class Source:
    """Where rows are."""

    path: Path
    """A file, a folder or a pattern."""
    dataset: str | None = None
    """A data set of the hub, in place of the path."""
    subset: str | None = None
    """Which of the data set's configurations."""
    split: str | None = None
    """Which part, as `train`; of the hub also `train[:100]`."""
    revision: str | None = None
    """Which commit, tag or branch of the data set."""

    @property
    def name(self) -> str:
        """What a person knows it by."""
        return self.dataset or self.path.name


def find_source(
    path: str, folder: Path, *, subset: str | None = None, split: str | None = None, revision: str | None = None
) -> Source:
    """What the path of an experiment means.

    Args:
        path: absolute, or relative to the experiment's folder; or the id of a data set.
        folder: the experiment's.
        subset: see `Source`, as the others.
        split: of a folder's files, those whose names say that they are it.
        revision: of a data set of the hub.
    """
    dataset = name_dataset(path, folder, split=split)
    return Source(folder / Path(path).expanduser(), dataset, subset, split, revision)


def read_rows(
    source: Source, *, limit: int | None, max_bytes: int | None, mistakes: Mistakes, paragraphs: str | None = None
) -> list[Row]:
    """Read rows; nothing of their values is checked.

    Args:
        source: where they are.
        limit: rows to read from the start, at least 1; None for all.
        max_bytes: most bytes to read, uncompressed; None for half of the memory that is available.
        mistakes: takes the rows that cannot be read.
        paragraphs: the column that paragraphs of plain text become; None where there may be no plain text.

    Raises:
        SeedFileError: there is nothing, or a file as a whole cannot be read.
        ValueError: limit below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    budget, path = build_budget(max_bytes), source.path
    if source.dataset is not None:
        return _read_dataset(source.dataset, lambda: _load_from_hub(source), limit, budget)
    if path.exists():
        _refuse_hub_settings(source)
    if any((path / name).is_file() for name in SAVED):
        return _read_dataset(str(path), lambda: _load_from_disk(source), limit, budget)
    rows: list[Row] = []
    for file in _find_files(source, with_text=paragraphs is not None):
        left = None if limit is None else limit - len(rows)
        if left == 0:
            break
        rows += read_file(file, limit=left, budget=budget, mistakes=mistakes, paragraphs=paragraphs)
    return rows


def _refuse_hub_settings(source: Source) -> None:
    """Refuse what only a data set of the hub has: left aside, other rows would be read than those that are meant."""
    given = {"subset": source.subset, "revision": source.revision}
    named = [f"{name} {value!r}" for name, value in given.items() if value is not None]
    if named:
        raise refuse_file(
            source.path,
            f"is on this machine, and {' and '.join(named)} can only be chosen of a data set of the hub; leave "
            f"{' and '.join(name for name, value in given.items() if value is not None)} out and name the files that "
            "are meant, or let the path begin with hf://datasets/",
        )


def _find_files(source: Source, *, with_text: bool) -> list[Path]:
    """The files of a path; where they are of several splits, those of the one that is asked for."""
    path, endings = source.path, (*ENDINGS, *TEXT_ENDINGS) if with_text else ENDINGS
    files = list_files(path, endings=endings)
    if not files and is_pattern(path):
        raise refuse_file(path, "no file matches; check the pattern in the experiment")
    if not files and not path.exists():
        is_file = source.split is not None or find_ending(path.name) in endings
        remedy = "" if is_file else "; a data set of the hub also needs a split"
        raise refuse_file(path, f"no such file; check the path in the experiment{remedy}")
    if not files:
        raise refuse_file(path, f"is a folder without a file that ends in {', '.join(endings)}; put the data there")
    folder = path if path.is_dir() else path.parent
    splits = {file: find_split(file, folder) for file in files}
    found = sorted({split for split in splits.values() if split is not None})
    if files == [path] and not found:
        return files  # a person who names a file means it, whatever the split
    if source.split is not None:
        files = [file for file, split in splits.items() if split == source.split]
        if not files:
            told = ", ".join(found) or "no split at all"
            raise refuse_file(path, f"no file belongs to the split {source.split!r}, the names say {told}; correct it")
    elif len(found) > 1 and len(files) > 1:
        # Read together, held-out rows would be trained on.
        raise refuse_file(path, f"holds the splits {', '.join(found)}; set split to one of them, or name a file")
    return files


def _read_dataset(name: str, load: "Callable[[], Dataset]", limit: int | None, budget: Budget) -> list[Row]:
    dataset = load()
    if limit is not None:
        dataset = dataset.select(range(min(limit, len(dataset))))
    budget.take(name, dataset.data.nbytes * len(dataset) // max(len(dataset.data), 1))
    if not len(dataset):
        raise refuse_file(name, "the data set is empty; it needs at least one row")
    return list(number_rows(name, dataset.to_polars()))


def _load_from_disk(source: Source) -> "Dataset":
    from datasets import Dataset, load_from_disk

    try:
        found: Any = load_from_disk(str(source.path))
    except (OSError, ValueError, KeyError) as error:
        raise refuse_file(source.path, f"is no data set that can be loaded ({error}); save it again") from error
    if isinstance(found, Dataset):
        if source.split is not None and str(found.split) != source.split:
            told = "a part without a name" if found.split is None else f"the split {found.split}"
            raise refuse_file(
                source.path, f"holds {told}, and split is {source.split!r}; correct split or leave it out"
            )
        return found
    if source.split not in found:
        told = "set split to one of them" if source.split is None else f"there is no {source.split!r}"
        raise refuse_file(source.path, f"holds the splits {', '.join(found)}; {told}")
    return found[source.split]


def _load_from_hub(source: Source) -> "Dataset":
    from datasets import Dataset, load_dataset

    assert source.dataset is not None, "a data set of the hub has a name"
    if source.split is None:
        raise refuse_file(source.dataset, "is a data set of the hub; set split to the part to read, such as train")
    try:
        found: Any = load_dataset(source.dataset, source.subset, split=source.split, revision=source.revision)
    # What `datasets` and the hub raise: no network, no such data set, no such subset, split or revision.
    except (OSError, ValueError) as error:
        revision = f" --revision {source.revision}" if source.revision else ""
        raise refuse_file(
            source.dataset,
            f"cannot be loaded from the hub ({error}); correct path, subset, split or revision, or run `hf download "
            f"{source.dataset} --repo-type dataset{revision} --local-dir FOLDER` where the hub can be reached and set "
            "path to FOLDER",
        ) from error
    assert isinstance(found, Dataset), "one split is one data set"
    return found
