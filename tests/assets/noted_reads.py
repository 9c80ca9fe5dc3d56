"""A scripted platform that notes which tables and checkpoints each step of a run reads."""

import sys
from collections import defaultdict
from pathlib import Path

import dagster as dg
import polars as pl

from resources.stores.checkpoints import CheckpointStore
from resources.stores.tables import TableStore
from tests.assets.scripted_platform import ScriptedPlatform

FILE = "reads.txt"
LOOKING = {"tell_later_rounds", "reach_gate", "observe_inputs"}
"""What a step does beside making its asset: it looks at tables that the asset is not made from."""


def note_read(root: Path, experiment: str, round_key: str, noun: str) -> None:
    """Keep that the running step reads a noun of a round; nothing outside of a run."""
    try:
        step = dg.OpExecutionContext.get()
    except dg.DagsterInvariantViolationError:
        return
    frame = sys._getframe()
    while (frame := frame.f_back) is not None:
        if frame.f_code.co_name in LOOKING:
            return
    kind = "label_checkpoint" if experiment.endswith("_label") else noun
    with (root / FILE).open("a") as file:
        file.write(f"{step.partition_key} {step.op_def.name} {round_key} {kind}\n")


def read_notes(root: Path, round_key: str) -> dict[str, set[tuple[str, str]]]:
    """What the steps that made a round's assets read: (round, noun) by asset; checks are steps of their own."""
    notes: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for line in (root / FILE).read_text().splitlines():
        made_for, step, key, noun = line.split()
        if made_for == round_key:
            notes[step].add((key, noun))
    return notes


class NotedTables(TableStore):
    """The real tables."""

    def hash(self, experiment: str, round_key: str, asset: str) -> str:
        """As the store, noted."""
        note_read(self.root, experiment, round_key, asset)
        return super().hash(experiment, round_key, asset)

    def read(self, experiment: str, round_key: str, asset: str, *, schema: pl.Schema) -> pl.DataFrame:
        """As the store, noted."""
        note_read(self.root, experiment, round_key, asset)
        return super().read(experiment, round_key, asset, schema=schema)


class NotedCheckpoints(CheckpointStore):
    """The real checkpoints."""

    def find(self, experiment: str, round_key: str, *, made_by: str | None = None) -> Path:
        """As the store, noted."""
        note_read(self.root, experiment, round_key, "checkpoint")
        return super().find(experiment, round_key, made_by=made_by)


class NotingPlatform(ScriptedPlatform):
    """The scripted platform on stores that note what is read."""

    @property
    def tables(self) -> NotedTables:
        """Every table of every round."""
        return NotedTables(self.root)

    @property
    def checkpoints(self) -> NotedCheckpoints:
        """Every round's checkpoint."""
        return NotedCheckpoints(self.root)
