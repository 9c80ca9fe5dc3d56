"""Where experiments lie, and what each experiment's file says.

Each file is read on its own, so that a broken one is left out with its mistakes and the others stay.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lance_assets.home import list_folders
from lance_assets.prompts.own_words import find_mistakes
from lance_assets.rounds.plan import Plan
from lance_assets.settings.experiment import ExperimentSettings
from lance_assets.settings.file import check_files, read_attributes
from lance_assets.settings.values import check_experiment_name


def plan_experiment(settings: ExperimentSettings, folder: Path) -> Plan:
    """The plan of the experiment in a folder.

    Raises:
        ValueError: the folder's name is not usable, a file it names is missing, or its own prompt templates are wrong.
    """
    try:
        check_experiment_name(folder.name)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    check_files(settings, folder / "defs.yaml")
    plan = Plan(folder.name, folder, settings)
    if mistakes := find_mistakes(plan.own_words, folder, plan.asked):
        raise ValueError("\n".join(mistakes))
    return plan


def read_plan(file: Path) -> Plan:
    """The plan of the experiment in a file.

    Raises:
        ValueError: what is wrong with the file, one line a mistake: file, line, field, value and remedy.
    """
    return plan_experiment(read_attributes(file), file.parent)


def load_plans(folders: Sequence[Path] | None = None) -> dict[str, Plan | str]:
    """The plan of every experiment by its name, or what is wrong with its file.

    Args:
        folders: whose subfolders with a `defs.yaml` are experiments; None: those of `list_folders`.
    """
    files: dict[str, list[Path]] = {}
    for folder in list_folders() if folders is None else folders:
        for file in sorted(folder.glob("*/defs.yaml")):
            files.setdefault(file.parent.name, []).append(file)
    return {name: _load_plan(found) for name, found in sorted(files.items())}


def _load_plan(files: Sequence[Path]) -> Plan | str:
    """The plan of the one file of a name; two of them would share one experiment's data."""
    file, *others = files
    # Tables and checkpoints are kept by the experiment's name.
    if others:
        return f"{file}: {others[0]} has the same name {file.parent.name!r}; rename one of the two folders"
    try:
        return read_plan(file)
    except (ValueError, OSError) as error:
        text = str(error)
        # Not every error names the file, and a person has many of them.
        return text if str(file.parent) in text else f"{file}: {text}"


def find_plan(name: str, plans: Mapping[str, Plan | str] | None = None) -> Plan:
    """The plan of an experiment.

    Args:
        name: the name of its folder.
        plans: every experiment; None: those of `load_plans`.

    Raises:
        ValueError: no experiment has that name, or its file is broken.
    """
    found = load_plans() if plans is None else plans
    if name not in found:
        folders = ", ".join(map(str, list_folders()))
        raise ValueError(f"no experiment {name!r} in {folders}; there are: {', '.join(sorted(found)) or 'none'}")
    plan = found[name]
    if isinstance(plan, str):
        raise ValueError(f"experiment {name!r} is broken: {plan}")
    return plan
