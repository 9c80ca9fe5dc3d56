"""Describe the mistakes in an experiment's `defs.yaml` for a person: file, line, field, value and remedy."""

import difflib
import reprlib
from pathlib import Path
from typing import get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from lance_assets.recipes.registry import find_recipe
from lance_assets.settings.experiment import ExperimentSettings
from lance_assets.worlds import WorldError, find_world


def find_line(path: Path, dotted: str) -> int | None:
    """The line of a field such as `seeds.path` in an experiment's file, from 1; None when it is not written there."""
    node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    line = None
    for name in ("attributes", *dotted.split(".")):
        keys = {key.value: (key, value) for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}
        if name not in keys:
            return None
        key, node = keys[name]
        line = key.start_mark.line + 1
    return line


def check_files(settings: ExperimentSettings, file: Path) -> None:
    """Every file the experiment names exists, and its world can be found.

    Raises:
        ValueError: some do not; the message names file, line, field, value and remedy of each.
    """
    lm_eval, judge = settings.evaluation.lm_eval, settings.evaluation.judge
    named = {
        "seeds.path": settings.seeds.path,
        "seeds.eft_path": settings.seeds.eft_path,
        "training.accelerate_config": settings.training.accelerate_config,
        "evaluation.protected_prompts": settings.evaluation.protected_prompts,
        "evaluation.lm_eval.include_path": lm_eval.include_path if lm_eval else None,
        "evaluation.judge.path": judge.path if judge else None,
    }
    mistakes = []
    for field, value in named.items():
        # expanded as the readers do it
        if value is not None and not (place := file.parent / Path(value).expanduser()).exists():
            mistakes.append(
                f"{file}:{find_line(file, field) or 1}: attributes.{field}: got {value!r}, but there is no {place}; "
                "put the file there or correct the path"
            )
    if settings.evaluation.world is not None:
        field = "evaluation.world.name"
        try:
            find_world(settings.evaluation.world.name, file.parent)
        except WorldError as error:
            mistakes.append(f"{file}:{find_line(file, field) or 1}: attributes.{field}: {error}")
    if mistakes:
        raise ValueError("\n".join(mistakes))


def describe_mistakes(error: ValidationError) -> str:
    """A validation error in words, one line for each mistake: `file:line: field: got value; what is allowed`.

    Args:
        error: from reading a file's attributes through Dagster, which puts "field at file:line" in place of the field.
    """
    lines = []
    for mistake in error.errors():
        location = ".".join(str(part) for part in mistake["loc"])
        field, found, place = location.rpartition(" at ")
        # an item of a list is described as the list
        *above, name = [part for part in (field or location).split(".") if not part.isdigit()]
        if above == ["attributes", "parameters"] and found:
            allowed = _fields_of_recipe(Path(place.rpartition(":")[0]))
        else:
            allowed = _fields_in([part for part in above if part != "attributes"])
        words = _describe_mistake(mistake, field=field or location, name=name, allowed=allowed)
        lines.append(f"{place}: {words}" if found else words)
    return "\n".join(lines)


def _describe_mistake(mistake: ErrorDetails, *, field: str, name: str, allowed: dict[str, FieldInfo]) -> str:
    value = mistake["input"]
    if mistake["type"] == "missing":
        meaning = allowed[name].description if name in allowed else None
        return f"{field}: a required field is missing; add it{f': {meaning}' if meaning else ''}"
    if mistake["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, allowed, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"{field}: no such field (got {reprlib.repr(value)}); {hint}The fields here are {', '.join(allowed)}"
    said = mistake["msg"].removeprefix("Value error, ")
    if isinstance(value, BaseModel | dict):
        return f"{field}: {said}"
    meaning = f" ({allowed[name].description})" if name in allowed else ""
    return f"{field}: got {reprlib.repr(value)}; {said[0].lower()}{said[1:]}{meaning}"


def _fields_of_recipe(file: Path) -> dict[str, FieldInfo]:
    """The fields of `parameters`. The recipe that the file names exists, since its parameters were read."""
    recipe = find_recipe(yaml.safe_load(file.read_text(encoding="utf-8"))["attributes"]["recipe"])
    return dict(recipe.settings.model_fields)


def _fields_in(parts: list[str]) -> dict[str, FieldInfo]:
    """The fields of the section at a path in `attributes`; empty when there is no such section."""
    model: type[BaseModel] = ExperimentSettings
    for part in parts:
        if part not in model.model_fields:
            return {}
        annotation = model.model_fields[part].annotation
        sections = [
            kind
            for kind in (annotation, *get_args(annotation))
            if isinstance(kind, type) and issubclass(kind, BaseModel)
        ]
        if not sections:
            return {}
        model = sections[0]
    return dict(model.model_fields)
