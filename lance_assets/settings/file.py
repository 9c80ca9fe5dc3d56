"""Describe the mistakes in an experiment's `defs.yaml` for a person: file, line, field, value and remedy."""

import difflib
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from lance_assets.algorithms.measures.headline import CONTROLLED, JUDGE, name_metric
from lance_assets.data_paths import list_files, name_dataset
from lance_assets.keys import HIDDEN, hide_secrets, is_secret_name
from lance_assets.recipes.contract import find_recipe
from lance_assets.rewards import RewardError, find_reward_function
from lance_assets.settings.evaluation import EvaluationSettings, ScoreSettings
from lance_assets.settings.experiment import ExperimentSettings
from lance_assets.settings.filters import find_filter
from lance_assets.settings.task_files import find_task_code
from lance_assets.settings.yaml_nodes import walk_nodes
from lance_assets.worlds import World, WorldError, find_world

TYPES = ("lance_assets.Experiment", ".Experiment", "lance_assets.assets.experiment.Experiment")
"""The types that an experiment's file may name; the second where the folder's own package imports the component."""

MAX_TOLD = 2000
"""Characters of a mistake; more are cut out in the middle, since the remedy stands at the end."""

_TYPE_NAMES = reprlib.Repr()
"""Shortens a type that a file names; a dotted name is shown whole."""
_TYPE_NAMES.maxstring = 120
DOCUMENT_FIELDS = ("type", "attributes")
"""What a file says beside comments."""


def find_line(path: Path, dotted: str) -> int | None:
    """The line of a field such as `seeds.path` or `filters.0.name` in an experiment's file, from 1.

    Returns:
        None where the field is not written there.
    """
    # The values that pydantic reports have no place, so the line is looked up in the tree that YAML parsed.
    node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    line = None
    for name in ("attributes", *dotted.split(".")):
        if isinstance(node, yaml.SequenceNode) and name.isdigit() and int(name) < len(node.value):
            node = node.value[int(name)]
            line = node.start_mark.line + 1
            continue
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
        "texts.path": settings.texts.path if settings.texts else None,
        "training.accelerate_config": settings.training.accelerate_config,
        "evaluation.protected_prompts": settings.evaluation.protected_prompts,
        "evaluation.lm_eval.include_path": lm_eval.include_path if lm_eval else None,
        "evaluation.judge.path": judge.path if judge else None,
    }
    mistakes = []
    splits = {"seeds.path": settings.seeds.split, "texts.path": settings.texts.split if settings.texts else None}
    for field, value in named.items():
        if value is None or name_dataset(value, file.parent, split=splits[field] if field in splits else None):
            continue
        if missing := _find_missing(file.parent, value):
            told = f"{file}:{find_line(file, field) or 1}: attributes.{field}: got {_shorten(value)!r}"
            mistakes.append(f"{told}, but {missing}; put the file there or correct the path")
    mistakes += _find_task_mistakes(settings, file)
    world = None
    if settings.evaluation.world is not None:
        field = "evaluation.world.name"
        try:
            world = find_world(settings.evaluation.world.name, file.parent)
        except WorldError as error:
            mistakes.append(f"{file}:{find_line(file, field) or 1}: attributes.{field}: {error}")
    field = "training.grpo.reward"
    if (reward := settings.own_reward) is not None:
        try:
            find_reward_function(reward, file.parent)
        except RewardError as error:
            mistakes.append(f"{file}:{find_line(file, field) or 1}: attributes.{field}: {error}")
    for field, told in find_unknown_scores(
        settings.evaluation, world, of_sets=find_recipe(settings.recipe).set_benchmarks
    ):
        mistakes.append(f"{file}:{find_line(file, field) or 1}: attributes.{field}: {told}")
    if mistakes:
        raise ValueError("\n".join(map(_cut, mistakes)))


def _cut(told: str) -> str:
    """A mistake in which a name of thousands of letters may stand as it was written."""
    return told if len(told) <= MAX_TOLD else f"{told[: MAX_TOLD // 2]} [...] {told[-MAX_TOLD // 2 :]}"


def _shorten(text: str) -> str:
    return text if len(text) <= 500 else f"{text[:500]}..."


def _find_missing(folder: Path, value: str) -> str:
    """What is wrong with a path, in words; empty where there is a file, a folder or a pattern with files."""
    try:
        # expanded as the readers do it
        place = folder / Path(value).expanduser()
        if place.resolve() == Path(place.anchor):
            return f"{place} is the whole disk"
        return "" if list_files(place) or place.exists() else f"there is no {_shorten(str(place))}"
    except (OSError, ValueError, RuntimeError) as error:
        return f"it cannot be looked for ({getattr(error, 'strerror', None) or error})"


