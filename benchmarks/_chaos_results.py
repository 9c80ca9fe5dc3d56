"""What two runs of one experiment left behind, and what differs: tables, files of checkpoints, and vectors."""

import collections
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from resources.stores.history import HistoryStore
from resources.stores.tables import TableStore


@dataclass
class Comparison:
    """What differs between a run that was killed and one that was not."""

    num_lost: int = 0
    """Rows that only the run without kills has, of tables and of vectors."""
    num_doubled: int = 0
    """Rows that the run with kills has more often, of tables and of vectors."""
    differences: list[str] = field(default_factory=list)
    """Files and vectors that are not the same, by name."""
    num_compared: int = 0
    """Files and vector rows that were compared."""


def compare(wanted: Path, found: Path, experiment: str) -> Comparison:
    """Compare all that two data roots hold of an experiment.

    Args:
        wanted: the folder of the data that no kill has touched.
        found: the other one.
        experiment: its name.
    """
    result = Comparison()
    for name in ("tables", "checkpoints"):
        first, second = (dict(_list_files(root / name / experiment)) for root in (wanted, found))
        result.num_compared += len(first)
        for file in sorted({*first, *second}):
            if file not in first or file not in second or first[file].read_bytes() != second[file].read_bytes():
                result.differences.append(f"{name}/{file}")
            if file.endswith(".parquet"):
                _count_rows(result, *(_read(each.get(file)) for each in (first, second)))
    for key in TableStore(wanted).list_rounds(experiment):
        sides = [HistoryStore(root / "history.lancedb").read_round(experiment, key) for root in (wanted, found)]
        texts = [rows.sort("row_id") for rows, _ in sides]
        vectors = [dict(zip(rows["row_id"], map(bytes, found), strict=True)) for rows, found in sides]
        result.num_compared += len(vectors[0])
        _count_rows(result, *(collections.Counter(rows["row_id"]) for rows in texts))
        if vectors[0] != vectors[1] or texts[0]["text"].to_list() != texts[1]["text"].to_list():
            result.differences.append(f"vectors of {key}")
    return result


def _list_files(folder: Path) -> Iterator[tuple[str, Path]]:
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield file.relative_to(folder).as_posix(), file


def _read(file: Path | None) -> collections.Counter[str]:
    """The rows of a table, each as text with how often it is there."""
    rows = [] if file is None else pl.read_parquet(file).rows()
    return collections.Counter(map(repr, rows))


def _count_rows(result: Comparison, wanted: collections.Counter[str], found: collections.Counter[str]) -> None:
    result.num_lost += (wanted - found).total()
    result.num_doubled += (found - wanted).total()
