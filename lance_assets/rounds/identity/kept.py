"""The identity of every noun of every round, kept beside the tables: `identity/<experiment>/<round>/<noun>.json`."""

import json
from collections.abc import Iterator, Mapping
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


def _find_file(tables: TableStore, experiment: str, round_key: str, noun: str) -> Path:
    folder = tables.root / "identity" / validate_name(experiment, what="experiment") / validate_round_key(round_key)
    return folder / f"{validate_name(noun, what='noun')}.json"