def _find_task_mistakes(settings: ExperimentSettings, file: Path) -> list[str]:
    """The task files of the harness that cannot be read, or run code that the experiment does not allow."""
    lm_eval = settings.evaluation.lm_eval
    # A folder that is not there, or the whole disk, is a mistake already.
    if lm_eval is None or (lm_eval.include_path and _find_missing(file.parent, lm_eval.include_path)):
        return []
    folder = file.parent / Path(lm_eval.include_path).expanduser() if lm_eval.include_path else None
    mistakes = []
    for found in find_task_code(lm_eval.tasks, folder):
        if found.is_broken:
            mistakes.append(f"{found.file}:{found.line}: not YAML: {found.what}; correct the line or one above it")
        elif not settings.evaluation.allow_task_code:
            mistakes.append(
                f"{found.file}:{found.line}: {found.what} runs Python, and evaluation.allow_task_code is false; read "
                f"what it runs, then set allow_task_code: true in the section evaluation of {file}"
            )
    return mistakes


def find_unknown_scores(
    evaluation: EvaluationSettings,
    world: World | None,
    *,
    of_sets: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> list[tuple[str, str]]:
    """The scores of the headline and the floors that no evaluation of the experiment gives: field, and what is wrong.

    Which metrics a task of the harness has is known only once it was evaluated.

    Args:
        evaluation: what is evaluated.
        world: the checkable task among it; None where there is none, or where it cannot be found.
        of_sets: the recipe's own benchmarks on the world's problems, with their metrics.
    """
    named: list[tuple[str, ScoreSettings]] = [
        *((f"evaluation.headline.{place}", score) for place, score in enumerate(evaluation.headline)),
        *((f"evaluation.floors.{place}", score) for place, score in enumerate(evaluation.floors)),
    ]
    metrics: dict[str, tuple[str, ...]] = {JUDGE: (CONTROLLED, "win_rate")} if evaluation.judge is not None else {}
    if world is not None:
        metrics |= {world.name: evaluation.world.metrics if evaluation.world is not None else (), **of_sets}
    is_open = evaluation.lm_eval is not None or (evaluation.world is not None and world is None)
    mistakes = []
    for field, score in named:
        known = metrics.get(score.benchmark)
        if known is None and (score.benchmark == JUDGE or not is_open):
            there = ", ".join(metrics) or "none but the harness's tasks"
            mistakes.append((field, f"nothing evaluates {score.benchmark!r}; benchmarks are: {there}"))
        elif known is not None and (score.filter is not None or score.metric not in known):
            name = name_metric(score.metric, score.filter)
            mistakes.append((field, f"{score.benchmark} has no metric {name!r}; name one of {', '.join(known)}"))
        elif score.stratum is not None and (world is None or score.stratum not in world.strata):
            strata = "has no strata" if world is None else f"has the strata {', '.join(map(str, world.strata))}"
            mistakes.append((field, f"there is no stratum {score.stratum}: {score.benchmark} {strata}"))
    return mistakes


def read_attributes(file: Path) -> ExperimentSettings:
    """What an experiment's file says.

    Raises:
        ValueError: what is wrong with it, one line a mistake: file, line, field, value and remedy.
        OSError: the file cannot be read.
    """
    try:
        documents = _parse(file.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        # PyYAML counts lines and columns from 0, and editors from 1.
        mark = error.problem_mark
        assert mark is not None, "PyYAML marks every problem of a text"
        raise ValueError(
            f"{file}:{mark.line + 1}: not YAML at column {mark.column + 1}: {error.problem}; "
            "correct the line or one above it"
        ) from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{file}:1: not YAML: {error}; write it as UTF-8 text") from error
    except RecursionError as error:
        raise ValueError(f"{file}:1: its lists and sections are nested too deeply; write it flat") from error
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        # PyYAML makes numbers, dates and sets without a word on what cannot become one.
        line, text = _find_unreadable(file)
        raise ValueError(f"{file}:{line}: {text} cannot be read ({error}); put it in quotes, or correct it") from error
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise ValueError(
            f"{file}:1: an experiment's file holds one document with type and attributes, got {len(documents)} of "
            f"kind {', '.join(type(document).__name__ for document in documents) or 'none'}; correct the file"
        )
    (document,) = documents
    _check_keys(file)
    _check_document(document, file)
    try:
        return ExperimentSettings.model_validate(document.get("attributes") or {})
    except ValidationError as error:
        raise ValueError(describe_mistakes(error, file)) from error


def _parse(text: str) -> list[Any]:
    """The documents of a text; libyaml reads them, and PyYAML's own parser finds the words for a mistake.

    Raises:
        yaml.YAMLError: the text is not YAML.
    """
    try:
        # Not every build of PyYAML has libyaml.
        return list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except yaml.YAMLError:
        return list(yaml.safe_load_all(text))


def _find_unreadable(file: Path) -> tuple[int, str]:
    """The line and the text of the first value that PyYAML cannot make; line 1 where it is none alone."""
    for node in walk_nodes(yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)):
        try:
            yaml.SafeLoader("").construct_object(node)
        except yaml.YAMLError:
            continue
        except (ValueError, TypeError, AttributeError, LookupError):
            return node.start_mark.line + 1, reprlib.repr(node.value)
    return 1, "a value"


def _check_keys(file: Path) -> None:
    """No section names a field twice: PyYAML would keep the last one in silence.

    Raises:
        ValueError: one does.
    """
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        # libyaml is stricter than what read the file before, on unknown directives for example.
        told = " ".join(str(error).split())
        raise ValueError(f"{file}:1: not YAML: {told}; correct the file") from error
    for node in walk_nodes(root):
        first: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and first.setdefault(key.value, line) != line:
                raise ValueError(
                    f"{file}:{line}: {key.value}: stands in line {first[key.value]} already, and one of them would be "
                    "lost; remove one"
                )


def _check_document(document: dict[object, object], file: Path) -> None:
    """The document has the type of an experiment and no field beside `DOCUMENT_FIELDS`."""
    if "type" not in document:
        raise ValueError(f"{file}:1: type: a required field is missing; add type: {TYPES[0]}")
    if document["type"] not in TYPES:
        line = _find_document_line(file, "type")
        raise ValueError(
            f"{file}:{line}: type: got {_TYPE_NAMES.repr(document['type'])}; "
            f"the type of an experiment is {' or '.join(TYPES)}"
        )
    for name in document:
        if name not in DOCUMENT_FIELDS:
            near = difflib.get_close_matches(str(name), DOCUMENT_FIELDS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(
                f"{file}:{_find_document_line(file, name)}: {_shorten(str(name))}: no such field; {hint}"
                f"The fields here are {', '.join(DOCUMENT_FIELDS)}"
            )


def _find_document_line(file: Path, field: object) -> int:
    node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    assert isinstance(node, yaml.MappingNode), "a file whose fields are looked for holds a mapping"
    # A key that YAML reads as another value, such as null, is not written as Python shows it.
    return next((key.start_mark.line + 1 for key, _ in node.value if key.value == str(field)), 1)


def describe_mistakes(error: ValidationError, file: Path) -> str:
    """A validation error in words, one line for each mistake: `file:line: field: got value; what is allowed`.

    Args:
        error: from reading the file's attributes.
        file: the experiment's file.
    """
    lines = []
    for mistake in error.errors():
        # an item of a list is described as the list
        named = [str(part) for part in mistake["loc"] if not str(part).isdigit()]
        above, name = named[:-1], named[-1] if named else ""
        if above == ["parameters"]:
            allowed = _fields_of_recipe(file)
        elif above == ["filters"]:
            allowed = _fields_of_filter(file, int(mistake["loc"][1]))
        else:
            allowed = _fields_in(above)
        field = ".".join(("attributes", *map(str, mistake["loc"])))
        place = f"{file}:{_find_nearest_line(file, [str(part) for part in mistake['loc']])}"
        told = _describe_mistake(mistake, field=field, name=name, allowed=allowed)
        lines.append(f"{place}: {_cut(told)}")
    return "\n".join(lines)


def _find_nearest_line(file: Path, parts: Sequence[str]) -> int:
    """The line of a field or, where it is not written, of the section it is missing in."""
    for length in range(len(parts), 0, -1):
        if (line := find_line(file, ".".join(parts[:length]))) is not None:
            return line
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    return _find_document_line(file, "attributes") if "attributes" in document else 1


def _describe_mistake(mistake: ErrorDetails, *, field: str, name: str, allowed: dict[str, FieldInfo]) -> str:
    value = mistake["input"]
    if mistake["type"] == "missing":
        meaning = allowed[name].description if name in allowed else None
        return f"{field}: a required field is missing; add it{f': {meaning}' if meaning else ''}"
    if mistake["type"] == "extra_forbidden":
        # Most unknown fields are a slip of the keyboard.
        near = difflib.get_close_matches(name, allowed, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        shown = _show_value(name, value)
        return f"{field}: no such field (got {shown}); {hint}The fields here are {', '.join(allowed)}"
    said = mistake["msg"].removeprefix("Value error, ")
    if isinstance(value, BaseModel | dict):
        return f"{field}: {hide_secrets(said)}"
    meaning = f" ({allowed[name].description})" if name in allowed else ""
    return f"{field}: got {_show_value(name, value)}; {said[0].lower()}{said[1:]}{meaning}"


def _show_value(name: str, value: object) -> str:
    """A value as it was written; not one that may be a key, which people put where its variable is to be named."""
    return HIDDEN if is_secret_name(name) else hide_secrets(reprlib.repr(value))


def _fields_of_recipe(file: Path) -> dict[str, FieldInfo]:
    """The fields of `parameters`. The recipe that the file names exists, since its parameters were read."""
    recipe = find_recipe(yaml.safe_load(file.read_text(encoding="utf-8"))["attributes"]["recipe"])
    return dict(recipe.settings.model_fields)


def _fields_of_filter(file: Path, place: int) -> dict[str, FieldInfo]:
    """The fields of a filter by its place in the list: where its settings were read, its name is known."""
    filters = yaml.safe_load(file.read_text(encoding="utf-8"))["attributes"]["filters"]
    return dict(find_filter(filters[place]["name"]).model_fields)


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
