"""A stage that was interrupted gives what an uninterrupted one gives, and asks for nothing twice."""

import json
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

import resources.engines.durable_stage
from lance_assets.records import Request, Sample, SamplingSettings, TokenChoice
from resources.engines.contract import EngineError
from resources.engines.durable_stage import (
    Finished,
    SampleMismatchError,
    TooManyFailuresError,
    clear_stage,
    run_durably,
)
from resources.stores.files import DiskFullError

REQUESTS = [Request(f"q{n}", ({"role": "user", "content": f"question {n}"},), n) for n in range(10)]


def answer(request: Request) -> Sample:
    return Sample(request.row_id, f"text {request.sampling_seed} é\n", "stop", 3, 5)


class Engine:
    """Answers in groups of three, until it has given `limit` groups, then raises."""

    def __init__(self, limit: int = 1000) -> None:
        self.asked: list[str] = []
        self.limit = limit

    def __call__(self, requests: Sequence[Request]) -> Iterator[list[Sample]]:
        for start in range(0, len(requests), 3):
            group = requests[start : start + 3]
            self.asked += [request.row_id for request in group]
            self.limit -= 1
            if self.limit < 0:
                raise RuntimeError("the engine died")
            yield [answer(request) for request in reversed(group)]


def finish(engine, folder: Path, log: list[str] | None = None, **changes) -> Finished:
    arguments = {"requests": REQUESTS, "fingerprint": "f1", "stage": "review", "flush_seconds": 0} | changes
    requests = arguments.pop("requests")
    lines = [] if log is None else log
    return run_durably(requests, generate=engine, folder=folder, log=lines.append, **arguments)


def run(engine, folder: Path, log: list[str] | None = None, **changes) -> list[Sample]:
    return finish(engine, folder, log, **changes).samples


def read_stage(folder: Path, question: str) -> list:
    """The first column of what a stage's database answers."""
    (file,) = folder.rglob("review.sqlite")
    with closing(sqlite3.connect(file)) as connection:
        return [row[0] for row in connection.execute(question)]


def list_stored(folder: Path) -> list[str]:
    """The row id of every stored sample, sorted."""
    return sorted(json.loads(sample)["row_id"] for sample in read_stage(folder, "SELECT sample FROM samples"))


def test_samples_come_in_the_order_of_the_requests(tmp_path: Path) -> None:
    assert run(Engine(), tmp_path) == [answer(request) for request in REQUESTS]
    assert list_stored(tmp_path) == [request.row_id for request in REQUESTS]
    assert [path.name for path in (tmp_path / "f1").iterdir()] == ["review.sqlite"]


@pytest.mark.parametrize(("flush_seconds", "num_commits"), [(0, 4), (1000, 1)])
def test_what_finishes_between_two_writes_is_one_commit(tmp_path: Path, flush_seconds: float, num_commits: int) -> None:
    run(Engine(), tmp_path, flush_seconds=flush_seconds)
    assert len(read_stage(tmp_path, "SELECT seconds FROM commits")) == num_commits
    assert len(list_stored(tmp_path)) == 10


@pytest.mark.parametrize("flush_seconds", [0, 1000])
@pytest.mark.parametrize("limit", range(4))
def test_an_interrupted_run_takes_up_where_it_was(tmp_path: Path, limit: int, flush_seconds: float) -> None:
    whole = run(Engine(), tmp_path / "whole")
    log: list[str] = []
    with pytest.raises(RuntimeError, match="the engine died"):
        run(Engine(limit), tmp_path / "cut", flush_seconds=flush_seconds)
    again = Engine()
    finished = finish(again, tmp_path / "cut", log)
    assert finished.samples == whole
    assert finished.num_taken_up == limit * 3
    assert again.asked == [request.row_id for request in REQUESTS[limit * 3 :]]
    assert list_stored(tmp_path / "cut") == [f"q{n}" for n in range(10)]
    assert (f"review: {limit * 3} of 10 rows were finished before" in log) == (limit > 0)


def test_a_finished_stage_asks_nothing(tmp_path: Path) -> None:
    first = finish(Engine(), tmp_path)
    again = Engine(0)
    assert finish(again, tmp_path) == Finished(first.samples, first.seconds, 10)
    assert again.asked == []


def test_seconds_of_interrupted_tries_count(tmp_path: Path) -> None:
    def slowly(requests: Sequence[Request]) -> Iterator[list[Sample]]:
        for request in requests[:4]:
            time.sleep(0.02)
            yield [answer(request)]
        raise RuntimeError("the engine died")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="died"):
            finish(slowly, tmp_path)
    assert finish(Engine(), tmp_path).seconds >= 8 * 0.02


