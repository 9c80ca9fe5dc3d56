"""With LANCE_STORE a step publishes what it made, and a machine with nothing goes on from there."""

from collections import Counter
from pathlib import Path

import dagster as dg
import pytest

from lance_assets.assets import building
from lance_assets.assets.past.doctor import examine, mend
from lance_assets.rounds.plan import Noun
from lance_assets.rounds.report import Made
from resources.remote.folder import DataFolder
from resources.remote.manifest import Manifest, StoreError
from resources.remote.store import Store, UnreachableStoreError
from resources.remote.write_through import bring_experiment
from tests.assets.conftest import OpenWorld
from tests.assets.scripted_platform import SCRIPTED, without_drawing
from tests.assets.tiny_experiment import find_failures, open_world


def test_a_machine_with_nothing_goes_on_from_what_steps_published(
    tmp_path: Path, scripted_start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANCE_STORE", f"file://{tmp_path}/bucket")
    store, new = Store(f"file://{tmp_path}/bucket"), tmp_path / "elsewhere"
    with (
        without_drawing(),
        open_world(tmp_path / "world", made_before=scripted_start, in_memory=True, **SCRIPTED) as first,
        open_world(new, in_memory=True, **SCRIPTED) as world,
    ):
        result = first.materialize("r0000", "seed_set")
        assert result.success, find_failures(result)
        newest = store.read_newest("tiny")
        assert newest is not None
        assert "tables/tiny/r0000/eval_report.parquet" in newest.files
        assert bring_experiment(world.platform.root, "tiny", say=lambda _: None)
        mend(world.instance, {"tiny": world.plan}, world.platform, "tiny", say=lambda _: None)
        # Weights that are in the store alone are not lost ones.
        weights = new / "data/checkpoints/tiny/r0000"
        assert not weights.exists()
        assert examine(world.instance, {"tiny": world.plan}, world.platform, "tiny") == []
        result = world.materialize("r0001", "start_checkpoint")
        assert result.success, find_failures(result)
        assert weights.is_dir()
        # The first machine's next step fetches what this one published.
        result = first.materialize("r0001", "seed_set")
        assert result.success, find_failures(result)
        assert first.round("r0001").read("start_checkpoint").equals(world.round("r0001").read("start_checkpoint"))
        newest = store.read_newest("tiny")
        assert newest is not None
        assert "tables/tiny/r0001/seed_set.parquet" in newest.files


class StoreThatGoesAway:
    """In place of what publishes: a state is not taken so many times, and each noun that is made is counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refuses, self.error, self.made = 0, StoreError(""), Counter[str]()
        publish, make = Store.publish, Noun.make

        def refuse(store: Store, manifest: Manifest) -> bool:
            self.refuses -= 1
            if self.refuses >= 0:
                raise self.error
            return publish(store, manifest)

        def count(noun: Noun, this_round: object) -> Made:
            self.made[noun.name] += 1
            return make(noun, this_round)

        monkeypatch.setattr(Store, "publish", refuse)
        monkeypatch.setattr(Noun, "make", count)
        monkeypatch.setattr(building, "RETRIES", dg.RetryPolicy(max_retries=building.RETRIES.max_retries, delay=0.01))


AWAY = UnreachableStoreError("the store did not answer for 180 s")


def list_published(store: Store, key: str) -> set[str]:
    """The tables of a round that the store has."""
    newest = store.read_newest("tiny")
    files = newest.files if newest is not None else {}
    return {Path(path).stem for path in files if path.startswith(f"tables/tiny/{key}/")}


@pytest.mark.parametrize(
    "nouns", [("start_checkpoint", "seed_set"), ("raw_generations", "cleaned_set", "reviewed_set")]
)
def test_a_store_that_is_away_after_a_step_makes_nothing_again(
    make_scripted_world: OpenWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nouns: tuple[str, ...]
) -> None:
    """The step counts as made, the next one waits for the store, and its tries make nothing again either."""
    monkeypatch.setenv("LANCE_STORE", f"file://{tmp_path}/bucket")
    world, store = make_scripted_world(in_memory=True), Store(f"file://{tmp_path}/bucket")
    if "start_checkpoint" not in nouns:
        assert world.materialize("r0001", "start_checkpoint", "seed_set").success
    away = StoreThatGoesAway(monkeypatch)
    # The first noun's publication, and two tries of the next one's beginning, of which checks may take one.
    away.refuses, away.error = 3, AWAY
    result = world.materialize("r0001", *nouns)
    assert result.success, find_failures(result)
    assert away.refuses < 0
    assert away.made == dict.fromkeys(nouns, 1)
    assert {*nouns} <= list_published(store, "r0001")


@pytest.mark.parametrize("error", [AWAY, StoreError("the key is refused")])
def test_a_store_that_stays_away_ends_the_next_step_which_has_made_nothing(
    make_scripted_world: OpenWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: StoreError
) -> None:
    monkeypatch.setenv("LANCE_STORE", f"file://{tmp_path}/bucket")
    world, store = make_scripted_world(in_memory=True), Store(f"file://{tmp_path}/bucket")
    assert world.materialize("r0001", "start_checkpoint").success
    away = StoreThatGoesAway(monkeypatch)
    away.refuses, away.error = 99, error
    result = world.materialize("r0001", "seed_set", "raw_generations")
    assert find_failures(result) == {"tiny__raw_generations": f"tiny r0001 raw_generations: {error}"}
    retries = [event.step_key for event in result.all_events if event.is_step_up_for_retry]
    assert retries.count("tiny__raw_generations") == (building.RETRIES.max_retries if error is AWAY else 0)
    # It is made, Dagster knows it, and a run that goes on from the failed step makes it no more.
    assert away.made == {"seed_set": 1}
    assert world.find_materialization("seed_set", "r0001").run_id == result.run_id
    assert "seed_set" not in list_published(store, "r0001")
    away.refuses = 0
    assert world.materialize("r0001", "raw_generations").success
    assert away.made == {"seed_set": 1, "raw_generations": 1}
    assert {"seed_set", "raw_generations"} <= list_published(store, "r0001")


def test_a_check_has_its_verdict_also_while_the_store_is_away(
    make_scripted_world: OpenWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its verdict is kept here, and in the store with the next step."""
    monkeypatch.setenv("LANCE_STORE", f"file://{tmp_path}/bucket")
    world, store = make_scripted_world(in_memory=True), Store(f"file://{tmp_path}/bucket")
    assert world.materialize("r0001", "start_checkpoint", "seed_set", "raw_generations").success
    away = StoreThatGoesAway(monkeypatch)
    away.refuses, away.error = 99, AWAY
    result = world.materialize("r0001", "cleaned_set")
    assert result.success, find_failures(result)
    judged = {one.check_name: one.passed for one in result.get_asset_check_evaluations()}
    assert judged["near_duplicates"]
    assert judged["kept_rows"]
    verdicts = {path for path in DataFolder(world.platform.root).list_paths("tiny") if path.startswith("checks/")}
    newest = store.read_newest("tiny")
    assert newest is not None
    assert not {path for path in verdicts if "/r0001/" in path} & {*newest.files}
    away.refuses = 0
    assert world.materialize("r0001", "reviewed_set").success
    newest = store.read_newest("tiny")
    assert newest is not None
    assert verdicts <= {*newest.files}
