"""Sampling that outlives its process: what is finished is stored every few seconds, and a later call asks for the rest.

A stage's folder holds parts (`part-00000.parquet`, ...), each with the groups of samples that finished since the one
before, whatever their order. A stored row counts only if it was made from exactly the same request; anything else found
is asked again, with a line in the log. A row that failed is stored with its error and counted, and a later call asks it
again. Hand-written: no library stores what a generator yields by row with the request it answers.
"""

import hashlib
import io
import json
import re
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import polars as pl

from lance_assets.records import Request, Sample, SamplingSettings, TokenChoice
from resources.engines.contract import EngineError
from resources.stores.tables import encode_table, validate_name, write_file_atomically

LOG_SECONDS = 5.0
"""Seconds between two lines of progress."""

MAX_PARTS = 64
"""Parts above which a call that takes up puts them together first."""

SAMPLES = pl.Schema(
    {
        "row_id": pl.String,
        "request": pl.String,  # `hash_request` of what was asked
        "text": pl.String,
        "finish_reason": pl.String,
        "prompt_tokens": pl.Int64,
        "cached_tokens": pl.Int64,
        "completion_tokens": pl.Int64,
        "error": pl.String,
        "tail": pl.String,  # the fields of `Sample.tail` as JSON
    }
)
"""A part's file. Its Parquet metadata holds the `seconds` the engine took for it."""

_FINGERPRINT = re.compile(r"[A-Za-z0-9_-]+")


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
        rows_per_second = self.num_sampled / seconds
        seconds_left = (self.num_rows - self.num_done) / rows_per_second
        failed = f", {self.num_failed} failed" if self.num_failed else ""
        self.log(
            f"{self.stage}: {self.num_done} of {self.num_rows} rows{failed}, {rows_per_second:.1f} rows/s, "
            f"{self.num_tokens / seconds:.0f} tokens/s, {seconds_left:.0f} s left"
        )


@dataclass
class _Parts:
    """A stage's folder."""

    folder: Path
    stage: str
    log: Callable[[str], None]
    seconds: float = 0.0
    """What the engine took for everything stored."""

    def list_files(self) -> list[Path]:
        """Every part, oldest first."""
        return sorted(self.folder.glob("part-*.parquet"))

    def read(self, hashes: dict[str, str]) -> dict[str, Sample]:
        """The stored sample of each row whose request is the same, failed ones left out."""
        found: dict[str, Sample] = {}
        self.seconds = 0.0
        files = self.list_files()
        num_other = 0
        for path in files:
            table = self._read_part(path)
            for row in table.iter_rows(named=True):
                row_id, request = row["row_id"], row.pop("request")
                if row_id not in hashes or hashes[row_id] != request:
                    num_other += 1
                elif row["finish_reason"] != "error":
                    found.setdefault(row_id, _read_row(row))
        if num_other:
            self.log(f"{self.stage}: {num_other} rows were made from other requests and are asked again")
        if len(files) > MAX_PARTS:
            self._put_together(found, hashes, files)
        return found

    def write(self, samples: Sequence[Sample], hashes: dict[str, str], *, seconds: float) -> None:
        """Store samples as one more part."""
        files = self.list_files()
        number = int(files[-1].stem.partition("-")[2]) + 1 if files else 0
        rows = [
            asdict(sample)
            | {
                "request": hashes[sample.row_id],
                "tail": json.dumps([asdict(choice) for choice in sample.tail]) if sample.tail else None,
            }
            for sample in samples
        ]
        content = encode_table(pl.DataFrame(rows, schema=SAMPLES), metadata={"seconds": repr(seconds)})
        write_file_atomically(self.folder / f"part-{number:05d}.parquet", content)
        self.seconds += seconds

    def _read_part(self, path: Path) -> pl.DataFrame:
        content = path.read_bytes()
        try:
            table = pl.read_parquet(io.BytesIO(content))
            metadata = pl.read_parquet_metadata(io.BytesIO(content))
        except (pl.exceptions.PolarsError, OSError) as error:
            self.log(f"{self.stage}: {path} is corrupt and its rows are asked again ({error})")
            return pl.DataFrame(schema=SAMPLES)
        if table.schema != SAMPLES or "seconds" not in metadata:
            self.log(f"{self.stage}: {path} has another layout and its rows are asked again")
            return pl.DataFrame(schema=SAMPLES)
        self.seconds += float(metadata["seconds"])
        return table

    def _put_together(self, found: dict[str, Sample], hashes: dict[str, str], files: Sequence[Path]) -> None:
        """One part in place of many; a kill between leaves rows twice, which reading takes once."""
        seconds, self.seconds = self.seconds, 0.0
        self.write(list(found.values()), hashes, seconds=seconds)
        for path in files:
            path.unlink()


def _read_row(row: dict) -> Sample:
    tail = [] if row["tail"] is None else json.loads(row["tail"])
    return Sample(**(row | {"tail": tuple(TokenChoice(**choice) for choice in tail)}))


def hash_request(request: Request, sampling: SamplingSettings | None = None) -> str:
    """A hash of what is asked: id, messages, sampling seed and how it is sampled; 32 hex digits."""
    asked = [asdict(request), None if sampling is None else asdict(sampling)]
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
        folder: where the parts of this round and asset are kept until `clear_stage`.
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
        DiskFullError: no room for a part; the parts before it stay.
    """
    _check_arguments(requests, fingerprint=fingerprint, flush_seconds=flush_seconds, max_failure_rate=max_failure_rate)
    hashes = {request.row_id: hash_request(request, sampling) for request in requests}
    parts = _Parts(folder / fingerprint / validate_name(stage, what="stage"), stage, log)
    samples = parts.read(hashes)
    num_taken_up = len(samples)
    if num_taken_up:
        log(f"{stage}: {num_taken_up} of {len(requests)} rows were finished before")
    missing = [request for request in requests if request.row_id not in samples]
    if missing:
        progress = _Progress(stage=stage, num_rows=len(requests), num_done=num_taken_up, log=log)
        samples |= _sample(missing, generate, parts, hashes, progress, flush_seconds)
        progress.report()
    finished = [samples[request.row_id] for request in requests]
    _check_failures(finished, stage=stage, max_failure_rate=max_failure_rate)
    return Finished(finished, parts.seconds, num_taken_up)


def clear_stage(folder: Path) -> None:
    """Remove all parts under `folder`, of every fingerprint and stage; call it when the asset is written."""
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
    parts: _Parts,
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
            parts.write(pending, hashes, seconds=now - since)
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
