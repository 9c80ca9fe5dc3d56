"""Rows of JSON lines, Parquet or text files that people wrote; every error has file, place, value and remedy."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import polars as pl
import psutil


class SeedFileError(ValueError):
    """A seed file that cannot be used as it is."""


@dataclass(frozen=True)
class Row:
    """One row as the file has it; nothing is checked yet."""

    place: str
    """`line 17` or `row 17`, from 1."""
    values: dict[str, object]
    """Its fields; of a Parquet file only the wanted ones."""


def refuse_file(path: Path, what: str) -> SeedFileError:
    """An error about a file."""
    return SeedFileError(f"{path}: {what}")


def show_value(value: object) -> str:
    """A value as an error shows it, at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def read_rows(path: Path, *, wanted: Sequence[str], limit: int | None, max_bytes: int | None) -> list[Row]:
    """Read the rows of a `.jsonl` or `.parquet` file; blank lines hold none.

    Args:
        path: the file.
        wanted: the fields to read; lines keep all they have.
        limit: rows to read from the start, at least 1; None for all.
        max_bytes: most bytes to read, uncompressed; None for half of the memory that is available.

    Returns:
        The rows, at least one.

    Raises:
        SeedFileError: the file cannot be read, is empty, too large, or a line is no JSON object in UTF-8.
        ValueError: limit below 1.
    """
    if path.suffix not in (".jsonl", ".parquet"):
        raise refuse_file(
            path, f"the file must end in .jsonl (one JSON object a line) or .parquet, got {path.suffix!r}"
        )
    max_bytes = _check_file(path, limit=limit, max_bytes=max_bytes)
    try:
        if path.suffix == ".parquet":
            rows = _read_parquet(path, wanted=wanted, limit=limit, max_bytes=max_bytes)
        else:
            rows = []
            for row in _read_objects(path, limit=limit, max_bytes=max_bytes):
                rows.append(row)
                if len(rows) == limit:
                    break
    except OSError as error:
        raise refuse_file(path, f"cannot be read ({error})") from error
    if not rows:
        raise refuse_file(path, "the file is empty; it needs at least one row")
    return rows


def read_paragraphs(path: Path, *, field: str, limit: int | None, max_bytes: int | None) -> list[Row]:
    """Read the paragraphs of a text file, which blank lines separate: each as a row with one field.

    Args:
        path: the file.
        field: the name its text gets.
        limit: paragraphs to read from the start, at least 1; None for all.
        max_bytes: most bytes to read; None for half of the memory that is available.

    Raises:
        SeedFileError: the file cannot be read, is empty, too large or not UTF-8.
        ValueError: limit below 1.
    """
    max_bytes = _check_file(path, limit=limit, max_bytes=max_bytes)

    def describe_excess(number: int, _: int) -> str:
        return (
            f"line {number} goes beyond the {max_bytes} bytes of memory that may be used; "
            "set a limit of paragraphs, or split the file"
        )

    rows: list[Row] = []
    paragraph: list[str] = []
    try:
        # An empty line at the end closes the last paragraph.
        for _, line in chain(_decode_lines(path, max_bytes, describe_excess), ((0, ""),)):
            if line.strip():
                paragraph.append(line)
            elif paragraph:
                rows.append(Row(f"paragraph {len(rows) + 1}", {field: "".join(paragraph).rstrip("\r\n")}))
                paragraph = []
            if len(rows) == limit:
                break
    except OSError as error:
        raise refuse_file(path, f"cannot be read ({error})") from error
    if not rows:
        raise refuse_file(path, "the file is empty; it needs at least one paragraph")
    return rows


