"""Data that is wiped or damaged under a kept Dagster instance: nothing ends in a bare traceback."""

import errno
import json
import logging
import shutil
from pathlib import Path

import pytest

from lance_assets.assets.past.doctor import examine
from lance_assets.rounds import round as rounds
from lance_assets.rounds.headline import read_outcomes
from lance_assets.rounds.nouns import NOUNS
from lance_assets.rounds.past.damage import Finding
from resources.stores.files import DiskFullError
from tests.assets.conftest import OpenWorld
from tests.assets.test_sensors import tick
from tests.assets.tiny_experiment import World, find_failures


@pytest.fixture(scope="module")
def stood(scripted_rounds: Path) -> Path:
    """The folder of a scripted world in which r0000 and r0001 stand."""
    return scripted_rounds


@pytest.fixture
def world(make_scripted_world: OpenWorld, stood: Path) -> World:
    return make_scripted_world(made_before=stood)


def look(world: World) -> list[Finding]:
    """What the doctor finds."""
    return examine(world.instance, {"tiny": world.plan}, world.platform, "tiny")


@pytest.mark.slow
def test_whatever_is_wiped_the_doctor_and_the_loop_say_what_to_do(world: World, tmp_path: Path) -> None:
    """Each folder of the data, then tables of the last round."""
    root, kept = world.platform.root, tmp_path / "kept"
    shutil.copytree(root, kept)
    wiped = [Path(), *(path.relative_to(root) for path in root.iterdir())]
    tables = root.joinpath("tables", "tiny", "r0001").relative_to(root)
    wiped += [tables / f"{noun}.parquet" for noun in ("start_checkpoint", "cleaned_set", "sft_set", "checkpoint")]
    assert len(wiped) > 12
    silent = []
    for place in wiped:
        _remove(root / place)
        root.mkdir(exist_ok=True)
        found, told = look(world), tick(world)
        assert all(str(finding.remedy) for finding in found), place
        if not found and not told.run_requests and not told.skip_message:
            silent.append(str(place))
        shutil.rmtree(root)
        shutil.copytree(kept, root)
    assert silent == []


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def test_a_check_of_wiped_data_fails_with_the_asset_to_make_again(world: World) -> None:
    """As a person evaluates it on the page of a round whose tables are gone."""
    world.platform.tables.path("tiny", "r0001", "start_checkpoint").unlink()
    result = world.materialize("r0001", "sft_set")
    assert not result.success
    told = " ".join(find_failures(result).values())
    assert "materialize tiny/start_checkpoint for r0001 first" in told
    assert "Traceback" not in told


@pytest.mark.parametrize("content", ["", '{"seconds": 1.0, "engine_seconds": ', '{"seconds": "long"}', "[1]"])
def test_a_half_written_cost_file_stops_no_loop_and_the_doctor_moves_it_aside(
    world: World, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    whole = world.round("r0001").read_costs()
    path = world.platform.root / "costs" / "tiny" / "r0001" / "raw_generations.json"
    path.write_text(content)
    with caplog.at_level(logging.WARNING):
        costs = world.round("r0001").read_costs()
    assert costs == {noun: cost for noun, cost in whole.items() if noun != "raw_generations"}
    assert str(path) in caplog.text
    assert "lance doctor tiny --fix" in caplog.text
    assert [each.round_key for each in read_outcomes(world.round("r0001"), ["r0000", "r0001"])] == ["r0000", "r0001"]
    assert tick(world).run_requests, "the loop goes on"
    (finding,) = look(world)
    assert str(path) in finding.what
    assert finding.fix is not None
    finding.fix()
    assert look(world) == []
    assert path.with_suffix(".damaged").read_text() == content, "nothing is removed"


def test_costs_of_another_version_are_read_by_the_names_that_are_known(world: World) -> None:
    path = world.platform.root / "costs" / "tiny" / "r0001" / "raw_generations.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in found.items() if name != "price"} | {"newer": 1}))
    cost = world.round("r0001").read_costs()["raw_generations"]
    assert (cost.seconds, cost.price) == (found["seconds"], 0.0)


def test_a_full_disk_while_costs_are_kept_fails_no_step(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, content: bytes) -> None:
        raise DiskFullError(errno.ENOSPC, "the disk is full", str(path))

    monkeypatch.setattr(rounds, "write_file_atomically", fail)
    said: list[str] = []
    this_round = rounds.Round(world.plan, world.platform, "r0001", said.append)
    made = rounds.make_noun(this_round, NOUNS["seed_set"])
    assert "cost/seconds" in made.facts
    (told,) = [text for text in said if "is not kept" in text]
    assert "costs/tiny/r0001/seed_set.json" in told


@pytest.mark.parametrize("content", ["", '{"settings": {', "\0\0"])
def test_a_half_written_identity_stops_nothing(world: World, content: str) -> None:
    path = world.platform.root / "identity" / "tiny" / "r0001" / "reviewed_set.json"
    path.write_text(content)
    assert world.round("r0001").read_made_with("reviewed_set") == {}
    look(world)


def test_a_half_written_origin_stops_training_with_the_asset_to_make_again(world: World) -> None:
    path = world.platform.root / "origins" / "tiny" / "r0001" / "raw_generations.json"
    assert path.is_file()
    path.write_text('{"start_ch')
    result = world.materialize("r0001", "checkpoint")
    told = find_failures(result)["tiny__checkpoint"]
    assert f"{path} is half-written or damaged" in told
    assert "materialize tiny/raw_generations for r0001 again" in told


@pytest.mark.slow
def test_a_truncated_checkpoint_stops_the_next_round_with_a_remedy_that_works(world: World) -> None:
    weights = world.platform.checkpoints.folder("tiny", "r0001") / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    result = world.materialize("r0002", "start_checkpoint")
    told = find_failures(result)["tiny__start_checkpoint"]
    assert "materialize tiny/checkpoint for r0001 again" in told
    assert "model.safetensors" in told
    assert world.materialize("r0001", "checkpoint").success
    assert weights.read_bytes() == whole
    assert world.materialize("r0002", "start_checkpoint").success
