"""What a launch may set for one round in place of the experiment's file.

Which settings these are follows from the file's own models: a setting in one of the `OVERRIDABLE` places whose value is
a number, a word or a switch. The rest of a file is the same in every round, and `_SAME_IN_EVERY_ROUND` says why.
"""

import difflib
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from lance_assets.records import SECOND_LOSSES
from lance_assets.settings.experiment import ExperimentSettings
from lance_assets.settings.writing.template import describe_range, list_choices

OVERRIDABLE = (
    *("parameters", "training.sft", *(f"training.{loss}" for loss in SECOND_LOSSES)),
    *("training.lora", "training.token_budget"),
    *("near_duplicates", "checks", "seeds.limit", "texts.limit", "engine.max_failure_rate"),
)
"""Settings, and sections of them, that a round may have of its own."""

_INCOMPARABLE = "rounds with another one could not be compared"
_SAME_IN_EVERY_ROUND = {
    "evaluation": f"it is what rounds are compared by, and {_INCOMPARABLE}",
    "rng_seed": f"the evaluation samples with it too, and {_INCOMPARABLE}",
    "prompt_profile": f"the evaluation asks with it too, and {_INCOMPARABLE}",
    "recipe": "another method is another experiment",
    "model": "another model is another experiment",
    "model_revision": "another model is another experiment",
    "retention": "it is about all rounds, and belongs to none",
    "stop": "the stop rules decide between rounds, and belong to none",
}
"""Why a launch cannot set what it may well want to; of the others it is said that they are set in the file."""

Values = Mapping[str, Any]
"""Settings by their path in the file, such as `training.sft.learning_rate`."""


@dataclass(frozen=True)
class Overridable:
    """A setting that a launch may set."""

    path: str
    """Its path in the file, with dots."""
    kind: type
    """`bool`, `int`, `float` or `str`."""
    choices: tuple[str, ...]
    """Of a word, what it may be; empty for any."""
    is_nullable: bool
    """Whether it may be none."""
    bounds: str
    """Of a number, its range, such as ">= 0, <= 5"; empty where there is none."""
    description: str
    """What it is."""
    value: Any
    """The file's value."""

    @property
    def allowed(self) -> str:
        """What it may be, in words; empty where anything of its kind is allowed."""
        return f"one of {', '.join(self.choices)}" if self.choices else self.bounds


def list_overridable(settings: ExperimentSettings) -> dict[str, Overridable]:
    """Every setting that a launch may set for one round, by its path, in the order of the file.

    A section that the experiment does not have, such as `training.lora`, has no settings here.
    """
    found: dict[str, Overridable] = {}
    for place in OVERRIDABLE:
        *above, last = place.split(".")
        holder: Any = settings
        for name in above:
            holder = None if holder is None else getattr(holder, name)
        if holder is not None:
            found |= {each.path: each for each in _list_settings(holder, last, ".".join(above))}
    return found


def _list_settings(holder: BaseModel, name: str, above: str) -> Iterator[Overridable]:
    """The setting of a name, or those of the section of that name."""
    value, path = getattr(holder, name), f"{above}.{name}".removeprefix(".")
    if isinstance(value, BaseModel):
        for each in type(value).model_fields:
            yield from _list_settings(value, each, path)
        return
    info = type(holder).model_fields[name]
    kind, is_nullable = _find_kind(info)
    if kind is not None:
        choices = tuple(map(str, list_choices(info.annotation)))
        yield Overridable(path, kind, choices, is_nullable, describe_range(info), _find_meaning(holder, name), value)


def _find_meaning(holder: BaseModel, name: str) -> str:
    """The description of a field; a recipe that gives it another default leaves the words to the class above."""
    classes = (each for each in type(holder).__mro__ if issubclass(each, BaseModel) and name in each.model_fields)
    return next((said for each in classes if (said := each.model_fields[name].description)), "")


