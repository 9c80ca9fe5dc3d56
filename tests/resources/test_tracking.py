"""Rounds are written to trackers once, and no tracker stops a loop; the real libraries take what they are given."""

import importlib.util
import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from resources.tracking.contract import TrackedRound, TrackingJob
from resources.tracking.sending import TrackingError, send_round

ROUND = TrackedRound(
    experiment="mini_lance",
    round_key="r0001",
    config={"recipe": "lance", "rng_seed": 0},
    series={"loss/sft": [2.0, 1.5, 1.25], "loss/dpo": [0.69, float("nan")]},
    values={"round": 1.0, "score/small_world/greedy": 0.492, "dropped/keyword/哈 ?": 3.0, "cost/seconds": 12.5},
)


def build_job(folder: Path, tracker: str, tracked: TrackedRound = ROUND) -> TrackingJob:
    return TrackingJob(tracker=tracker, project="lance", folder=folder, round=tracked)


def name(function: str) -> str:
    return f"tests.resources.scripted_tracker:{function}"


def read_runs(folder: Path) -> list[str]:
    return [json.loads(line)["name"] for line in (folder / "runs.jsonl").read_text().splitlines()]


def test_a_round_is_written_once_and_another_result_beside_it(tmp_path: Path) -> None:
    dearer = ROUND.model_copy(update={"values": {**ROUND.values, "cost/seconds": 99.0}})
    better = ROUND.model_copy(update={"values": {**ROUND.values, "score/small_world/greedy": 0.6}})
    places = {
        send_round(build_job(tmp_path, name("write_run"), one), timeout_seconds=60) for one in (ROUND, ROUND, dearer)
    }
    assert places == {str(tmp_path / "runs.jsonl")}
    assert (tmp_path / "calls.txt").read_text().splitlines() == [ROUND.run_name]
    send_round(build_job(tmp_path, name("write_run"), better), timeout_seconds=60)
    assert read_runs(tmp_path) == [ROUND.run_name, better.run_name]


def test_a_tracker_that_was_killed_after_writing_writes_nothing_twice(tmp_path: Path) -> None:
    job = build_job(tmp_path, name("die_once"))
    with pytest.raises(TrackingError, match=r"die_once failed \(exit code -9\)"):
        send_round(job, timeout_seconds=60)
    send_round(job, timeout_seconds=60)
    assert read_runs(tmp_path) == [ROUND.run_name]


def test_a_tracker_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="no server for lance"):
        send_round(build_job(tmp_path, name("fail")), timeout_seconds=60)


def test_a_tracker_that_hangs_is_ended(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(TrackingError, match=r"had not finished after 0\.5 seconds and was ended"):
        send_round(build_job(tmp_path, name("hang")), timeout_seconds=0.5)
    assert time.monotonic() - began < 30


def test_steps_leave_out_what_is_no_number() -> None:
    assert ROUND.list_steps() == [
        {"loss/sft": 2.0, "loss/dpo": 0.69},
        {"loss/sft": 1.5},
        {"loss/sft": 1.25},
    ]


def read_mlflow(folder: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    with sqlite3.connect(folder / "mlflow.db") as store:
        rows = store.execute(
            "select key, value from metrics join runs using (run_uuid) where lifecycle_stage = 'active' order by step"
        )
        for key, value in rows:
            found.setdefault(key, []).append(value)
    store.close()
    return found


def read_trackio(folder: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    (file,) = (one for one in folder.glob("lance*.db"))
    store = sqlite3.connect(file)
    for (metrics,) in store.execute("select metrics from metrics order by step"):
        for key, value in json.loads(metrics).items():
            found.setdefault(key, []).append(value)
    store.close()
    return found


def read_wandb(folder: Path) -> dict[str, list[float]]:
    from wandb.proto import wandb_internal_pb2

    found: dict[str, list[float]] = {}
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    # LevelDB's log after a head of 7 bytes: a checksum, a length and a kind before each record, in blocks of 32 KiB.
    content, place = file.read_bytes(), 7
    while place + 7 < len(content):
        length = int.from_bytes(content[place + 4 : place + 6], "little")
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content[place + 7 : place + 7 + length])
        place += 7 + length
        for item in record.history.item:
            key = item.key or "/".join(item.nested_key)
            if not key.startswith("_"):
                found.setdefault(key, []).append(json.loads(item.value_json))
    return found


READERS = {"mlflow": read_mlflow, "trackio": read_trackio, "wandb": read_wandb}


@pytest.mark.slow
@pytest.mark.parametrize("tracker", sorted(READERS))
def test_the_real_library_holds_the_round_once(tracker: str, tmp_path: Path) -> None:
    """Offline, and written again as after a kill before the receipt."""
    if importlib.util.find_spec(tracker) is None:
        pytest.skip(f"{tracker} is an optional extra")
    read: Callable[[Path], dict[str, list[float]]] = READERS[tracker]
    job = build_job(tmp_path, tracker)
    place = send_round(job, timeout_seconds=250)
    assert str(tmp_path) in place
    for receipt in (tmp_path / "sent").iterdir():
        receipt.unlink()
    send_round(job, timeout_seconds=250)
    found = read(tmp_path)
    assert found["loss/sft"] == [2.0, 1.5, 1.25]
    assert found["loss/dpo"] == [0.69]
    assert found["score/small_world/greedy"] == [0.492]
    assert found["cost/seconds"] == [12.5]
