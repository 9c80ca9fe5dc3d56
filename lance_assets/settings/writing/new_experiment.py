"""A new experiment's folder: the file with every setting, and data to start with."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lance_assets.home import SHIPPED_FOLDER
from lance_assets.prompts import PROFILES
from lance_assets.recipes.contract import find_recipe
from lance_assets.settings.filters import OF_ALL_MODELS, OF_SMALL_MODELS
from lance_assets.settings.values import check_experiment_name
from lance_assets.settings.writing.template import render_experiment

"""Where the experiments of this package lie."""

EXAMPLE = "mini_lance"
"""The experiment whose evaluation a new one takes where the package has none of its recipe."""

PATH_FIELDS = ("path", "eft_path", "model", "protected_prompts", "include_path", "accelerate_config")
"""Settings that may hold a path relative to the experiment's folder."""

OWN_FIELDS = ("description", "owners")
"""What a new experiment does not take from another one."""


KEPT_FOR_FIGURES = (
    *("force_ending", "structured_output", "num_signal_pairs", "min_completion_words", "min_chars", "keeps_contrast"),
    *("dtype", "save_dtype", "warmup_from_zero", "gradient_accumulation_steps", "trained_positions_only"),
)
"""Settings that the package's experiments name only so that their published tables stay; a new one has the defaults."""


def create_experiment(
    folder: Path, *, recipe: str, profile: str | None = None, type_name: str = "lance_assets.Experiment"
) -> list[str]:
    """Write an experiment that runs at once on a small packaged model, where the package has one for the recipe.

    The settings are those of the package's `mini_` experiment of the recipe, whose data files are copied beside them,
    without `KEPT_FOR_FIGURES` and with the filters of what models write in place of what they were asked for.
    For a recipe without such an experiment, the file names a `seeds.jsonl` that has still to be put there.

    Args:
        folder: the new folder; its name is the experiment's.
        recipe: a name that `find_recipe` knows.
        profile: of the prompts; None for that of the package's experiment. `small` names two more filters.
        type_name: the type that the file names.

    Returns:
        The names of the files written.

    Raises:
        ValueError: no such recipe or profile, a name that is no experiment's, or the folder has an experiment already.
    """
    find_recipe(recipe)
    if profile not in (None, *PROFILES):
        raise ValueError(f"there is no prompt profile {profile!r}; choose one of {', '.join(PROFILES)}")
    check_experiment_name(folder.name)
    file = folder / "defs.yaml"
    if file.exists():
        raise ValueError(f"{file} exists already; choose another name, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    source = SHIPPED_FOLDER / f"mini_{recipe}"
    if source.is_dir():
        attributes: dict[str, Any] = {
            name: _adopt(name, value, source, folder)
            for name, value in _read_shipped(source).items()
            if name not in (*OWN_FIELDS, *KEPT_FOR_FIGURES)
        }
    else:
        evaluation = _read_shipped(SHIPPED_FOLDER / EXAMPLE)["evaluation"]
        attributes = {"recipe": recipe, "model": "small", "prompt_profile": "compact"}
        attributes |= {"seeds": {"path": "seeds.jsonl"}, "evaluation": evaluation}
    if profile is not None:
        attributes["prompt_profile"] = profile
    attributes["filters"] = list_filters(attributes)
    file.write_text(render_experiment(attributes, type_name=type_name), encoding="utf-8")
    return sorted(path.name for path in folder.iterdir())


def list_filters(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The filters that an experiment names, and those of what models of its profile write, each once."""
    named: list[dict[str, Any]] = list(attributes.get("filters", []))
    wanted = OF_SMALL_MODELS if attributes["prompt_profile"] == "small" else OF_ALL_MODELS
    known = {one["name"] for one in named}
    return [*named, *({"name": name} for name in wanted if name not in known)]


def _read_shipped(folder: Path) -> dict[str, Any]:
    """What the file of a shipped experiment says."""
    attributes: dict[str, Any] = yaml.safe_load((folder / "defs.yaml").read_text(encoding="utf-8"))["attributes"]
    return attributes


def _adopt(name: str, value: Any, source: Path, folder: Path) -> Any:
    """A setting as the new folder needs it: a data file is copied there, another folder gets its absolute path."""
    if isinstance(value, dict):
        kept = {inner: each for inner, each in value.items() if inner not in KEPT_FOR_FIGURES}
        return {inner: _adopt(inner, each, source, folder) for inner, each in kept.items()}
    if name not in PATH_FIELDS or not isinstance(value, str):
        return value
    place = source / value
    if place.is_file():
        shutil.copy(place, folder / place.name)
        return place.name
    return str(place.resolve()) if place.is_dir() else value
