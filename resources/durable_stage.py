"""Sampling that outlives its process: finished chunks stay on disk, and a later call asks only for the rest.

Requests are cut by their order into chunks of a fixed size, and each chunk is one call of the engine, so that an
interrupted stage gives the same samples as one that ran through. A chunk counts only if it was made from exactly
the same requests; anything else found in its place is asked again, with a line in the log.
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

from lance_assets.records import Request, Sample
from resources.tables import encode_table, validate_name, write_file_atomically

LOG_SECONDS = 5.0
"""Seconds between two lines of progress."""

SAMPLES = pl.Schema(
    {
        "row_id": pl.String,
        "text": pl.String,
        "finish_reason": pl.String,
        "prompt_tokens": pl.Int64,
        "completion_tokens": pl.Int64,
        "error": pl.String,
    }
)
"""A chunk's file: the fields of `Sample`. Its Parquet metadata holds the hash of the requests."""

_FINGERPRINT = re.compile(r"[A-Za-z0-9_-]+")


class SampleMismatchError(ValueError):
    """An engine did not give exactly one sample for each request."""


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
    started_at: float = field(default_factory=time.monotonic)
    logged_at: float = field(default_factory=time.monotonic)

    def count(self, sample: Sample) -> None:
        """Count one sample."""
        self.num_done += 1
        self.num_sampled += 1
        self.num_tokens += sample.completion_tokens
        if time.monotonic() - self.logged_at >= LOG_SECONDS:
            self.report()

    def report(self) -> None:
        """Log the rows done, the rates of this call and the time left."""
        self.logged_at = time.monotonic()
        seconds = max(self.logged_at - self.started_at, 1e-6)
        rows_per_second = self.num_sampled / seconds
        seconds_left = (self.num_rows - self.num_done) / rows_per_second
        self.log(
            f"{self.stage}: {self.num_done} of {self.num_rows} rows, {rows_per_second:.1f} rows/s, "
            f"{self.num_tokens / seconds:.0f} tokens/s, {seconds_left:.0f} s left"
        )


def hash_requests(requests: Sequence[Request]) -> str:
    """SHA-256 of what is asked: ids, messages and sampling seeds, in order."""
    return hashlib.sha256(json.dumps([asdict(request) for request in requests]).encode()).hexdigest()


def run_durably(
    requests: Sequence[Request],
    *,
    generate: Callable[[Sequence[Request]], Iterable[Sample]],
    folder: Path,
    chunk_rows: int,
    fingerprint: str,
    log: Callable[[str], None],
    stage: str,
) -> list[Sample]:
    """Sample all requests, taking up after the chunks that earlier calls finished.

    Args:
        requests: with unique row ids.
        generate: samples the requests of one chunk, in any order.
        folder: where the chunks of this round and asset are kept until `clear_stage`.
        chunk_rows: requests in a chunk, at least 1; what a kill can lose. With another size old chunks do not count.
        fingerprint: of everything else that changes a sample (model, settings); letters, digits, `-` and `_`.
        log: takes the lines of progress.
        stage: small letters, digits and underscores.

    Returns:
        One sample for each request, in their order.

    Raises:
        ValueError: chunk_rows below 1, a bad name, or two requests with one row id.
        SampleMismatchError: `generate` left a request out, or gave a sample twice or for no request.
        DiskFullError: no room for a chunk; the chunks before it stay.
    """
    _check_arguments(requests, chunk_rows=chunk_rows, fingerprint=fingerprint)
    chunk_folder = folder / fingerprint / validate_name(stage, what="stage")
    chunks = [requests[start : start + chunk_rows] for start in range(0, len(requests), chunk_rows)]
    paths = [chunk_folder / f"chunk-{number:05d}.parquet" for number in range(len(chunks))]
    finished = [_read_chunk(path, chunk, log=log, stage=stage) for path, chunk in zip(paths, chunks, strict=True)]
    num_done = sum(len(samples) for samples in finished if samples is not None)
    if num_done:
        log(f"{stage}: {num_done} of {len(requests)} rows were finished before")
    progress = _Progress(stage=stage, num_rows=len(requests), num_done=num_done, log=log)
    results: list[Sample] = []
    for path, chunk, samples in zip(paths, chunks, finished, strict=True):
        if samples is None:
            samples = _sample_chunk(chunk, generate=generate, progress=progress)
            table = pl.DataFrame([asdict(sample) for sample in samples], schema=SAMPLES)
            write_file_atomically(path, encode_table(table, metadata={"requests": hash_requests(chunk)}))
        results.extend(samples)
    if progress.num_sampled:
        progress.report()
    return results


def clear_stage(folder: Path) -> None:
    """Remove all chunks under `folder`, of every fingerprint and stage; call it when the asset is written."""
    if folder.exists():
        shutil.rmtree(folder)


def _check_arguments(requests: Sequence[Request], *, chunk_rows: int, fingerprint: str) -> None:
    if chunk_rows < 1:
        raise ValueError(f"chunk_rows must be at least 1, got {chunk_rows}")
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise ValueError(f"fingerprint must be letters, digits, - and _, got {fingerprint!r}")
    seen: set[str] = set()
    for request in requests:
        if request.row_id in seen:
            raise ValueError(f"row ids must be unique within a stage, got {request.row_id!r} twice")
        seen.add(request.row_id)


def _sample_chunk(
    chunk: Sequence[Request], *, generate: Callable[[Sequence[Request]], Iterable[Sample]], progress: _Progress
) -> list[Sample]:
    wanted = {request.row_id for request in chunk}
    samples: dict[str, Sample] = {}
    for sample in generate(chunk):
        if sample.row_id not in wanted or sample.row_id in samples:
            what = "twice" if sample.row_id in samples else "that was not asked for"
            raise SampleMismatchError(f"{progress.stage}: the engine gave a sample {what}: {sample.row_id!r}")
        samples[sample.row_id] = sample
        progress.count(sample)
    missing = sorted(wanted - samples.keys())
    if missing:
        raise SampleMismatchError(f"{progress.stage}: the engine gave no sample for {len(missing)} rows: {missing[:5]}")
    return [samples[request.row_id] for request in chunk]


def _read_chunk(path: Path, chunk: Sequence[Request], *, log: Callable[[str], None], stage: str) -> list[Sample] | None:
    """The samples of a finished chunk, or None where it has to be asked."""
    if not path.is_file():
        return None
    content = path.read_bytes()
    try:
        made_from = pl.read_parquet_metadata(io.BytesIO(content))
        table = pl.read_parquet(io.BytesIO(content))
    except (pl.exceptions.PolarsError, OSError) as error:
        log(f"{stage}: {path} is corrupt and is asked again ({error})")
        return None
    is_same = "requests" in made_from and made_from["requests"] == hash_requests(chunk)
    if not is_same or table.schema != SAMPLES:
        log(f"{stage}: {path} was made from other requests and is asked again")
        return None
    return [Sample(**row) for row in table.iter_rows(named=True)]
