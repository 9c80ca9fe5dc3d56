"""What the experiments' files say, read again when one of them has changed."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lance_assets.home import list_folders
from lance_assets.rounds.experiments import load_plans
from lance_assets.rounds.plan import Plan
from resources.stores.hashes import describe_state


def remember_plans(folders: Sequence[Path] | None = None) -> Callable[[], Mapping[str, Plan | str]]:
    """What gives the plan of every experiment, or what is wrong with its file.

    Args:
        folders: whose subfolders are experiments; None: those of LANCE_EXPERIMENTS.
    """
    kept: dict[object, Mapping[str, Plan | str]] = {}

    def find_plans() -> Mapping[str, Plan | str]:
        where = list_folders() if folders is None else folders
        files = sorted(file for folder in where for file in folder.glob("*/defs.yaml"))
        states = tuple((file, describe_state(file.stat())) for file in files)
        if states not in kept:
            loaded = load_plans(folders)
            kept.clear()
            kept[states] = loaded
        return kept[states]

    return find_plans
