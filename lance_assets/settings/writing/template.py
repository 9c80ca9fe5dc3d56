"""The text of an experiment's file in which every setting is written, with its description, default and range.

What the experiment sets is a plain line. Everything else is commented out by a `#` without a space after it, at its
default: to change a setting, remove the `#` and edit the value. Descriptions begin with `#` and a space.
"""

import textwrap
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from lance_assets.recipes.contract import find_recipe
from lance_assets.records import SECOND_LOSSES
from lance_assets.settings.engines import EngineSettings, RoleSettings
from lance_assets.settings.experiment import ExperimentSettings
from lance_assets.settings.training import TrainingSettings

WIDTH = 112
"""Characters of a line of description."""

FILL_IN = "FILL_IN"
"""The value of a required setting of a section that is commented out."""

_SFT: type[BaseModel] = type(TrainingSettings().sft)

_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "min_length": "length >=", "max_length": "length <="}

_HEAD = """\
# An experiment: every setting with its description, its default and what it may be.
# A line that begins with # and no space is a setting at its default: remove the # to change it.
# Words of your own lie in the folder prompts beside this file: prompts/system.j2 for the system message, and
# prompts/{recipe}/STEP.j2 for a step (docs/your-own-words.md). `lance show NAME --prompts` prints what is asked.
"""


def render_experiment(attributes: Mapping[str, Any], *, type_name: str = "lance_assets.Experiment") -> str:
    """The text of an experiment's file.

    Args:
        attributes: what the experiment sets, `recipe` among it, in the nesting of the file.
        type_name: the type that the file names.
    """
    recipe = find_recipe(attributes["recipe"])
    lines = []
    for name, info in ExperimentSettings.model_fields.items():
        if name == "parameters":
            values = attributes.get(name, {})
            body = _render_fields(recipe.settings, values, is_example=not values)
            lines += [*_describe(info), *_comment_out(["parameters:", *_indent(body)], not values)]
        elif name == "roles":
            lines += _render_roles(info, attributes.get(name, {}), recipe.roles)
        elif name != "texts" or recipe.needs_texts:
            lines += _render_field(name, info, attributes)
    return (
        "\n".join([_HEAD.format(recipe=recipe.name) + f"type: {type_name}", "", "attributes:", *_indent(lines)]) + "\n"
    )


def _render_fields(model: type[BaseModel], values: Mapping[str, Any], *, is_example: bool = False) -> list[str]:
    """Every field of a section.

    Args:
        model: the section.
        values: what the experiment sets of it.
        is_example: whether the section is commented out whole: its fields then need no `#` of their own.
    """
    lines = []
    for name, info in model.model_fields.items():
        lines += _render_field(name, info, values, is_example=is_example)
    return lines


def _render_field(name: str, info: FieldInfo, values: Mapping[str, Any], *, is_example: bool = False) -> list[str]:
    """A field with its description: set by the experiment, or commented out at its default."""
    section = _find_section(info.annotation)
    is_set = name in values and values[name] is not None
    is_optional = not info.is_required() and _read_default(info) is None
    if section is EngineSettings and not is_set and is_example:
        return [
            *_describe(info),
            f"# It takes the settings of `engine` above, such as `{name}: {{batch_size: 8}}`.",
            f"{name}: {{}}",
        ]
    if section is not None and not is_set and _is_other_loss(name, section):
        # Of a loss that the experiment does not train with its own settings are enough.
        body = [line for own in _list_own(section) for line in _render_field(*own, {}, is_example=True)]
        note = "# It takes the other settings of `sft` above too."
        return [*_describe(info), note, *_comment_out([f"{name}:", *_indent(body)], not is_example)]
    if section is not None and values.get(name) == {}:
        # a section without a setting would be null: its first setting is written at its default
        first, first_info = next(iter(section.model_fields.items()))
        values = {name: {first: _read_default(first_info)}}
    if section is not None:
        # a section whose default is "none" stays commented out also within an example
        is_off = not is_set and (is_optional or not is_example)
        body = _render_fields(section, values[name] if is_set else {}, is_example=not is_set)
        return [*_describe(info), *_comment_out([f"{name}:", *_indent(body)], is_off)]
    if name in values:
        return [*_describe(info), f"{name}: {_dump(values[name])}"]
    default = FILL_IN if info.is_required() else _read_default(info)
    return [*_describe(info), *_comment_out([f"{name}: {_dump(default)}"], not is_example)]


def _is_other_loss(name: str, section: type[BaseModel]) -> bool:
    """Whether a section is that of a loss on pairs other than DPO."""
    return name in SECOND_LOSSES and name != "dpo" and issubclass(section, _SFT)


def _list_own(section: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    """The settings that a loss has beside SFT's, and those with another default."""
    shared = _SFT.model_fields
    return [
        (name, info)
        for name, info in section.model_fields.items()
        if name not in shared or _read_default(info) != _read_default(shared[name])
    ]


def _render_roles(info: FieldInfo, values: Mapping[str, Any], roles: Sequence[str]) -> list[str]:
    """The second models that the recipe has jobs for; none where it has none."""
    if not roles:
        return []
    lines = []
    for role in roles:
        body = [f"{role}:", *_indent(_render_fields(RoleSettings, values.get(role, {}), is_example=role not in values))]
        lines += _comment_out(body, bool(values) and role not in values)
    return [*_describe(info), *_comment_out(["roles:", *_indent(lines)], not values)]


def _describe(info: FieldInfo) -> list[str]:
    """The description with default and range, as lines of comment."""
    facts = []
    if choices := list_choices(info.annotation):
        facts.append(f"One of: {', '.join(map(str, choices))}.")
    if info.is_required():
        facts.append("Required.")
    elif _find_section(info.annotation) is None or _read_default(info) is None:
        facts.append(f"Default: {_dump(_read_default(info))}.")
    if bounds := describe_range(info):
        facts.append(f"Range: {bounds}.")
    text = " ".join([info.description or "", *facts]).strip()
    return [f"# {line}" for line in textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)]


def describe_range(info: FieldInfo) -> str:
    """The bounds of a field, or the pattern it has to match."""
    found = []
    for constraint in info.metadata:
        found += [f"{sign} {getattr(constraint, name)}" for name, sign in _BOUNDS.items() if hasattr(constraint, name)]
        if pattern := getattr(constraint, "pattern", None):
            found.append(f"matches {pattern}")
    return ", ".join(found)


def list_choices(annotation: Any) -> list[object]:
    """The values of a Literal, also within Annotated, None or a list."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    inner = get_args(annotation)[:1] if get_origin(annotation) is Annotated else get_args(annotation)
    return [choice for kind in inner for choice in list_choices(kind)]


def _find_section(annotation: Any) -> type[BaseModel] | None:
    """The section a field holds, if it is one, or one or null."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return sections[0] if sections and all(kind in (NoneType, *sections) for kind in kinds) else None


def _read_default(info: FieldInfo) -> Any:
    default = info.get_default(call_default_factory=True, validated_data={})
    assert default is not PydanticUndefined, "only a required field has no default"
    return default


def _dump(value: Any) -> str:
    """A value as YAML on one line."""
    plain = list(value) if isinstance(value, tuple) else value
    return (
        yaml.safe_dump(plain, default_flow_style=True, width=10_000, allow_unicode=True).removesuffix("...\n").strip()
    )


def _indent(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _comment_out(lines: Sequence[str], is_off: bool) -> list[str]:
    return [f"#{line}" for line in lines] if is_off else list(lines)
