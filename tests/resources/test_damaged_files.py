"""Files that are half-written: nothing stops for accounts, and every message names the file and a remedy."""

import json
import logging
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from resources.machine import handover
from resources.machine.handover import EngineLeases
from resources.stores.checkpoints import CheckpointStore, NotACheckpointError, hash_checkpoint, validate_model_folder
from resources.stores.files import DamagedFileError, read_json_file
from resources.training.saving import place_stage
from tests.resources.power_cut import cut_everywhere

MakeModel = Callable[..., Path]
BROKEN = ("", '{"pid": 1', "[]", '{"other": 1}', "\0" * 40)


@pytest.mark.parametrize("content", BROKEN)
def test_a_half_written_lease_of_a_running_engine_still_holds_back_training(tmp_path: Path, content: str) -> None:
    leases = EngineLeases(tmp_path / "engines")
    lease = leases.hold(os.getpid(), "small", experiment="mini", round_key="r0001")
    file = tmp_path / "engines" / lease.file_name
    file.write_text(content)
    (alive,) = leases.list_alive()
    assert alive.lease.pid == os.getpid()
    assert str(file) in str(alive.lease), "the message of the wait names the file"
    leases.release(lease)
    assert leases.list_alive() == []


@pytest.mark.parametrize("content", BROKEN)
def test_a_half_written_lease_of_an_engine_that_ended_is_removed(tmp_path: Path, content: str) -> None:
    leases = EngineLeases(tmp_path / "engines")
    engine = subprocess.Popen(["sleep", "60"])
    lease = leases.hold(engine.pid, "small", experiment="mini", round_key="r0001")
    engine.kill()
    engine.wait()
    file = tmp_path / "engines" / lease.file_name
    file.write_text(content)
    assert leases.list_alive() == []
    assert not file.exists()


def test_a_broken_lease_without_a_process_in_its_name_is_named_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "copy of a lease.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        assert EngineLeases(tmp_path).list_alive() == []
    assert f"the lease {tmp_path / 'copy of a lease.json'} is half-written or damaged" in caplog.text
    assert "remove it" in caplog.text


@pytest.mark.parametrize("seconds", [-7200.0, 7200.0], ids=["set back", "set forward"])
def test_a_lease_is_known_as_alive_after_the_clock_was_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Setting the clock moves the time at which psutil says that a process was made."""
    leases = EngineLeases(tmp_path)
    lease = leases.hold(os.getpid(), "small", experiment="mini", round_key="r0001")
    made = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: made(self) + seconds)
    assert [alive.lease for alive in leases.list_alive()] == [lease]
    monkeypatch.setattr(handover, "read_start_ticks", lambda pid: (lease.ticks or 0) + 1)
    assert leases.list_alive() == [], "another process that has its number now"


@pytest.mark.parametrize("keep", [0, 7, 500, -4])
def test_a_truncated_checkpoint_is_told_with_the_asset_to_make_again(
    make_model: MakeModel, tmp_path: Path, keep: int
) -> None:
    store = CheckpointStore(tmp_path)
    folder = store.publish(make_model(store.staging_folder("mini", "r0001")), "mini", "r0001")
    kept, weights = hash_checkpoint(folder), folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(NotACheckpointError, match=r"broken weights in model\.safetensors, of \d+ bytes") as told:
        store.find("mini", "r0001")
    assert "materialize mini/checkpoint for r0001 again" in str(told.value)
    assert "lance run mini --redo-from r0001" in str(told.value)
    assert str(folder) in str(told.value)
    assert "save_pretrained" not in str(told.value), "no folder can be named in place of a round's checkpoint"
    # The remedy works: a checkpoint that is made again takes the place of the damaged one.
    store.publish(make_model(store.staging_folder("mini", "r0001")), "mini", "r0001")
    assert hash_checkpoint(store.find("mini", "r0001")) == kept


def test_a_damaged_label_checkpoint_names_its_own_asset(make_model: MakeModel, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    folder = store.publish(make_model(store.staging_folder("mini_label", "r0000")), "mini_label", "r0000")
    (folder / "config.json").unlink()
    with pytest.raises(NotACheckpointError, match="materialize mini/label_checkpoint for r0000 again"):
        store.find("mini_label", "r0000", made_by="mini/label_checkpoint")


def test_a_truncated_model_of_a_person_is_to_be_brought_again(make_model: MakeModel, tmp_path: Path) -> None:
    weights = make_model(tmp_path / "model") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(NotACheckpointError, match="cut short or changed: bring it here again from where it came"):
        validate_model_folder(tmp_path / "model")


@pytest.mark.parametrize("content", ["", '{"a": ', "\0\0\0"])
def test_a_half_written_small_file_is_named_with_its_remedy(tmp_path: Path, content: str) -> None:
    (tmp_path / "origin.json").write_text(content)
    with pytest.raises(DamagedFileError, match=r"origin\.json is half-written or damaged .*; do this") as told:
        read_json_file(tmp_path / "origin.json", remedy="do this")
    assert str(tmp_path) in str(told.value)


def test_a_cut_while_a_stage_is_saved_leaves_it_whole_or_not_at_all(make_model: MakeModel, tmp_path: Path) -> None:
    """DPO takes up a finished SFT by its folder: half a model there would fail every later try."""
    known = hash_checkpoint(make_model(tmp_path / "known", 2.0))

    def act(root: Path) -> None:
        make_model(root / "sft.partial", 2.0)
        place_stage(root / "sft.partial", root / "sft", {"steps": [1, 2, 3]})

    def check(root: Path) -> None:
        if (root / "sft").is_dir():
            assert hash_checkpoint(validate_model_folder(root / "sft")) == known
            assert json.loads((root / "sft_log.json").read_text()) == {"steps": [1, 2, 3]}

    cut_everywhere(tmp_path / "cuts", prepare=lambda root: root.mkdir(parents=True), act=act, check=check)
