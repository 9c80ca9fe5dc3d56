"""Which rows of a round people are asked about, and whether the round waits for them.

A round waits from the moment in which it reached its decision_set and rows had no decision, until that is made. This is
written down in `waiting/<experiment>/<round>.json`, so that a command or a page knows it without Dagster.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from lance_assets.algorithms.selection.draws import select_over_strata
from lance_assets.recipes.contract import RoundInputs
from lance_assets.rounds.deciding.applying import find_outcomes, list_decidable
from lance_assets.rounds.deciding.decisions import Ledger, Scale, find_scale, format_time, hash_text, read_ledger
from lance_assets.rounds.plan import Plan
from lance_assets.settings.values import count_asked
from resources.stores.files import validate_name, validate_round_key, write_file_atomically
from resources.stores.tables import TableStore

NUM_BANDS = 5
"""Into so many bands of equal width a sample divides the scale of the scores."""


class WaitingForPeopleError(ValueError):
    """A round cannot go on yet, and nothing is wrong: people have to decide about rows of it."""


class Machines(Protocol):
    """Where data is kept."""

    @property
    def root(self) -> Path:
        """The folder of all data."""
        ...

    @property
    def tables(self) -> TableStore:
        """The tables of all rounds."""
        ...


class DecidedRound(Protocol):
    """What is needed of a round, such as `lance_assets.rounds.round.Round`."""

    @property
    def key(self) -> str:
        """The round."""
        ...

    @property
    def plan(self) -> Plan:
        """Its experiment."""
        ...

    @property
    def platform(self) -> Machines:
        """Where its data is."""
        ...

    def read(self, noun: str, key: str | None = None) -> pl.DataFrame:
        """A table of this or another round."""
        ...

    def build_inputs(self) -> RoundInputs[Any]:
        """What a step of the recipe is handed."""
        ...


@dataclass(frozen=True)
class Asked:
    """What people are asked about in a round."""

    rows: pl.DataFrame
    """The rows, schema `REVIEWED_SET`, each text once, in the order of the reviewed set."""
    open_rows: pl.DataFrame
    """Those of them that nobody decided about."""


def list_asked(this_round: DecidedRound, ledger: Ledger) -> Asked:
    """The rows that people are asked about, and those of them that wait.

    Args:
        this_round: a round that has its reviewed set.
        ledger: every decision of the experiment.

    Raises:
        OSError: the round has not made its reviewed set.
    """
    plan, reviewed = this_round.plan, this_round.read("reviewed_set")
    rows = list_decidable(reviewed).unique(["prompt", "completion"], keep="first", maintain_order=True)
    number = count_asked(plan.settings.human_review)
    if number is not None and len(rows):
        keys = [hash_text(*texts) for texts in rows.select("prompt", "completion").iter_rows()]
        outcomes = find_outcomes(plan.recipe, this_round.build_inputs(), reviewed)
        strata = name_strata(rows, outcomes, find_scale(plan.settings.parameters))
        rows = rows[select_over_strata(keys, strata, number, rng_seed=plan.settings.rng_seed)]
    is_open = [ledger.find(*texts) is None for texts in rows.select("prompt", "completion").iter_rows()]
    return Asked(rows, rows.filter(pl.Series(is_open, dtype=pl.Boolean)))


def name_strata(rows: pl.DataFrame, outcomes: dict[str, str], scale: Scale | None) -> list[str]:
    """The stratum of each row that a sample is spread over: its kind, what becomes of it, and the band of its score."""
    low, high = scale or (0.0, 10.0)

    def name(row_id: str, kind: str, score: float | None) -> str:
        band = "unscored" if score is None else str(min(int((score - low) / (high - low) * NUM_BANDS), NUM_BANDS - 1))
        return f"{kind} {outcomes.get(row_id, 'left out')} {band}"

    return [name(*row) for row in rows.select("row_id", "kind", "review_score").iter_rows()]


def hash_decisions(this_round: DecidedRound, ledger: Ledger) -> str:
    """A hash of every decision on a row of a round, 64 hex digits: another one where a decision was added."""
    reviewed = this_round.read("reviewed_set").drop_nulls("completion")
    found = (ledger.find(*texts) for texts in reviewed.select("prompt", "completion").iter_rows())
    named = [[one.identity, *(each.identity for each in ledger.list_earlier(one))] for one in found if one is not None]
    return hash_text(this_round.key, json.dumps(named))


def find_waiting(root: Path, experiment: str, round_key: str) -> Path:
    """Where it is written down that a round waits, whether or not it does."""
    folder = root / "waiting" / validate_name(experiment, what="experiment")
    return folder / f"{validate_round_key(round_key)}.json"


def note_waiting(this_round: DecidedRound) -> None:
    """Write down that a round waits; since when stays as it was."""
    path = find_waiting(this_round.platform.root, this_round.plan.name, this_round.key)
    if not path.exists():
        write_file_atomically(path, json.dumps({"since": format_time(datetime.now(UTC))}).encode())


def forget_waiting(this_round: DecidedRound) -> None:
    """Write down that a round waits no more."""
    find_waiting(this_round.platform.root, this_round.plan.name, this_round.key).unlink(missing_ok=True)


def list_waiting(root: Path, experiment: str) -> Iterator[str]:
    """The rounds of an experiment that wait, oldest first."""
    folder = find_waiting(root, experiment, "r0000").parent
    yield from sorted(path.stem for path in folder.glob("r[0-9]*.json"))


def explain_waiting(this_round: DecidedRound) -> str | None:
    """What a round waits for, in words; None where nothing is open, or it has not come so far."""
    plan, root = this_round.plan, this_round.platform.root
    is_noted = find_waiting(root, plan.name, this_round.key).exists()
    if not is_noted or not this_round.platform.tables.exists(plan.name, this_round.key, "reviewed_set"):
        return None
    asked = list_asked(this_round, read_ledger(root, plan.name))
    return describe_open(plan.name, this_round.key, asked) if len(asked.open_rows) else None


def describe_open(experiment: str, round_key: str, asked: Asked) -> str:
    """How many rows people are asked about, how many are open, and how they are decided."""
    number = len(asked.open_rows)
    rows = "1 row has" if number == 1 else f"{number} rows have"
    return (
        f"{experiment} {round_key} waits for people: {rows} no decision yet, of {len(asked.rows)} that are asked "
        f"about. Decide on the page (lance browse), on the command line (lance review {experiment}), or in a file: "
        f"lance review {experiment} --out rows.jsonl, then --back rows.jsonl. The round goes on when all are decided"
    )
