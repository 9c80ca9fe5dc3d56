"""A stage that was interrupted gives what an uninterrupted one gives, and asks for nothing twice."""

import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pytest

import resources.engines.durable_stage
from lance_assets.records import Request, Sample, SamplingSettings, TokenChoice
from resources.engines.durable_stage import (
    Finished,
    SampleMismatchError,
    TooManyFailuresError,
    clear_stage,
    run_durably,
)

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


def list_stored(folder: Path) -> list[str]:
    """The row id of every stored row, in the order of the parts."""
    parts = sorted(folder.rglob("part-*.parquet"))
    return [row_id for part in parts for row_id in pl.read_parquet(part)["row_id"]]


def test_samples_come_in_the_order_of_the_requests(tmp_path: Path) -> None:
    assert run(Engine(), tmp_path) == [answer(request) for request in REQUESTS]
    assert list_stored(tmp_path) == ["q2", "q1", "q0", "q5", "q4", "q3", "q8", "q7", "q6", "q9"]
    assert sorted(path.name for path in (tmp_path / "f1" / "review").iterdir()) == [
        f"part-0000{n}.parquet" for n in range(4)
    ]


def test_what_finishes_between_two_writes_is_one_part(tmp_path: Path) -> None:
    run(Engine(), tmp_path, flush_seconds=1000)
    assert [path.name for path in (tmp_path / "f1" / "review").iterdir()] == ["part-00000.parquet"]
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
    assert sorted(list_stored(tmp_path / "cut")) == [f"q{n}" for n in range(10)]
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
        stored = list_stored(tmp_path)
        assert len(stored) == len(set(stored))
        assert finished_before <= set(stored), "a stored row was lost"
        finished_before = set(stored)
    engine = Engine()
    assert run(engine, tmp_path, requests=MANY) == [answer(request) for request in MANY]
    assert set(engine.asked) == {request.row_id for request in MANY} - finished_before


@pytest.mark.parametrize("content", [b"", b"junk", None])
def test_a_corrupt_part_is_asked_again(tmp_path: Path, content: bytes | None) -> None:
    whole = run(Engine(), tmp_path)
    part = tmp_path / "f1" / "review" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-20] if content is None else content)
    engine, log = Engine(), []
    assert run(engine, tmp_path, log) == whole
    assert engine.asked == ["q3", "q4", "q5"]
    assert any("part-00001.parquet is corrupt and its rows are asked again" in line for line in log)
    part.unlink()
    assert sorted(list_stored(tmp_path)) == [f"q{n}" for n in range(10)]


def test_many_parts_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources.engines.durable_stage, "MAX_PARTS", 2)
    with pytest.raises(RuntimeError, match="died"):
        run(Engine(3), tmp_path)
    finished = finish(Engine(), tmp_path)
    assert finished.num_taken_up == 9
    assert [len(pl.read_parquet(part)) for part in sorted(tmp_path.rglob("part-*.parquet"))] == [9, 1]


def test_a_kill_between_putting_together_and_removing_doubles_nothing(tmp_path: Path) -> None:
    run(Engine(), tmp_path)
    folder = tmp_path / "f1" / "review"
    shutil.copyfile(folder / "part-00001.parquet", folder / "part-00009.parquet")
    engine = Engine(0)
    assert run(engine, tmp_path) == [answer(request) for request in REQUESTS]


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
