"""A stage that was interrupted gives what an uninterrupted one gives, and asks for nothing twice."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import resources.durable_stage
from lance_assets.records import Request, Sample
from resources.durable_stage import SampleMismatchError, clear_stage, run_durably

REQUESTS = [Request(f"q{n}", ({"role": "user", "content": f"question {n}"},), n) for n in range(10)]


def answer(request: Request) -> Sample:
    return Sample(request.row_id, f"text {request.sampling_seed} é\n", "stop", 3, 5)


class Engine:
    """Answers until it has answered `limit` requests, then raises."""

    def __init__(self, limit: int = 1000) -> None:
        self.asked: list[list[str]] = []
        self.limit = limit

    def __call__(self, requests: Sequence[Request]) -> Iterator[Sample]:
        self.asked.append([request.row_id for request in requests])
        for request in reversed(requests):
            self.limit -= 1
            if self.limit < 0:
                raise RuntimeError("the engine died")
            yield answer(request)


def run(engine, folder: Path, log: list[str] | None = None, **changes) -> list[Sample]:
    arguments = {"requests": REQUESTS, "chunk_rows": 3, "fingerprint": "f1", "stage": "review"} | changes
    requests = arguments.pop("requests")
    lines = [] if log is None else log
    return run_durably(requests, generate=engine, folder=folder, log=lines.append, **arguments)


def read_all(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_samples_come_in_the_order_of_the_requests(tmp_path: Path) -> None:
    engine = Engine()
    assert run(engine, tmp_path) == [answer(request) for request in REQUESTS]
    assert [len(chunk) for chunk in engine.asked] == [3, 3, 3, 1]
    assert sorted(read_all(tmp_path)) == [f"f1/review/chunk-0000{n}.parquet" for n in range(4)]


@pytest.mark.parametrize("limit", range(10))
def test_an_interrupted_run_takes_up_where_it_was(tmp_path: Path, limit: int) -> None:
    whole = run(Engine(), tmp_path / "whole")
    log: list[str] = []
    with pytest.raises(RuntimeError, match="the engine died"):
        run(Engine(limit), tmp_path / "cut")
    again = Engine()
    assert run(again, tmp_path / "cut", log) == whole
    finished = limit // 3 * 3
    assert [row for chunk in again.asked for row in chunk] == [request.row_id for request in REQUESTS[finished:]]
    assert read_all(tmp_path / "cut") == read_all(tmp_path / "whole")
    assert (f"review: {finished} of 10 rows were finished before" in log) == (finished > 0)


def test_a_finished_stage_asks_nothing(tmp_path: Path) -> None:
    whole = run(Engine(), tmp_path)
    again = Engine(0)
    assert run(again, tmp_path) == whole
    assert again.asked == []


def test_no_requests(tmp_path: Path) -> None:
    assert run(Engine(0), tmp_path, requests=[]) == []


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_durable_stage import REQUESTS, answer
from resources.durable_stage import run_durably
def generate(requests):
    for request in requests:
        if request.row_id == "q7":
            os.kill(os.getpid(), signal.SIGKILL)
        yield answer(request)
place = dict(folder=Path({folder!r}), fingerprint="f1", stage="review")
run_durably(REQUESTS, generate=generate, chunk_rows=3, log=print, **place)
"""


def test_sigkill(tmp_path: Path) -> None:
    script = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "cut"))
    killed = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    engine = Engine()
    assert run(engine, tmp_path / "cut") == run(Engine(), tmp_path / "whole")
    assert engine.asked == [["q6", "q7", "q8"], ["q9"]]
    assert read_all(tmp_path / "cut") == read_all(tmp_path / "whole")


@pytest.mark.parametrize("content", [b"", b"junk", None])
def test_a_corrupt_chunk_is_asked_again(tmp_path: Path, content: bytes | None) -> None:
    whole = run(Engine(), tmp_path)
    before = read_all(tmp_path)
    chunk = tmp_path / "f1" / "review" / "chunk-00001.parquet"
    chunk.write_bytes(chunk.read_bytes()[:-20] if content is None else content)
    engine, log = Engine(), []
    assert run(engine, tmp_path, log) == whole
    assert engine.asked == [["q3", "q4", "q5"]]
    assert any("chunk-00001.parquet is corrupt and is asked again" in line for line in log)
    assert read_all(tmp_path) == before


def test_other_fingerprints_stages_and_requests_do_not_count(tmp_path: Path) -> None:
    run(Engine(), tmp_path)
    for changes in ({"fingerprint": "f2"}, {"stage": "degrade"}):
        engine = Engine()
        run(engine, tmp_path, **changes)
        assert len(engine.asked) == 4
    changed = [*REQUESTS[:4], Request("q4", ({"role": "user", "content": "another"},), 4), *REQUESTS[5:]]
    engine, log = Engine(), []
    run(engine, tmp_path, log, requests=changed)
    assert engine.asked == [["q3", "q4", "q5"]]
    assert any("was made from other requests" in line for line in log)


def test_progress_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources.durable_stage, "LOG_SECONDS", 0.0)
    log: list[str] = []
    run(Engine(), tmp_path, log)
    assert len(log) == 11
    assert re.fullmatch(r"review: 4 of 10 rows, [\d.]+ rows/s, \d+ tokens/s, \d+ s left", log[3])
    assert re.fullmatch(r"review: 10 of 10 rows, [\d.]+ rows/s, \d+ tokens/s, 0 s left", log[-1])


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda requests: [answer(requests[0])], "gave no sample for 2 rows: .*q1.*q2"),
        (lambda requests: [answer(requests[0])] * 2, "gave a sample twice: 'q0'"),
        (lambda requests: [answer(REQUESTS[9])], "that was not asked for: 'q9'"),
    ],
)
def test_an_engine_that_miscounts(tmp_path: Path, give, message: str) -> None:
    with pytest.raises(SampleMismatchError, match=message):
        run(give, tmp_path)
    assert read_all(tmp_path) == {}


def test_errors_of_rows_are_kept(tmp_path: Path) -> None:
    failed = Sample("q0", "", "error", 0, 0, "too long")
    for _ in range(2):
        assert run(lambda _: [failed], tmp_path, requests=REQUESTS[:1]) == [failed]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk_rows": 0}, "chunk_rows must be at least 1, got 0"),
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
