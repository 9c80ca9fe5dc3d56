"""What one round does otherwise than its experiment's file: chosen by a launch, kept beside the round's tables.

A launch that makes start_checkpoint may set settings for the round that begins. They are in `overrides.json` of the
round's tables: every later step of the round works with them, and a launch that sets nothing removes them. A later
round begins without them, unless the launch keeps them for later rounds.
"""

import functools
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lance_assets.algorithms.measures.progress import START_ROUND, format_round, parse_round
from lance_assets.rounds.plan import Plan
from lance_assets.settings.overrides import Values, apply_overrides, format_value, list_overridable, read_setting
from resources.stores.files import read_json_file, write_file_atomically
from resources.stores.tables import TableStore

FILE = "overrides.json"
"""The file of a round's overrides, in the folder of its tables; absent where it has none."""


@dataclass(frozen=True)
class Overrides:
    """The settings of a round that are not the file's."""

    own: Values = field(default_factory=dict)
    """For this round alone, by path."""
    kept: Values = field(default_factory=dict)
    """For this round and later ones; `own` counts before it."""

    @property
    def values(self) -> Values:
        """All of them."""
        return {**self.kept, **self.own}


@dataclass(frozen=True)
class Launch:
    """What a launch asks of the round that it begins."""

    values: Values = field(default_factory=dict)
    """Settings by path."""
    is_kept: bool = False
    """Whether later rounds have them too."""
    drops_kept: bool = False
    """Whether what earlier rounds kept ends here."""


def read_overrides(tables: TableStore, experiment: str, round_key: str) -> Overrides:
    """The overrides that a round began with; none where its launch set nothing."""
    path = find_overrides(tables, experiment, round_key)
    if not path.is_file():
        return Overrides()
    remedy = f"materialize {experiment}/start_checkpoint for {round_key} again, which writes it anew"
    return Overrides(**read_json_file(path, remedy=remedy))


def record_overrides(tables: TableStore, experiment: str, round_key: str, overrides: Overrides) -> None:
    """Keep what a round begins with, in place of what it began with before."""
    path = find_overrides(tables, experiment, round_key)
    if not overrides.values:
        path.unlink(missing_ok=True)
        return
    text = json.dumps({"own": overrides.own, "kept": overrides.kept}, indent=2, sort_keys=True)
    write_file_atomically(path, f"{text}\n".encode())


def find_overrides(tables: TableStore, experiment: str, round_key: str) -> Path:
    """Where a round's overrides lie, whether or not it has any."""
    return tables.path(experiment, round_key, "start_checkpoint").with_name(FILE)


def choose_overrides(plan: Plan, tables: TableStore, round_key: str, launch: Launch) -> Overrides:
    """What a round begins with: what the round before keeps, and what the launch sets.

    Args:
        plan: the experiment as its file has it.
        tables: of all rounds.
        round_key: the round that begins.
        launch: what its launch asks.

    Raises:
        ValueError: a setting that cannot be set, or a value outside its range; or what the round before keeps does not
            suit the file any more.
    """
    inherited: Values = {}
    if round_key != START_ROUND and not launch.drops_kept:
        before = format_round(parse_round(round_key) - 1)
        inherited = read_overrides(tables, plan.name, before).kept
        try:
            apply_overrides(plan.settings, inherited)
        except ValueError as error:
            raise ValueError(
                f"{error}; {before} keeps this for later rounds: begin {round_key} with drop_kept"
            ) from error
    settings = apply_overrides(plan.settings, {**inherited, **launch.values})
    _refuse_what_is_scheduled(plan, round_key, {**inherited, **launch.values})
    # As the settings read them: 1 of a number is 1.0.
    given = {path: read_setting(settings, path) for path in launch.values}
    return Overrides({}, {**inherited, **given}) if launch.is_kept else Overrides(given, inherited)


def _refuse_what_is_scheduled(plan: Plan, round_key: str, values: Values) -> None:
    """Refuse a setting of training that the file's schedule sets for the round: it would change nothing."""
    schedule = plan.settings.training.by_round
    if round_key not in schedule:
        return
    scheduled = schedule[round_key].model_dump(exclude_none=True)
    for path in values:
        section, stage, *name = path.split(".")
        if section == "training" and name and name[0] in (scheduled[stage] if stage in scheduled else {}):
            raise ValueError(
                f"{path}: training.by_round sets {stage}.{name[0]} of {round_key} in the experiment's file, and that "
                "comes before a launch; change it there"
            )


def plan_round(plan: Plan, round_key: str, overrides: Overrides) -> Plan:
    """The experiment as one round has it; the plan itself where nothing is overridden.

    Args:
        plan: the experiment as its file has it.
        round_key: the round.
        overrides: the round's.

    Raises:
        ValueError: the file has changed since, and the overrides do not suit it any more.
    """
    if not overrides.values:
        return plan
    try:
        return _apply(plan, json.dumps(overrides.values, sort_keys=True))
    except ValueError as error:
        raise ValueError(
            f"{error}; {plan.name} {round_key} began with this ({FILE} beside its tables), and the experiment's file "
            f"has changed since: materialize start_checkpoint of {round_key} again"
        ) from error


@functools.cache  # what is computed of a plan once, such as its identity, belongs to that object
def _apply(plan: Plan, text: str) -> Plan:
    values: dict[str, Any] = json.loads(text)
    settings = apply_overrides(plan.settings, values)
    # A setting that is as the file has it by now is no override.
    changed = {path: value for path, value in sorted(values.items()) if read_setting(plan.settings, path) != value}
    return replace(plan, settings=settings, overrides=changed) if changed else plan


def describe_changes(plan: Plan, overrides: Overrides) -> str:
    """The settings of a round that are not the file's, in words and sorted by path; empty where it has none.

    Such as `parameters.temperature 0.9 in place of 0.7, for this round only`.

    Args:
        plan: the experiment as its file has it by now, which may not know a setting any more.
        overrides: the round's.
    """
    known = list_overridable(plan.settings) if overrides.values else {}
    said = []
    for path, value in sorted(overrides.values.items()):
        before = format_value(known[path].value) if path in known else "what the file does not have any more"
        until = "for this round only" if path in overrides.own else "kept for later rounds"
        if path not in known or known[path].value != value:
            said.append(f"{path} {format_value(value)} in place of {before}, {until}")
    return "; ".join(said)
