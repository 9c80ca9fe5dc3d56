"""What was made from what: a record of each noun of each round, `made/<experiment>/<round>/<noun>.json`.

It is written last, so where it is there, the noun is whole. With the identity beside it, it says whether a noun would
be made the same again.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from resources.stores.tables import TableStore, validate_name, validate_round_key, write_file_atomically


@dataclass(frozen=True)
class MadeRecord:
    """What was written of a noun, and what it was made from."""

    version: str
    """The data version that Dagster was told."""
    tables: dict[str, str]
    """The hash of each of its tables, by name."""
    inputs: dict[str, str]
    """The hash of each table of the round that it was made from, by name."""


def record_made(tables: TableStore, experiment: str, round_key: str, noun: str, made: MadeRecord) -> None:
    """Keep what was made of a noun; the record of an earlier making is replaced."""
    path = _find_file(tables, experiment, round_key, noun)
    write_file_atomically(path, (json.dumps(asdict(made), indent=2, sort_keys=True) + "\n").encode())


def read_made(tables: TableStore, experiment: str, round_key: str, noun: str) -> MadeRecord | None:
    """What was made of a noun; None where it was not made, or by a version that kept no record."""
    try:
        return MadeRecord(**json.loads(_find_file(tables, experiment, round_key, noun).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def hash_tables(tables: TableStore, experiment: str, round_key: str, names: Sequence[str]) -> dict[str, str]:
    """The hash of each of some tables as they are on disk; those that are not there are left out."""
    return {
        name: tables.hash(experiment, round_key, name) for name in names if tables.exists(experiment, round_key, name)
    }


def _find_file(tables: TableStore, experiment: str, round_key: str, noun: str) -> Path:
    folder = tables.root / "made" / validate_name(experiment, what="experiment") / validate_round_key(round_key)
    return folder / f"{validate_name(noun, what='noun')}.json"
