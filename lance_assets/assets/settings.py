"""An experiment's settings in the UI: what a launch may set for one round, and what its pages show.

`start_checkpoint` takes the launch's settings as a `dagster.Config` that is generated from the experiment's own
settings, so that the launchpad documents each of them. Dagster checks names and types before a run starts; ranges, and
what settings must be together, are checked as for the file, before anything of the round is made.
"""

import enum
import json
from collections.abc import Mapping
from typing import Any, Optional

import dagster as dg
import yaml
from pydantic import BaseModel, Field, create_model

from lance_assets.markdown import show_block
from lance_assets.rounds.overrides import Launch
from lance_assets.rounds.plan import Plan
from lance_assets.settings.overrides import Overridable, format_value, list_overridable

KEEP, DROP, NONE = "keep_for_later_rounds", "drop_kept", "set_to_none"
"""The fields of a launch that are no settings."""

_HELP = (
    "Settings for this round alone; what is left out is as in the experiment's file. Materializing start_checkpoint "
    "again without them returns the round to the file. What rounds are compared by (evaluation, recipe, model, "
    "rng_seed) cannot be set here."
)


def build_launch_config(plan: Plan) -> type[dg.Config]:
    """The class of what a launch of a round may set: the sections of the file, and how long it holds."""
    nullable = ", ".join(path for path, setting in list_overridable(plan.settings).items() if setting.is_nullable)
    ours: dict[str, Any] = {
        KEEP: (bool, Field(False, description="Whether later rounds begin with these settings too.")),
        DROP: (bool, Field(False, description="Whether what earlier rounds keep for later ones ends here.")),
        NONE: (list[str], Field([], description=f"Settings that are none in this round, by path: {nullable}.")),
    }
    tree: dict[str, Any] = {}
    for path, setting in list_overridable(plan.settings).items():
        *above, last = path.split(".")
        place = tree
        for name in above:
            place = place.setdefault(name, {})
        place[last] = setting
    return _build_section(plan.name, plan.settings, tree, ours)


def _build_section(
    name: str, holder: BaseModel, tree: Mapping[str, Any], more: Mapping[str, Any] | None = None
) -> type[dg.Config]:
    """The class of a section; `holder` is the file's, `tree` holds its settings and sections by name."""
    fields = dict(more or {})
    for key, node in tree.items():
        if isinstance(node, Overridable):
            fields[key] = (Optional[_find_type(name, key, node)], Field(None, description=_describe(node)))  # noqa: UP045
        else:
            section = _build_section(f"{name}_{key}", getattr(holder, key), node)
            meaning = type(holder).model_fields[key].description
            fields[key] = (section, Field(default_factory=section, description=meaning))
    return create_model(f"{name}_launch", __base__=dg.Config, __doc__=_HELP if more else None, **fields)


def _find_type(section: str, key: str, setting: Overridable) -> Any:
    """The type of a field; the launchpad offers the choices of a word, and Dagster wants one name for each choice."""
    if not setting.choices:
        return setting.kind
    return enum.Enum(f"{section}_{key}", {choice: choice for choice in setting.choices})


def _describe(setting: Overridable) -> str:
    """What a setting is, what it may be, and what the file says."""
    allowed = f" It may be {setting.allowed}." if setting.allowed else ""
    return f"{setting.description}{allowed} In the file: {format_value(setting.value)}.".strip()


def read_launch(plan: Plan, config: dg.Config) -> Launch:
    """What a launch's config asks.

    Raises:
        ValueError: a setting is set to none and to a value, or cannot be none.
    """
    given: dict[str, Any] = {}
    known = list_overridable(plan.settings)
    for path in known:
        value: Any = config
        for name in path.split("."):
            value = getattr(value, name)
        if value is not None:
            given[path] = value.value if isinstance(value, enum.Enum) else value
    for path in getattr(config, NONE):
        if path in given:
            raise ValueError(f"{path} is in {NONE} and has the value {given[path]!r}; leave one of them out")
        if path in known and not known[path].is_nullable:
            raise ValueError(f"{path} is in {NONE}, and it cannot be none ({known[path].description})")
        given[path] = None
    return Launch(given, is_kept=getattr(config, KEEP), drops_kept=getattr(config, DROP))


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
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=120)
    return {"settings": dg.MetadataValue.md(show_block(text, "yaml")), **_show_file(plan)}


def _show_file(plan: Plan) -> dict[str, dg.MetadataValue]:
    return {"defs_file": dg.MetadataValue.path(plan.folder / "defs.yaml")}