def _find_kind(info: FieldInfo) -> tuple[type | None, bool]:
    """The plain type of a setting, None where it is not one of a launch's; and whether the setting may be none."""
    is_union = get_origin(info.annotation) in (Union, UnionType)
    kinds = get_args(info.annotation) if is_union else (info.annotation,)
    named = [kind for kind in kinds if kind is not NoneType]
    is_nullable = len(named) < len(kinds)
    choices = list_choices(info.annotation)
    if choices and len(named) == 1 and all(isinstance(choice, str) for choice in choices):
        return str, is_nullable
    return (named[0], is_nullable) if len(named) == 1 and named[0] in (bool, int, float, str) else (None, is_nullable)


def read_setting(settings: ExperimentSettings, path: str) -> Any:
    """The value at a path."""
    value: Any = settings
    for name in path.split("."):
        value = getattr(value, name)
    return value


def apply_overrides(settings: ExperimentSettings, values: Values) -> ExperimentSettings:
    """The settings with some of them set, as strictly as a file's.

    Args:
        settings: what the experiment's file says.
        values: settings in place of the file's.

    Raises:
        ValueError: one line for each mistake: the setting, its value and what it may be; or why it cannot be set.
    """
    known = list_overridable(settings)
    mistakes = [_explain_refusal(path, known) for path in values if path not in known]
    if mistakes:
        raise ValueError("\n".join(mistakes))
    changed = {name: getattr(settings, name).model_dump() for name in {path.split(".")[0] for path in values}}
    for path, value in values.items():
        *above, last = path.split(".")
        section: Any = changed
        for name in above:
            section = section[name]
        section[last] = value
    # What is not set stays the object that it is, so that nothing of it is read a second time.
    kept = {name: getattr(settings, name) for name in ExperimentSettings.model_fields if name not in changed}
    try:
        return ExperimentSettings.model_validate(kept | changed)
    except ValidationError as error:
        raise ValueError("\n".join(_describe_mistake(mistake, known) for mistake in error.errors())) from error


def _describe_mistake(mistake: Any, known: Mapping[str, Overridable]) -> str:
    path, said = ".".join(map(str, mistake["loc"])), mistake["msg"].removeprefix("Value error, ")
    if path not in known:  # what two settings must be together
        return f"{path}: {said}".removeprefix(": ")
    setting = known[path]
    may_be = f"; it may be {setting.allowed}" if setting.allowed else ""
    return f"{path}: got {reprlib.repr(mistake['input'])}; {said[0].lower()}{said[1:]}{may_be} ({setting.description})"


def _explain_refusal(path: str, known: Mapping[str, Overridable]) -> str:
    """Why a launch cannot set something."""
    first, section = path.split(".")[0], path.rpartition(".")[0]
    if first in _SAME_IN_EVERY_ROUND:
        return f"{path} is the same in every round: {_SAME_IN_EVERY_ROUND[first]}; make a new experiment to change it"
    beside = [each for each in known if each.rpartition(".")[0] == section]
    near = difflib.get_close_matches(path, beside, n=1)
    hint = f"did you mean {near[0]!r}? A" if near else "a"
    there = beside or sorted({each.rpartition(".")[0] for each in known})
    return f"{path} is no setting that a launch can set; {hint} launch can set {', '.join(there)}"


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """The settings that a command line sets, each as `path=value` with the value as in an experiment's file.

    Raises:
        ValueError: one is not of that form, or names a setting that another one names too.

    >>> parse_assignments(["parameters.temperature=0.9", "parameters.max_seeds=null"])
    {'parameters.temperature': 0.9, 'parameters.max_seeds': None}
    """
    found: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip() or not text.strip():
            raise ValueError(
                f"a setting is given as PATH=VALUE, such as parameters.temperature=0.9, got {assignment!r}"
            )
        if path.strip() in found:
            raise ValueError(f"{path.strip()} is set twice; leave one of them out")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"{path.strip()}: {text!r} is no value as in an experiment's file") from error
        found[path.strip()] = _read_number(value)
    return found


def _read_number(value: Any) -> Any:
    """YAML reads 1e-4, which has no point, as text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def format_value(value: object) -> str:
    """A value as a person writes it in the file; none in words.

    >>> format_value(0.90), format_value(True), format_value(None)
    ('0.9', 'true', 'none')
    """
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