def test_no_requests(tmp_path: Path) -> None:
    assert run(Engine(0), tmp_path, requests=[]) == []


KILLED = """
import os, random, signal, sys, threading, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_durable_stage import MANY, answer
from resources.engines.durable_stage import run_durably
def generate(requests):
    threading.Timer({after}, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    for start in range(0, len(requests), 3):
        time.sleep(0.001)
        print(*[request.row_id for request in requests[start : start + 3]], flush=True)
        yield [answer(request) for request in requests[start : start + 3]]
place = dict(folder=Path({folder!r}), fingerprint="f1", stage="review", flush_seconds=0.01)
run_durably(MANY, generate=generate, log=lambda _: None, **place)
print("finished", flush=True)
"""
MANY = [Request(f"q{n}", ({"role": "user", "content": f"question {n}"},), n) for n in range(3000)]


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    """Ten kills from within at moments by lot: no stored row is lost, none is doubled, the result is the same."""
    rng = random.Random(0)
    finished_before: set[str] = set()
    for _ in range(10):
        script = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path), after=rng.uniform(0.001, 0.15))
        killed = subprocess.run(
            [sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True, text=True
        )
        assert killed.returncode in (0, -signal.SIGKILL), killed.stderr
        asked = killed.stdout.split()
        assert not finished_before & set(asked), "a stored row was asked again"
        stored = list_stored(tmp_path) if list(tmp_path.rglob("review.sqlite")) else []
        assert len(stored) == len(set(stored))
        assert finished_before <= set(stored), "a stored row was lost"
        finished_before = set(stored)
    assert finished_before, "every kill came before the first commit"
    engine = Engine()
    assert run(engine, tmp_path, requests=MANY) == [answer(request) for request in MANY]
    assert set(engine.asked) == {request.row_id for request in MANY} - finished_before


@pytest.mark.parametrize("content", [b"junk" * 1000, None])
def test_a_corrupt_database_is_asked_again(tmp_path: Path, content: bytes | None) -> None:
    whole = run(Engine(), tmp_path, requests=MANY)
    file = tmp_path / "f1" / "review.sqlite"
    file.write_bytes(file.read_bytes()[:-50_000] if content is None else content)
    engine, log = Engine(), []
    assert run(engine, tmp_path, log, requests=MANY) == whole
    assert len(engine.asked) == len(MANY)
    assert any("review.sqlite is corrupt and its rows are asked again" in line for line in log)
    assert len(list_stored(tmp_path)) == len(MANY)


def test_a_commit_that_is_not_whole_is_dropped(tmp_path: Path) -> None:
    """A power cut can tear the end off the write-ahead log; what was committed before it stays."""

    def copy_and_tear(requests: Sequence[Request]) -> Iterator[list[Sample]]:
        for request in requests[:8]:
            yield [answer(request)]
        shutil.copytree(tmp_path / "f1", tmp_path / "torn" / "f1")
        raise RuntimeError("the engine died")

    with pytest.raises(RuntimeError, match="died"):
        run(copy_and_tear, tmp_path)
    log_file = tmp_path / "torn" / "f1" / "review.sqlite-wal"
    log_file.write_bytes(log_file.read_bytes()[:-100])
    engine = Engine()
    assert run(engine, tmp_path / "torn") == [answer(request) for request in REQUESTS]
    assert engine.asked == ["q7", "q8", "q9"]


def test_samples_of_another_layout_are_asked_again(tmp_path: Path) -> None:
    run(Engine(), tmp_path)
    with closing(sqlite3.connect(tmp_path / "f1" / "review.sqlite")) as connection, connection:
        connection.execute("UPDATE samples SET sample = json_remove(sample, '$.tail') WHERE sample LIKE '%\"q3\"%'")
    engine, log = Engine(), []
    run(engine, tmp_path, log)
    assert engine.asked == ["q3"]
    assert "review: 1 rows have another layout and are asked again" in log


def test_a_second_process_on_the_same_stage_is_refused(tmp_path: Path) -> None:
    def ask_inside(requests: Sequence[Request]) -> Iterator[list[Sample]]:
        yield [answer(requests[0])]
        run(Engine(), tmp_path)

    with pytest.raises(EngineError, match="another process works on review"):
        run(ask_inside, tmp_path)


def test_a_full_disk_keeps_what_was_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect

    def connect_small(*arguments, **named) -> sqlite3.Connection:
        connection = connect(*arguments, **named)
        connection.execute("PRAGMA max_page_count = 12")
        return connection

    monkeypatch.setattr(resources.engines.durable_stage.sqlite3, "connect", connect_small)
    with pytest.raises(DiskFullError, match=r"the disk is full: \d+ bytes free; free some space"):
        run(Engine(), tmp_path, requests=MANY)
    monkeypatch.undo()
    stored = list_stored(tmp_path)
    assert 10 < len(stored) < len(MANY)
    assert finish(Engine(), tmp_path, requests=MANY).num_taken_up == len(stored)


def test_other_fingerprints_stages_sampling_and_requests_do_not_count(tmp_path: Path) -> None:
    run(Engine(), tmp_path)
    for changes in ({"fingerprint": "f2"}, {"stage": "degrade"}, {"sampling": SamplingSettings(0.0, 1.0, 8)}):
        engine = Engine()
        run(engine, tmp_path, **changes)
        assert len(engine.asked) == 10
    run(Engine(), tmp_path / "b")
    changed = [*REQUESTS[:4], Request("q4", ({"role": "user", "content": "another"},), 4), *REQUESTS[5:]]
    engine, log = Engine(), []
    run(engine, tmp_path / "b", log, requests=changed)
    assert engine.asked == ["q4"]
    assert any("1 rows were made from other requests" in line for line in log)


def test_a_tail_is_kept(tmp_path: Path) -> None:
    tail = (TokenChoice(" 8", {" 8": -0.1, " 9": -2.5}), TokenChoice("½", {"½": -0.25}))
    sample = Sample("q0", "score: 8½", "stop", 3, 5, cached_tokens=2, tail=tail)
    for engine in (lambda _: [[sample]], Engine(0)):
        (found,) = run(engine, tmp_path, requests=REQUESTS[:1])
        assert (found, found.cached_tokens) == (sample, 2)


def test_progress_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources.engines.durable_stage, "LOG_SECONDS", 0.0)
    log: list[str] = []
    run(Engine(), tmp_path, log)
    assert len(log) == 5
    assert re.fullmatch(r"review: 6 of 10 rows, [\d.]+ rows/s, \d+ tokens/s, \d+ s left", log[1])
    assert re.fullmatch(r"review: 10 of 10 rows, [\d.]+ rows/s, \d+ tokens/s, 0 s left", log[-1])


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda requests: [[answer(requests[0])]], "gave no sample for 9 rows: .*q1.*q2"),
        (lambda requests: [[answer(requests[0])] * 2], "gave a sample twice: 'q0'"),
        (lambda requests: [[Sample("q99", "", "stop", 1, 1)]], "that was not asked for: 'q99'"),
    ],
)
def test_an_engine_that_miscounts(tmp_path: Path, give, message: str) -> None:
    with pytest.raises(SampleMismatchError, match=message):
        run(give, tmp_path)


