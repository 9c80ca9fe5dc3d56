"""A disk that is full where Dagster keeps its runs: told with place and remedy, and the round goes on afterwards."""

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
import sqlalchemy
from dagster._core.errors import DagsterSubprocessError
from dagster._utils.error import SerializableErrorInfo
from sqlalchemy.exc import OperationalError

from lance_assets.assets.names import find_key
from lance_assets.assets.run import open_instance
from lance_assets.assets.running import executor
from lance_assets.assets.running.full_disk import explain_full_instance
from lance_assets.assets.running.lost import LOST_TAG, TAKE_UP_TAG
from lance_assets.assets.sensors import decide, list_to_make
from lance_assets.cli import app
from resources.machine.claims import Claims
from resources.stores.files import DiskFullError
from tests.assets.conftest import OpenWorld
from tests.assets.test_lost_runs import MAX_RETRIES_TAG, Inner, begin, execute, instance  # noqa: F401
from tests.assets.tiny_experiment import find_failures

NOUNS = ("reviewed_set", "sft_set", "preference_pairs", "diversity_report", "checkpoint", "eval_report")
"""What r0001 lacks when its disk becomes full."""
TOLD = r"the disk is full where Dagster keeps its runs, \d+ bytes free: free some space.*dagster"


@contextmanager
def full_from(is_full: Callable[[], bool]) -> Iterator[None]:
    """SQLite's databases cannot grow once something holds; the error is SQLite's own, as of a disk that is full."""

    def limit(connection: object, _: object) -> None:
        if isinstance(connection, sqlite3.Connection) and is_full():
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count={max(pages, 1)}")

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", limit)
    try:
        yield
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "connect", limit)


def test_a_round_on_a_full_disk_says_what_to_do_and_goes_on_when_there_is_room(
    make_scripted_world: OpenWorld, scripted_rounds: Path
) -> None:
    world = make_scripted_world(made_before=scripted_rounds)
    made, tables = world.read_bytes("r0001"), world.platform.tables
    for noun in NOUNS:
        tables.path("tiny", "r0001", noun).unlink()
    shutil.rmtree(world.platform.checkpoints.folder("tiny", "r0001"))

    def go_on() -> dg.ExecuteInProcessResult:
        left = list_to_make(world.instance, world.plan, world.platform, "r0001")
        return world.definitions.resolve_job_def("tiny_round").execute_in_process(
            partition_key="r0001",
            instance=world.instance,
            raise_on_error=False,
            asset_selection=[find_key(world.plan, noun) for noun in left],
            tags={TAKE_UP_TAG: "a test"},
        )

    folder = Path(world.instance.root_directory)
    is_full = tables.path("tiny", "r0001", "sft_set").is_file
    with pytest.raises(DiskFullError, match=TOLD), explain_full_instance(folder), full_from(is_full):
        go_on()
    assert not tables.path("tiny", "r0001", "eval_report").exists()
    result = go_on()
    assert result.success, find_failures(result)
    assert world.read_bytes("r0001") == made
    assert decide(world.instance, world.plan, world.platform).next_round == "r0002"


def test_the_command_tells_of_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    (tmp_path / "dagster").mkdir()

    def use() -> None:
        with open_instance() as opened:
            opened.add_dynamic_partitions("tiny_round", [f"r{number:04d}" for number in range(2_000)])

    monkeypatch.setattr(app, "app", use)
    with full_from(lambda: True), pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == app.USER_MISTAKE
    told = capsys.readouterr().err
    assert "the disk is full where Dagster keeps its runs" in told
    assert str(tmp_path / "dagster") in told
    assert "Traceback" not in told
    app.main()

    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    monkeypatch.setattr(app, "app", fail)
    with pytest.raises(SystemExit):
        app.main()
    assert "'somewhere'; free some space and run the command again" in capsys.readouterr().err


FULL = OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))
LOCKED = OperationalError("INSERT", {}, sqlite3.OperationalError("database is locked"))


def of_step(error: Exception) -> DagsterSubprocessError:
    """The error of a run of which a step's process failed."""
    info = SerializableErrorInfo(str(error), [], type(error).__name__)
    return DagsterSubprocessError("a step failed", subprocess_error_infos=[info])


class Failing(Inner):
    """An executor that fails."""

    def execute(self, plan_context: object, execution_plan: object) -> Iterator[object]:  # type: ignore[override]
        (error,) = self.events
        assert isinstance(error, Exception)
        yield from ()
        raise error


@pytest.mark.parametrize("error", [FULL, of_step(FULL)], ids=["in the run", "in a step"])
@pytest.mark.parametrize("by", ["daemon", "command"])
def test_the_daemon_starts_a_run_again_whose_disk_was_full(
    instance: dg.DagsterInstance,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    by: str,
) -> None:
    """The command ends with the message; whoever starts it again goes on."""
    run = begin(instance, "r0001", **({MAX_RETRIES_TAG: "0"} if by == "command" else {}))
    monkeypatch.setattr("tests.assets.test_lost_runs.Inner", Failing)
    with pytest.raises(DiskFullError, match="free some space"):
        execute(instance, Claims(tmp_path / "running"), run, error)
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    assert (LOST_TAG in found.tags) == (by == "daemon")


@pytest.mark.parametrize("error", [LOCKED, of_step(LOCKED), of_step(ValueError("no seed"))])
def test_another_error_stays_as_it_is(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)), explain_full_instance(tmp_path):
        raise error


def test_the_watch_for_a_slot_outlives_a_full_disk_and_says_it_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the log of the run cannot be written, the console is told."""
    looks, said = [FULL, FULL, "a slot of pool gpu", FULL, "a slot of pool gpu"], list[str]()

    def look(*_: object) -> str:
        found = looks.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 1:
            raise FULL

    monkeypatch.setattr(executor, "explain_waiting", look)
    monkeypatch.setattr(executor, "end_lost_runs", lambda *_, **__: [])
    ended = SimpleNamespace(wait=lambda _: not looks)
    executor._watch(None, None, "a" * 32, say, ended)  # type: ignore[arg-type]
    assert said == ["a slot of pool gpu"] * 2, "what could not be written is said later"
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "who holds what run aaaaaaaa waits for cannot be told now ((sqlite3.OperationalError) database or disk is full)"
    ]


def test_a_claim_that_has_no_room_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = Claims(tmp_path / "running")

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        with (
            pytest.raises(DiskFullError, match=r"free some space.*running/run\.json"),
            claims.hold("run", what="a run", scopes=["tiny r0001"]),
        ):
            raise AssertionError("it is not held")
    assert claims.list_alive() == []
    with claims.hold("run", what="a run", scopes=["tiny r0001"]):
        assert [claim.name for claim in claims.list_alive()] == ["run"]
