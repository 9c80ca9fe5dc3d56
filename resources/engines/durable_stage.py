"""Sampling that outlives its process: what is finished is stored every few seconds, and a later call asks for the rest.

A stage has one SQLite database with a row for each finished sample, whatever the order in which they finish. The key
is the hash of the request, so a stored row counts only where exactly the same is asked again. A row that failed is
stored with its error and counted, and a later call asks it again.

SQLite is what datatrove's request cache uses too. A kill loses what was not committed yet and no more: SQLite drops a
commit that is not whole. Each commit is flushed to the disk. The lock is exclusive, so the database needs no shared
memory beside it, and a second process on the same stage gets an error at once.

With 100,000 samples of 400 characters, SQLite 3.40.1 wrote 26,500 to 51,400 rows per CPU second and took up 37,000 to
66,000, on a busy machine of 2 cores, and needed 65 MiB. Parquet parts, which were here before, were faster (45,600 to
53,400 and 58,400 to 117,000) and compressed these repetitive texts to 2 MiB, but needed code that merged them, and two
processes could write over each other's. The fastest engine gives 11,775 tokens per second (docs/performance.md), which
is some hundreds of rows, so a stage waits for neither.
"""

import hashlib
import json
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields
from errno import ENOSPC
from pathlib import Path
from typing import Any, NoReturn

from lance_assets.records import Request, Sample, SamplingSettings, TokenChoice
from resources.engines.contract import EngineError, EngineUnavailableError
from resources.stores.files import DiskFullError, validate_name

LOG_SECONDS = 5.0
"""Seconds between two lines of progress."""

_FINGERPRINT = re.compile(r"[A-Za-z0-9_-]+")
_SAMPLE_FIELDS = {each.name for each in fields(Sample)}
_KIND = 0xFF
"""The bits of SQLite's error codes that name the kind; the others say more of it."""
# A write-ahead log makes a commit one append. Samples are inserted and never changed, so that nothing finished is at
# risk when a row is asked again.
_SET_UP = """
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS samples (request TEXT NOT NULL, sample TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS commits (seconds REAL NOT NULL);
"""


class SampleMismatchError(ValueError):
    """An engine did not give exactly one sample for each request."""


class TooManyFailuresError(EngineError):
    """More rows of a stage failed than the experiment allows."""


@dataclass(frozen=True)
class Finished:
    """A stage that ran to its end."""

    samples: list[Sample]
    """One for each request, in their order."""
    seconds: float
    """What the engine took for them, earlier calls that were interrupted included."""
    num_taken_up: int
    """Samples that earlier calls had finished."""


@dataclass
class _Progress:
    """Counts what one call samples, and says so every few seconds."""

    stage: str
    num_rows: int
    """Rows of the whole stage."""
    num_done: int
    """Rows finished, those of earlier calls among them."""
    log: Callable[[str], None]
    num_sampled: int = 0
    num_tokens: int = 0
    num_failed: int = 0
    started_at: float = field(default_factory=time.monotonic)
    logged_at: float = field(default_factory=time.monotonic)

    def count(self, group: Sequence[Sample]) -> None:
        """Count what finished together."""
        self.num_done += len(group)
        self.num_sampled += len(group)
        self.num_tokens += sum(sample.completion_tokens for sample in group)
        self.num_failed += sum(sample.finish_reason == "error" for sample in group)
        if time.monotonic() - self.logged_at >= LOG_SECONDS:
            self.report()

    def report(self) -> None:
        """Log the rows done, the rates of this call and the time left."""
        self.logged_at = time.monotonic()
        seconds = max(self.logged_at - self.started_at, 1e-6)
        # Rows of earlier calls took none of these seconds, so they are not in the rate.
        rows_per_second = self.num_sampled / seconds
        seconds_left = (self.num_rows - self.num_done) / rows_per_second
        failed = f", {self.num_failed} failed" if self.num_failed else ""
        self.log(
            f"{self.stage}: {self.num_done} of {self.num_rows} rows{failed}, {rows_per_second:.1f} rows/s, "
            f"{self.num_tokens / seconds:.0f} tokens/s, {seconds_left:.0f} s left"
        )