def test_failed_rows_are_kept_counted_and_asked_again(tmp_path: Path) -> None:
    """One of ten fails: below the bar the stage stands with the error in it, above it fails and keeps the nine."""

    def fail_one(requests: Sequence[Request]) -> Iterator[list[Sample]]:
        for request in requests:
            yield [Sample("q4", "", "error", 7, 0, "too long") if request.row_id == "q4" else answer(request)]

    with pytest.raises(TooManyFailuresError, match=r"1 of 10 rows failed \(10.0%\), above .* 5.0%; .* too long"):
        run(fail_one, tmp_path, max_failure_rate=0.05)
    engine = Engine()
    assert run(engine, tmp_path, max_failure_rate=0.05) == [answer(request) for request in REQUESTS]
    assert engine.asked == ["q4"]
    log: list[str] = []
    kept = run(fail_one, tmp_path / "allowed", log, max_failure_rate=0.1)
    assert kept[4] == Sample("q4", "", "error", 7, 0, "too long")
    assert kept[5:] == [answer(request) for request in REQUESTS[5:]]
    assert "10 of 10 rows, 1 failed" in log[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flush_seconds": -1}, "flush_seconds must be 0 or more, got -1"),
        ({"max_failure_rate": 1.5}, r"max_failure_rate must be in \[0, 1\], got 1.5"),
        ({"fingerprint": "../x"}, "fingerprint must be"),
        ({"stage": "a/b"}, "stage must be"),
        ({"requests": [REQUESTS[0], REQUESTS[0]]}, "unique within a stage, got 'q0' twice"),
    ],
)
def test_wrong_arguments(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(Engine(), tmp_path, **changes)


def test_clear_stage(tmp_path: Path) -> None:
    run(Engine(), tmp_path / "stage")
    clear_stage(tmp_path / "stage")
    clear_stage(tmp_path / "stage")
    assert not (tmp_path / "stage").exists()