def _check_file(path: Path, *, limit: int | None, max_bytes: int | None) -> int:
    """Check that there is a file to read; returns how many bytes of it may be read."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "no such file"
        raise refuse_file(path, f"{what}; check the path in the experiment")
    # Rows take more memory as Python objects than as bytes of the file.
    return psutil.virtual_memory().available // 2 if max_bytes is None else max_bytes


def _describe_excess(num_bytes: int, max_bytes: int) -> str:
    return (
        f"{num_bytes} bytes are more than the {max_bytes} bytes of memory that may be used; "
        "set a limit of rows, or split the file"
    )


def _decode_lines(path: Path, max_bytes: int, describe_excess: Callable[[int, int], str]) -> Iterator[tuple[int, str]]:
    """The lines with their number, from 1, until they have more than `max_bytes` bytes together."""
    offset = 0
    with path.open("rb") as file:
        # A file without line ends would be one line as large as the file, so the reading of a line has a limit too.
        for number, line in enumerate(iter(lambda: file.readline(max_bytes + 1), b""), start=1):
            if offset + len(line) > max_bytes:
                raise refuse_file(path, describe_excess(number, offset + len(line)))
            try:
                # Editors on Windows put a byte order mark before the first line.
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise refuse_file(
                    path,
                    f"line {number} is not UTF-8: byte {line[error.start]:#04x} at offset {offset + error.start}; "
                    "save the file as UTF-8",
                ) from error
            yield number, text
            offset += len(line)


def _read_objects(path: Path, *, limit: int | None, max_bytes: int) -> Iterator[Row]:
    if limit is None and (num_bytes := path.stat().st_size) > max_bytes:
        raise refuse_file(path, _describe_excess(num_bytes, max_bytes))
    for number, text in _decode_lines(path, max_bytes, lambda _, num_bytes: _describe_excess(num_bytes, max_bytes)):
        if text.strip():
            yield Row(place=f"line {number}", values=_parse_line(path, number, text))


def _parse_line(path: Path, number: int, text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    # Deeply nested brackets end Python's parser by its recursion limit.
    except (json.JSONDecodeError, RecursionError) as error:
        raise refuse_file(
            path, f"line {number} is not JSON ({error}): {show_value(text.strip())}; write one JSON object on each line"
        ) from error
    if not isinstance(value, dict):
        raise refuse_file(
            path, f"line {number} must be a JSON object, got {type(value).__name__} {show_value(value)}; write {{...}}"
        )
    return value


def _read_parquet(path: Path, *, wanted: Sequence[str], limit: int | None, max_bytes: int) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
            # The compressed file may be small: what counts is what it becomes in memory.
            columns = [group.column(c) for group in groups for c in range(group.num_columns)]
            size = sum(column.total_uncompressed_size for column in columns if column.path_in_schema in wanted)
            if limit is not None and file.metadata.num_rows > limit:
                size = size * limit // file.metadata.num_rows
            if size > max_bytes:
                raise refuse_file(path, _describe_excess(size, max_bytes))
            present = [field for field in wanted if field in file.schema_arrow.names]
        table = pl.read_parquet(path, columns=present, n_rows=limit)
    except (pa.ArrowException, pl.exceptions.PolarsError) as error:
        raise refuse_file(path, f"is not a readable Parquet file ({error}); write it again") from error
    return [Row(place=f"row {number}", values=row) for number, row in enumerate(table.iter_rows(named=True), start=1)]


def take_text(path: Path, row: Row, field: str) -> str:
    """A field's text.

    Raises:
        SeedFileError: it is missing, no string, empty, or no valid Unicode.
    """
    value = take_value(path, row, field)
    if not isinstance(value, str):
        kind = type(value).__name__
        raise refuse_file(
            path, f"{row.place}: field {field!r} must be a string, got {kind} {show_value(value)}; put it in quotes"
        )
    if not value.strip():
        raise refuse_file(
            path, f"{row.place}: field {field!r} is empty, got {show_value(value)}; fill it or remove the row"
        )
    # Such a text cannot be written as UTF-8, and would fail much later, in a tokenizer.
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise refuse_file(path, f"{row.place}: field {field!r} has half of a surrogate pair, no character; remove it")
    return value


def take_value(path: Path, row: Row, field: str) -> object:
    """A field's value.

    Raises:
        SeedFileError: it is missing.
    """
    if field not in row.values:
        raise refuse_file(
            path,
            f"{row.place}: field {field!r} is missing, found {sorted(row.values)}; "
            "add it, or set the experiment's fields to the names the file has",
        )
    return row.values[field]