@dataclass
class _Store:
    """A stage's database, open."""

    connection: sqlite3.Connection
    file: Path
    seconds: float = 0.0
    """What the engine took for everything stored."""

    def read(self) -> dict[str, Sample | None]:
        """The newest sample of each request, by its hash; None for one whose fields are those of another version."""
        # total() is 0.0 for a table without rows, where sum() is NULL.
        (self.seconds,) = self.connection.execute("SELECT total(seconds) FROM commits").fetchone()
        # A row that failed and was asked again is there twice; in the dict the later one replaces the earlier.
        rows = self.connection.execute("SELECT request, sample FROM samples ORDER BY rowid")
        return {request: _decode_sample(sample) for request, sample in rows}

    def write(self, samples: Sequence[Sample], hashes: dict[str, str], *, seconds: float) -> None:
        """Store samples in one commit; a full disk raises `DiskFullError`."""
        rows = [(hashes[sample.row_id], json.dumps(asdict(sample))) for sample in samples]
        try:
            with self.connection:
                self.connection.executemany("INSERT INTO samples VALUES (?, ?)", rows)
                self.connection.execute("INSERT INTO commits VALUES (?)", (seconds,))
        except sqlite3.DatabaseError as error:
            _raise_explained(error, self.file)
        self.seconds += seconds


