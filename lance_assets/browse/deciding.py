"""The numbers by which a round took rows or left them: thresholds and limits, as they were when it was made."""

from collections.abc import Mapping
from typing import Any

from lance_assets.browse.shelf import Shelf
from lance_assets.rounds.identity.kept import NoIdentityError, read_identity

DECIDING = ("cleaned_set", "reviewed_set", "sft_set", "preference_pairs")
"""The tables whose settings say why a row is in them or is not."""


def read_deciding(shelf: Shelf, experiment: str, round_key: str, table: str) -> dict[str, float]:
    """The numbers among the settings that a table was made with: its thresholds and limits, by name."""
    if table not in DECIDING:
        return {}
    try:
        settings = read_identity(shelf.platform.tables, experiment, round_key, table)["settings"]
    except (NoIdentityError, KeyError):
        return {}
    return dict(_list_numbers(settings))


NOT_DECIDING = ("stages", "engine", "roles", "prompts", "rng_seed", "held_out", "world", "embedder")
"""Settings that say how a model is asked, and not what is taken."""


def _list_numbers(settings: Mapping[str, Any]) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in settings.items():
        if name in NOT_DECIDING:
            continue
        if isinstance(value, Mapping):
            found += _list_numbers(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((name, value))
    return found
