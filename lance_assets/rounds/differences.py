"""In which settings a round differs from another one, and from its experiment's file."""

import json
from collections.abc import Sequence
from typing import Any

from lance_assets.rounds.identity.kept import ABSENT, Difference, NoIdentityError, compare_identities, read_identity
from lance_assets.rounds.nouns import identify, list_nouns
from lance_assets.rounds.plan import Plan
from lance_assets.settings.overrides import format_value
from resources.stores.tables import TableStore

OVERRIDES = "overrides"
"""The name of a round's overrides in the identity of its start_checkpoint."""

OF_FILE = "the file's value"
"""The value of what only one of two rounds overrides."""


def read_settings(plan: Plan, noun: str) -> dict[str, Any]:
    """The settings that a noun's identity reads, with the hashes of what they name, as JSON holds them."""
    found: dict[str, Any] = json.loads(json.dumps(identify(plan, noun)["settings"], default=str))
    return found


def compare_with_file(experiment: Plan, plan: Plan, noun: str) -> list[Difference]:
    """Of what a noun's identity reads, the settings that a round has otherwise than the file, the file's value first.

    Args:
        experiment: as its file has it.
        plan: as the round has it.
        noun: which noun.
    """
    return compare_identities(read_settings(experiment, noun), read_settings(plan, noun))


def compare_with_round(plan: Plan, tables: TableStore, round_key: str) -> list[Difference]:
    """The settings of a round's nouns that differ from those that another round's were made with.

    Settings are compared, with what they name (files, models, templates); code and installed libraries are not.

    Args:
        plan: the experiment as the round has it.
        tables: of all rounds.
        round_key: the other round; its nouns that have not been made, or have no identity, are left out.

    Returns:
        The other round's value first; a setting that several nouns read is there once.
    """
    found: dict[tuple[str, str], Difference] = {}
    overridden: dict[str, Any] = {}
    for noun in list_nouns(plan):
        try:
            other = read_identity(tables, plan.name, round_key, noun.name)["settings"]
        except NoIdentityError:
            continue
        own = read_settings(plan, noun.name)
        own.pop(OVERRIDES, None)
        overridden |= other.pop(OVERRIDES, {})
        for each in compare_identities(other, own):
            found.setdefault((each.path, str(each.after)), each)
    # Of the overrides those are left that no noun reads: the bars of checks.
    seen = {path for path, _ in found}
    for path in sorted({*overridden, *plan.overrides}):
        is_seen = any(f".{path}".endswith(f".{each}") for each in seen)
        before, after = (each.get(path, OF_FILE) for each in (overridden, plan.overrides))
        if not is_seen and before != after:
            found[path, str(after)] = Difference(path, before, after)
    return list(found.values())


def describe_differences(differences: Sequence[Difference]) -> str:
    """Differences in words, such as `temperature 0.9 in place of 0.7`; empty where there are none."""
    return "; ".join(f"{each.path} {_say(each.after)} in place of {_say(each.before)}" for each in differences)


def _say(value: object) -> str:
    return "nothing" if value == ABSENT else format_value(value)