def _open_store(file: Path, *, stage: str, log: Callable[[str], None]) -> tuple[_Store, dict[str, Sample | None]]:
    """Open a stage's database and read it; one that cannot be read is removed, and everything is asked again.

    Raises:
        EngineUnavailableError: another process works on the stage.
        DiskFullError: there is no room for the database.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # The lock lasts as long as the stage, so a second process fails at once rather than wait for it.
    connection = sqlite3.connect(file, timeout=0.0)
    try:
        connection.executescript(_SET_UP)
        store = _Store(connection, file)
        return store, store.read()
    except sqlite3.DatabaseError as error:
        connection.close()
        if error.sqlite_errorcode & _KIND not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            _raise_explained(error, file)
        log(f"{stage}: {file} is corrupt and its rows are asked again ({error})")
    # The write-ahead log beside the file belongs to it, and would be applied to the next one.
    for damaged in file.parent.glob(f"{file.name}*"):
        damaged.unlink()
    return _open_store(file, stage=stage, log=log)


def _raise_explained(error: sqlite3.DatabaseError, file: Path) -> NoReturn:
    """Raise what says what a person can do about an error of SQLite; the error itself where that is not known."""
    kind = error.sqlite_errorcode & _KIND
    if kind == sqlite3.SQLITE_BUSY:
        message = f"another process works on {file.stem} ({file}); wait until it has ended"
        raise EngineUnavailableError(message) from error
    if kind == sqlite3.SQLITE_FULL:
        free = shutil.disk_usage(file.parent).free
        message = f"the disk is full: {free} bytes free; free some space and run the step again"
        raise DiskFullError(ENOSPC, message, str(file)) from error
    raise error


def _decode_sample(content: str) -> Sample | None:
    values = json.loads(content)
    # A field that was added since would get a default that no engine gave.
    if any(each.keys() != _SAMPLE_FIELDS for each in (values, *values.get("followed", ()))):
        return None
    return _build_sample(values)


def _build_sample(values: dict[str, Any]) -> Sample:
    tail = tuple(TokenChoice(**choice) for choice in values["tail"])
    return Sample(**(values | {"tail": tail, "followed": tuple(map(_build_sample, values["followed"]))}))


def hash_request(request: Request, sampling: SamplingSettings | None = None) -> str:
    """A hash of what is asked: id, messages, prefill, sampling seed and how it is sampled; 32 hex digits."""
    asked = [request.describe(), None if sampling is None else sampling.describe()]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]


def run_durably(
    requests: Sequence[Request],
    *,
    generate: Callable[[Sequence[Request]], Iterable[list[Sample]]],
    folder: Path,
    fingerprint: str,
    log: Callable[[str], None],
    stage: str,
    sampling: SamplingSettings | None = None,
    flush_seconds: float = 5.0,
    max_failure_rate: float = 0.0,
) -> Finished:
    """Sample all requests, taking up after what earlier calls finished.

    Args:
        requests: with unique row ids.
        generate: samples requests, in groups as they finish; a group is stored whole.
        folder: where what this round and asset finished is kept until `clear_stage`.
        fingerprint: of everything else that changes a sample (model, settings); letters, digits, `-` and `_`.
        log: takes the lines of progress.
        stage: small letters, digits and underscores.
        sampling: how `generate` samples, part of what a stored row is made from.
        flush_seconds: what is finished is stored this often, 0 or more; what a kill can lose, beside a group.
        max_failure_rate: share of rows that may fail, in [0, 1].

    Raises:
        ValueError: a bad argument, or two requests with one row id.
        SampleMismatchError: `generate` left a request out, or gave a sample twice or for no request.
        TooManyFailuresError: more rows failed than `max_failure_rate`; the others are kept.
        DiskFullError: the disk is full; what was stored before stays.
        EngineUnavailableError: another process works on the same stage.
    """
    _check_arguments(requests, fingerprint=fingerprint, flush_seconds=flush_seconds, max_failure_rate=max_failure_rate)
    hashes = {request.row_id: hash_request(request, sampling) for request in requests}
    file = folder / fingerprint / f"{validate_name(stage, what='stage')}.sqlite"
    store, stored = _open_store(file, stage=stage, log=log)
    with closing(store.connection):
        if num_other := len(stored.keys() - set(hashes.values())):
            log(f"{stage}: {num_other} rows were made from other requests and are asked again")
        if num_older := sum(sample is None for sample in stored.values()):
            log(f"{stage}: {num_older} rows have another layout and are asked again")
        samples = {
            row_id: sample
            for row_id, request in hashes.items()
            if (sample := stored.get(request)) is not None and sample.finish_reason != "error"
        }
        num_taken_up = len(samples)
        if num_taken_up:
            log(f"{stage}: {num_taken_up} of {len(requests)} rows were finished before")
        missing = [request for request in requests if request.row_id not in samples]
        if missing:
            progress = _Progress(stage=stage, num_rows=len(requests), num_done=num_taken_up, log=log)
            samples |= _sample(missing, generate, store, hashes, progress, flush_seconds)
            progress.report()
    finished = [samples[request.row_id] for request in requests]
    # The share is looked at last, so that what is finished is stored even where too many rows failed.
    _check_failures(finished, stage=stage, max_failure_rate=max_failure_rate)
    return Finished(finished, store.seconds, num_taken_up)


def clear_stage(folder: Path) -> None:
    """Remove what is stored under `folder`, of every fingerprint and stage; call it when the asset is written."""
    if folder.exists():
        shutil.rmtree(folder)


def _check_arguments(
    requests: Sequence[Request], *, fingerprint: str, flush_seconds: float, max_failure_rate: float
) -> None:
    if flush_seconds < 0:
        raise ValueError(f"flush_seconds must be 0 or more, got {flush_seconds}")
    if not 0 <= max_failure_rate <= 1:
        raise ValueError(f"max_failure_rate must be in [0, 1], got {max_failure_rate}")
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise ValueError(f"fingerprint must be letters, digits, - and _, got {fingerprint!r}")
    seen: set[str] = set()
    for request in requests:
        if request.row_id in seen:
            raise ValueError(f"row ids must be unique within a stage, got {request.row_id!r} twice")
        seen.add(request.row_id)


def _sample(
    missing: Sequence[Request],
    generate: Callable[[Sequence[Request]], Iterable[list[Sample]]],
    store: _Store,
    hashes: dict[str, str],
    progress: _Progress,
    flush_seconds: float,
) -> dict[str, Sample]:
    """Sample what is missing; whatever ends this early, what is finished is stored first."""
    wanted = {request.row_id for request in missing}
    samples: dict[str, Sample] = {}
    pending: list[Sample] = []
    since = time.monotonic()

    def flush() -> None:
        nonlocal since
        now = time.monotonic()
        if pending:
            # The seconds are stored with the rows, so that a killed call counts the time of what it finished.
            store.write(pending, hashes, seconds=now - since)
            pending.clear()
            since = now

    try:
        for group in generate(missing):
            for sample in group:
                if sample.row_id not in wanted or sample.row_id in samples:
                    what = "twice" if sample.row_id in samples else "that was not asked for"
                    raise SampleMismatchError(f"{progress.stage}: the engine gave a sample {what}: {sample.row_id!r}")
                samples[sample.row_id] = sample
                pending.append(sample)
            progress.count(group)
            if time.monotonic() - since >= flush_seconds:
                flush()
    finally:
        flush()
    left_out = sorted(wanted - samples.keys())
    if left_out:
        raise SampleMismatchError(
            f"{progress.stage}: the engine gave no sample for {len(left_out)} rows: {left_out[:5]}"
        )
    return samples


def _check_failures(samples: Sequence[Sample], *, stage: str, max_failure_rate: float) -> None:
    failed = [sample for sample in samples if sample.finish_reason == "error"]
    if len(failed) > max_failure_rate * len(samples):
        raise TooManyFailuresError(
            f"{stage}: {len(failed)} of {len(samples)} rows failed ({len(failed) / len(samples):.1%}), above "
            f"max_failure_rate {max_failure_rate:.1%}; the first: {failed[0].error}. The others are kept: mend the "
            "cause and run the step again, which asks for the failed rows alone, or raise engine.max_failure_rate"
        )
