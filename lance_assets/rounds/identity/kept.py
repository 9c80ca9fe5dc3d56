"""What is kept beside the tables of every noun of every round: its identity, and what it was made from.

* `identity/<experiment>/<round>/<noun>.json`: everything beside its inputs that decides its content.
* `made/<experiment>/<round>/<noun>.json`: the hashes of its tables and of its inputs. It is written last, so where it
  is there, the noun is whole; with the identity it says whether a noun would be made the same again.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from resources.stores.files import (
    DamagedFileError,
    read_json_file,
    validate_name,
    validate_round_key,
    write_file_atomically,
)
from resources.stores.tables import TableStore

ABSENT = "(absent)"
"""The value of what only one of two identities has."""


class NoIdentityError(FileNotFoundError):
    """A round has no identity of a noun."""


class Difference(NamedTuple):
    """One place in which two identities differ."""

    path: str
    """The keys down to the place, with dots: `settings.temperature`."""
    before: object
    """The value in the first, or `ABSENT`."""
    after: object
    """The value in the second, or `ABSENT`."""


def record_identity(
    tables: TableStore, experiment: str, round_key: str, noun: str, identity: Mapping[str, Any]
) -> Path:
    """Keep what a noun of a round was made with.

    Args:
        tables: beside which it is kept.
        experiment: the experiment.
        round_key: the round.
        noun: what was made.
        identity: everything beside its inputs that decides its content, as JSON.
    """
    path = _find_file(tables, experiment, round_key, noun)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file_atomically(path, (json.dumps(identity, indent=2, sort_keys=True, default=str) + "\n").encode())
    return path


def read_identity(tables: TableStore, experiment: str, round_key: str, noun: str) -> dict[str, Any]:
    """What a noun of a round was made with.

    Raises:
        NoIdentityError: the noun has not been made, or was made before identities were kept, or its file is damaged.
    """
    path = _find_file(tables, experiment, round_key, noun)
    named = f"{noun} of {experiment} {round_key}"
    if path.is_file():
        try:
            found: dict[str, Any] = read_json_file(path, remedy=f"materialize {named} again to have another one")
        except DamagedFileError as error:
            raise NoIdentityError(str(error)) from error
        return found
    if tables.exists(experiment, round_key, noun):
        raise NoIdentityError(f"{named} was made before identities were kept; materialize it again to have one")
    raise NoIdentityError(f"{named} has not been made ({path} is not there)")


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
    path = _find_file(tables, experiment, round_key, noun, folder="made")
    write_file_atomically(path, (json.dumps(asdict(made), indent=2, sort_keys=True) + "\n").encode())


def read_made(tables: TableStore, experiment: str, round_key: str, noun: str) -> MadeRecord | None:
    """What was made of a noun; None where it was not made, or by a version that kept no record."""
    try:
        return MadeRecord(
            **json.loads(_find_file(tables, experiment, round_key, noun, folder="made").read_text(encoding="utf-8"))
        )
    except (FileNotFoundError, ValueError, TypeError):
        return None


def hash_tables(tables: TableStore, experiment: str, round_key: str, names: Sequence[str]) -> dict[str, str]:
    """The hash of each of some tables as they are on disk; those that are not there are left out."""
    return {
        name: tables.hash(experiment, round_key, name) for name in names if tables.exists(experiment, round_key, name)
    }


def compare_identities(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Every place in which two identities differ, by path.

    >>> compare_identities({"settings": {"min_pairs": 1}}, {"settings": {"min_pairs": 2}})
    [Difference(path='settings.min_pairs', before=1, after=2)]
    """
    first, second = dict(_flatten(before)), dict(_flatten(after))
    found = []
    for path in sorted({*first, *second}):
        old, new = (side[path] if path in side else ABSENT for side in (first, second))
        if old != new:
            found.append(Difference(path, old, new))
    return found


def _flatten(value: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, object]]:
    """The leaves of nested mappings; a list is one leaf."""
    for key, each in value.items():
        path = f"{above}{key}"
        if isinstance(each, Mapping) and each:
            yield from _flatten(each, f"{path}.")
        else:
            yield path, each


def _find_file(tables: TableStore, experiment: str, round_key: str, noun: str, *, folder: str = "identity") -> Path:
    place = tables.root / folder / validate_name(experiment, what="experiment") / validate_round_key(round_key)
    return place / f"{validate_name(noun, what='noun')}.json"
