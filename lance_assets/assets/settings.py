"""An experiment's settings in the UI: what a launch may set for one round, and what its pages show.

`start_checkpoint` takes the launch's settings by a schema that is generated from the experiment's own settings, so that
the launchpad documents each of them. Dagster checks names and types before a run starts; ranges, and
what settings must be together, are checked as for the file, before anything of the round is made.
"""

import json
from collections.abc import Mapping
from typing import Any

import dagster as dg
import yaml
from pydantic import BaseModel

from lance_assets.markdown import show_block
from lance_assets.rounds.overrides import Launch
from lance_assets.rounds.plan import Plan
from lance_assets.settings.overrides import Overridable, format_value, list_overridable

KEEP, DROP, NONE = "keep_for_later_rounds", "drop_kept", "set_to_none"
"""The fields of a launch that are no settings."""

_TYPES: dict[type, Any] = {bool: dg.BoolSource, int: dg.IntSource, float: float, str: dg.StringSource}
"""Dagster's types of settings; but for numbers with a point, a launch may also name an environment variable."""

# libyaml's takes a twelfth of the time, and not every build of PyYAML has it.
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_HELP = (
    "Settings for this round alone; what is left out is as in the experiment's file. Materializing start_checkpoint "
    "again without them returns the round to the file. What rounds are compared by (evaluation, recipe, model, "
    "rng_seed) cannot be set here."
)


def build_launch_schema(plan: Plan) -> dg.Field:
    """What a launch of a round may set: the sections of the file, and how long it holds.

    The schema is Dagster's own rather than a `dagster.Config`: a class for each section, made and read back for every
    experiment, took half of the time in which the definitions load.
    """
    overridable = list_overridable(plan.settings)
    nullable = ", ".join(path for path, setting in overridable.items() if setting.is_nullable)
    ours = {
        KEEP: dg.Field(
            dg.BoolSource, default_value=False, description="Whether later rounds begin with these settings too."
        ),
        DROP: dg.Field(
            dg.BoolSource, default_value=False, description="Whether what earlier rounds keep for later ones ends here."
        ),
        NONE: dg.Field(
            [dg.StringSource],
            default_value=[],
            description=f"Settings that are none in this round, by path: {nullable}.",
        ),
    }
    tree: dict[str, Any] = {}
    for path, setting in overridable.items():
        *above, last = path.split(".")
        place = tree
        for name in above:
            place = place.setdefault(name, {})
        place[last] = setting
    return dg.Field(dg.Shape(ours | _build_fields(plan.name, plan.settings, tree)), description=_HELP)


def _build_fields(name: str, holder: BaseModel, tree: Mapping[str, Any]) -> dict[str, dg.Field]:
    """The fields of a section; `holder` is the file's, `tree` holds its settings and sections by name."""
    fields = {}
    for key, node in tree.items():
        if isinstance(node, Overridable):
            kind = dg.Noneable(_find_type(name, key, node))
            fields[key] = dg.Field(kind, default_value=None, description=_describe(node))
        else:
            section = _build_fields(f"{name}_{key}", getattr(holder, key), node)
            fields[key] = dg.Field(
                dg.Shape(section),
                default_value={each: field.default_value for each, field in section.items()},
                description=type(holder).model_fields[key].description,
            )
    return fields


def _find_type(section: str, key: str, setting: Overridable) -> Any:
    """The type of a field; the launchpad offers the choices of a word, and Dagster wants one name for each choice."""
    if not setting.choices:
        return _TYPES[setting.kind]
    return dg.Enum(f"{section}_{key}", [dg.EnumValue(choice) for choice in setting.choices])


def _describe(setting: Overridable) -> str:
    """What a setting is, what it may be, and what the file says."""
    allowed = f" It may be {setting.allowed}." if setting.allowed else ""
    return f"{setting.description}{allowed} In the file: {format_value(setting.value)}.".strip()


def read_launch(plan: Plan, config: Mapping[str, Any]) -> Launch:
    """What a launch's config asks.

    Args:
        plan: the experiment.
        config: by `build_launch_schema`; what is left out is as in the file.

    Raises:
        ValueError: a setting is set to none and to a value, or cannot be none.
    """
    given: dict[str, Any] = {}
    known = list_overridable(plan.settings)
    for path in known:
        value: Any = config
        for name in path.split("."):
            value = value.get(name) if value is not None else None
        if value is not None:
            given[path] = value
    for path in config[NONE]:
        if path in given:
            raise ValueError(f"{path} is in {NONE} and has the value {given[path]!r}; leave one of them out")
        if path in known and not known[path].is_nullable:
            raise ValueError(f"{path} is in {NONE}, and it cannot be none ({known[path].description})")
        given[path] = None
    return Launch(given, is_kept=config[KEEP], drops_kept=config[DROP])


def build_run_config(op: str, launch: Launch) -> dict[str, Any]:
    """The run config of a launch, as the launchpad writes it.

    Args:
        op: the name of start_checkpoint's step.
        launch: what it asks.
    """
    config: dict[str, Any] = {KEEP: launch.is_kept, DROP: launch.drops_kept, NONE: []}
    for path, value in launch.values.items():
        if value is None:
            config[NONE].append(path)
            continue
        *above, last = path.split(".")
        place = config
        for name in above:
            place = place.setdefault(name, {})
        place[last] = value
    return {"ops": {op: {"config": config}}}


def show_some_settings(plan: Plan, settings: Mapping[str, Any]) -> dict[str, dg.MetadataValue]:
    """On an asset's page: the settings that its identity reads, and the file that says them."""
    return {"settings": dg.MetadataValue.json(dict(settings)), **_show_file(plan)}


def show_all_settings(plan: Plan) -> dict[str, dg.MetadataValue]:
    """On a job's page: every setting of the experiment, and the file that says them."""
    settings = json.loads(plan.settings.model_dump_json())
    text = yaml.dump(settings, Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=120)
    return {"settings": dg.MetadataValue.md(show_block(text, "yaml")), **_show_file(plan)}


def _show_file(plan: Plan) -> dict[str, dg.MetadataValue]:
    return {"defs_file": dg.MetadataValue.path(plan.folder / "defs.yaml")}
