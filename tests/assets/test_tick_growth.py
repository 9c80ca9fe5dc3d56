"""A tick of the loop's sensor reads what was written since the last one, however many rounds there are."""

import os
from pathlib import Path

import polars as pl
import pytest

from lance_assets.algorithms.measures.progress import RoundOutcome, format_round
from lance_assets.assets.sensors import SeenOutcomes
from lance_assets.rounds.headline import read_outcomes
from lance_assets.rounds.nouns import list_schemas
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from resources.stores.tables import TableStore
from tests.assets.tiny_experiment import plan_tiny, write_tiny_experiment

NUM_ROUNDS = 12


def report(this_round: Round, score: float) -> None:
    """Write the evaluation of a round."""
    world = this_round.plan.world
    assert world is not None
    row = {"model": "checkpoint", "benchmark": world.name, "metric": "greedy", "task": "all", "score": score}
    row |= {"ci_low": score - 0.01, "ci_high": score + 0.01, "num_items": 100, "higher_is_better": True}
    schemas = list_schemas()
    this_round.write("eval_items", pl.DataFrame(schema=schemas["eval_items"]))
    this_round.write("eval_report", pl.DataFrame([row], schema=schemas["eval_report"]))


@pytest.fixture
def newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Round:
    """The last of some evaluated rounds, whose files are older than a tick."""
    plan = plan_tiny(write_tiny_experiment(tmp_path / "tiny"))
    rounds = [
        Round(plan, Platform(data_root=str(tmp_path)), format_round(number), lambda _: None)
        for number in range(NUM_ROUNDS)
    ]
    for number, this_round in enumerate(rounds):
        report(this_round, 0.5 + 0.02 * number)
        grow_old(this_round)
    return rounds[-1]


def grow_old(this_round: Round, seconds: float = 60.0) -> None:
    """Let a round's folder look as if it had been written so long ago."""
    folder = this_round.platform.tables.path(this_round.plan.name, this_round.key, "eval_report").parent
    changed = folder.stat().st_mtime - seconds
    os.utime(folder, (changed, changed))


def test_a_tick_reads_the_reports_of_new_rounds_alone(newest: Round, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, seen = [format_round(number) for number in range(NUM_ROUNDS)], SeenOutcomes()
    reads: list[str] = []
    read = TableStore.read

    def note(self: TableStore, experiment: str, key: str, noun: str, **more: pl.Schema) -> pl.DataFrame:
        reads.append(key)
        return read(self, experiment, key, noun, **more)

    def tick() -> tuple[list[RoundOutcome], set[str]]:
        reads.clear()
        found = seen.read(newest, keys)
        return found, set(reads)

    monkeypatch.setattr(TableStore, "read", note)
    first, read_first = tick()
    assert read_first == set(keys)
    assert tick() == (first, set())
    # A round that was made again is read again, and with it those that are compared with it.
    changed = newest.at("r0004")
    report(changed, 0.1)
    grow_old(changed, 30.0)
    after, read_after = tick()
    assert after == read_outcomes(newest, keys)
    assert after != first
    assert {"r0000", "r0001", "r0002"}.isdisjoint(read_after)
    assert tick() == (after, set())


def test_a_round_that_was_just_written_is_read_again(newest: Round) -> None:
    """Two writes in one moment may leave a folder's time as it is."""
    keys, seen = [format_round(number) for number in range(NUM_ROUNDS)], SeenOutcomes()
    report(newest, 0.9)
    assert seen.read(newest, keys)[-1].score == 0.9
    assert len(seen.outcomes) == NUM_ROUNDS - 1
