"""The rows of one file: JSON lines, a JSON array, CSV, TSV, Parquet, Arrow or plain text, compressed or not.

What a file holds is recognised by its first bytes where they say it, and by its ending otherwise.
"""

import csv
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import polars as pl
import psutil

from lance_assets.data_paths import COMPRESSED, ENDINGS, find_ending
from resources.readers.mistakes import Mistakes, refuse_file, show_value

CODECS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}
"""Compressions by their first bytes."""

TABLES = {b"PAR1": "parquet", b"ARROW1": "ipc", b"\xff\xff\xff\xff": "ipc_stream"}
"""Formats of tables by their first bytes."""

TEXT_TABLES = (".csv", ".tsv", ".tab")
"""The endings of tables in text."""

FOREIGN = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook; unpack it, or save the sheet as CSV",
    b"\xfd7zXZ": "compressed by xz; unpack it, or compress it by gzip or zstd",
    b"SQLite format 3": "an SQLite database; export the table as CSV",
    b"version https://git-lfs": "a Git LFS pointer and not the data; run `git lfs pull`",
    b"<!DOCTYPE": "a web page and not the data; download the file itself",
    b"<html": "a web page and not the data; download the file itself",
    b"\x80\x04": "a Python pickle, which is not read; write it as Parquet or JSON lines",
    b"\xff\xfe": "UTF-16, as its first bytes say; save the file as UTF-8 (`iconv -f UTF-16 -t UTF-8`)",
    b"\xfe\xff": "UTF-16, as its first bytes say; save the file as UTF-8 (`iconv -f UTF-16 -t UTF-8`)",
}
"""What is no data that can be read, by its first bytes."""

BOM = b"\xef\xbb\xbf"
"""The byte order mark that editors on Windows put before the first line."""

Values = dict[str, Any]
"""A row's values by column."""

_UNREAD: Values = {}
"""The values of a row that cannot be read: it counts, and is left out."""


class Row(NamedTuple):
    """One row as the file has it; nothing is checked yet."""

    file: str
    """The file it stands in, or the data set."""
    unit: str
    """What is counted: `line`, `row` or `paragraph`."""
    number: int
    """From 1; a row of several lines has the number of its first one."""
    values: Values
    """Its columns."""

    @property
    def place(self) -> str:
        """Where it stands in the file."""
        return f"{self.unit} {self.number}"


@dataclass
class Budget:
    """How much may be read, together."""

    max_bytes: int
    """Most bytes, uncompressed."""
    used: int = 0
    """Those that were read."""

    def take(self, file: object, num_bytes: int) -> None:
        """Count what is read.

        Raises:
            SeedFileError: it is too much.
        """
        self.used += num_bytes
        if self.used > self.max_bytes:
            raise refuse_file(
                file,
                f"{self.used} bytes are more than the {self.max_bytes} bytes of memory that may be used; "
                "set a limit of rows, or split the file",
            )


def build_budget(max_bytes: int | None) -> Budget:
    """So many bytes; None for half of the memory that is available, since rows take more as Python objects."""
    return Budget(psutil.virtual_memory().available // 2 if max_bytes is None else max_bytes)


def read_file(
    file: Path, *, limit: int | None, budget: Budget, mistakes: Mistakes, paragraphs: str | None = None
) -> list[Row]:
    """Read the rows of a file.

    Args:
        file: an existing file.
        limit: rows to read from its start, those with mistakes among them; None for all.
        budget: how much may be read.
        mistakes: takes the rows that cannot be read.
        paragraphs: the column that paragraphs of plain text become; None where the file may not be plain text.

    Raises:
        SeedFileError: the file as a whole cannot be read.
    """
    before = sum(map(len, mistakes.by_file.values()))
    try:
        with _open(file) as stream:
            rows = list(islice(_iterate(file, stream, limit, budget, mistakes, paragraphs), limit))
    except OSError as error:
        raise refuse_file(file, f"cannot be read ({error}); copy or download it again") from error
    if not rows and before == sum(map(len, mistakes.by_file.values())):
        raise refuse_file(file, f"the file is empty; it needs at least one {'paragraph' if paragraphs else 'row'}")
    return [row for row in rows if row.values is not _UNREAD]


@contextmanager
def _open(file: Path) -> Iterator[io.BufferedReader]:
    """The file's bytes, uncompressed."""
    with file.open("rb") as plain:
        codec = next((codec for magic, codec in CODECS.items() if plain.peek(8).startswith(magic)), None)
        if codec is None:
            yield plain
            return
        import pyarrow as pa

        with io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(plain), codec)) as stream:
            yield stream


def _iterate(
    file: Path,
    stream: io.BufferedReader,
    limit: int | None,
    budget: Budget,
    mistakes: Mistakes,
    paragraphs: str | None,
) -> Iterator[Row]:
    """The rows of a file; one that cannot be read has no values and is noted."""
    head = stream.peek(64)[:64]
    ending = find_ending(file.name)
    for magic, what in FOREIGN.items():
        if head.startswith(magic):
            raise refuse_file(file, f"is {what}")
    table = next((kind for magic, kind in TABLES.items() if head.startswith(magic)), None)
    first = head.removeprefix(BOM).lstrip()[:1]
    if table is not None:
        yield from _read_table(file, stream, table, limit, budget)
    elif ending in (".parquet", ".arrow", ".feather", ".ipc") and head:
        raise refuse_file(file, f"is not a readable {ending} file, its first bytes are {head[:8]!r}; write it again")
    elif paragraphs is not None and ending in (".txt", ".text", ".md"):
        yield from _read_paragraphs(file, stream, paragraphs, budget, mistakes)
    elif ending in TEXT_TABLES:
        yield from _read_csv(file, stream, ending, budget, mistakes)
    elif ending in (".jsonl", ".ndjson", ".json") or first in (b"{", b"["):
        yield from _read_json(file, stream, ending, first, budget, mistakes)
    elif head:
        text = ", .txt" if paragraphs is not None else ""
        raise refuse_file(
            file,
            f"the file must end in {', '.join(ENDINGS)}{text}, or one of them and {', '.join(COMPRESSED[::2])}, "
            f"got {ending!r}; rename it by what it holds",
        )


def _read_table(file: Path, stream: io.BufferedReader, kind: str, limit: int | None, budget: Budget) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # A file that something else compressed has to be in memory whole.
    data = file if isinstance(stream.raw, io.FileIO) else io.BytesIO(_read_all(file, stream, budget))
    try:
        if kind == "parquet":
            metadata = pq.read_metadata(data)
            # The compressed file may be small: what counts is what it becomes in memory.
            size = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
            wanted = metadata.num_rows if limit is None else min(limit, metadata.num_rows)
            budget.take(file, size * wanted // max(metadata.num_rows, 1))
        if isinstance(data, io.BytesIO):
            data.seek(0)
        read = {"parquet": pl.read_parquet, "ipc": pl.read_ipc, "ipc_stream": pl.read_ipc_stream}[kind]
        table = read(data, n_rows=limit)
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError) as error:
        raise refuse_file(file, f"is not a readable {kind} file ({error}); write it again") from error
    yield from number_rows(str(file), table)


def number_rows(name: str, table: pl.DataFrame) -> Iterator[Row]:
    """The rows of a table."""
    for number, values in enumerate(table.iter_rows(named=True), start=1):
        yield Row(name, "row", number, values)


def _read_all(file: Path, stream: IO[bytes], budget: Budget) -> bytes:
    """All bytes, at most those that may be read."""
    data = stream.read(budget.max_bytes - budget.used + 1)
    budget.take(file, len(data))
    return data


def _decode_lines(file: Path, stream: IO[bytes], budget: Budget, mistakes: Mistakes) -> Iterator[tuple[int, str]]:
    """The lines with their number, from 1; one that is not UTF-8 is noted, and empty."""
    offset = 0
    # A file without line ends would be one line as large as the file, so the reading of a line has a limit too.
    lines = iter(lambda: stream.readline(budget.max_bytes - budget.used + 1), b"")
    for number, line in enumerate(lines, start=1):
        budget.take(file, len(line))
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            mistakes.add(
                file,
                f"line {number}",
                f"is not UTF-8: byte 0x{line[error.start]:02x} at offset {offset + error.start}; save the file as "
                "UTF-8 (in Excel as 'CSV UTF-8', else by `iconv -f WINDOWS-1252 -t UTF-8`)",
            )
            text = ""
        offset += len(line)
        yield number, text


def _read_paragraphs(file: Path, stream: IO[bytes], column: str, budget: Budget, mistakes: Mistakes) -> Iterator[Row]:
    """The paragraphs of a text, which blank lines separate."""
    paragraph: list[str] = []
    number = 0
    # An empty line at the end closes the last paragraph.
    for _, line in chain(_decode_lines(file, stream, budget, mistakes), ((0, ""),)):
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            number += 1
            yield Row(str(file), "paragraph", number, {column: "".join(paragraph).rstrip("\r\n")})
            paragraph = []


def _read_csv(file: Path, stream: IO[bytes], ending: str, budget: Budget, mistakes: Mistakes) -> Iterator[Row]:
    """The rows of a table in text whose first line names the columns; an empty cell is null."""
    csv.field_size_limit(sys.maxsize)
    lines = (text for _, text in _decode_lines(file, stream, budget, mistakes))
    first = next(lines, "")
    # Spreadsheets write semicolons where the comma is part of numbers.
    separator = "\t" if ending != ".csv" else max(",;\t|", key=first.count)
    reader = csv.reader(chain([first], lines), delimiter=separator, strict=True)
    columns: list[str] = []
    begins = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            place = f"line {begins}"
            mistakes.add(file, place, f"the row that begins here cannot be read ({error}); {_QUOTE}")
            cells = []
            yield Row(str(file), "line", begins, _UNREAD)
        here, begins = begins, reader.line_num + 1
        if not cells:
            continue
        if not columns:
            columns = _name_columns(file, cells)
        elif len(cells) == len(columns):
            yield Row(str(file), "line", here, {name: cell or None for name, cell in zip(columns, cells, strict=True)})
        else:
            mistakes.add(
                file,
                f"line {here}",
                f"has {len(cells)} values for {len(columns)} columns ({', '.join(columns)}), the last is "
                f"{show_value(cells[-1])}; put quotes round a text that holds {separator!r}",
            )
            yield Row(str(file), "line", here, _UNREAD)


_QUOTE = 'close its quotes, or write a quote inside quotes twice ("")'


def _name_columns(file: Path, cells: list[str]) -> list[str]:
    columns = [cell.strip() for cell in cells]
    if repeated := sorted({name for name in columns if columns.count(name) > 1}):
        raise refuse_file(file, f"line 1 names the columns {repeated} more than once; give each column its own name")
    return columns


class _RepeatedFieldError(ValueError):
    """An object has a field twice, of which JSON readers keep the last in silence."""


def _build_object(pairs: list[tuple[str, Any]]) -> Values:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise _RepeatedFieldError(f"names the field {repeated!r} twice; keep one of them")
    return values


_load_json = json.JSONDecoder(object_pairs_hook=_build_object).decode


def _read_json(
    file: Path, stream: io.BufferedReader, ending: str, first: bytes, budget: Budget, mistakes: Mistakes
) -> Iterator[Row]:
    """The rows of JSON lines, of an array of objects, or of one object that holds rows or columns."""
    if first == b"[" or (ending == ".json" and first == b"{"):
        data = _read_all(file, stream, budget)
        try:
            yield from _read_document(file, _load_json(data.decode("utf-8-sig")), mistakes)
            return
        except json.JSONDecodeError as error:
            # Many files that end in .json hold JSON lines.
            if not error.msg.startswith("Extra data"):
                at = f"line {error.lineno}"
                raise refuse_file(
                    file, f"{at} is not JSON at column {error.colno} ({error.msg}); correct it, or write JSON lines"
                ) from error
        except UnicodeDecodeError as error:
            raise refuse_file(
                file, f"is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}; save the file as UTF-8"
            ) from error
        except (ValueError, RecursionError) as error:
            raise refuse_file(file, f"{_explain_json(error)}") from error
        budget.used -= len(data)
        yield from _read_objects(file, io.BytesIO(data), budget, mistakes)
    else:
        yield from _read_objects(file, stream, budget, mistakes)


def _read_objects(file: Path, stream: IO[bytes], budget: Budget, mistakes: Mistakes) -> Iterator[Row]:
    """The objects of JSON lines; blank lines hold none."""
    name, load = str(file), _load_json
    for number, text in _decode_lines(file, stream, budget, mistakes):
        if not text.strip():
            continue
        try:
            value = load(text)
        except (ValueError, RecursionError) as error:
            mistakes.add(file, f"line {number}", f"{_explain_json(error)}: {show_value(text.strip())}")
            value = _UNREAD
        else:
            if not isinstance(value, dict):
                kind = type(value).__name__
                mistakes.add(
                    file, f"line {number}", f"must be a JSON object, got {kind} {show_value(value)}; write {{...}}"
                )
                value = _UNREAD
        yield Row(name, "line", number, value)


def _explain_json(error: ValueError | RecursionError) -> str:
    if isinstance(error, _RepeatedFieldError):
        return str(error)
    if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError):
        # Python refuses to convert a number of more than 4300 digits.
        return "holds an integer that is too long; put it in quotes, or remove the field"
    return f"is not JSON ({error}), write one JSON object on each line, or one array of them in a .json file"


def _read_document(file: Path, document: object, mistakes: Mistakes) -> Iterator[Row]:
    """The rows of a whole JSON document: a list of them, or an object that holds such a list, columns or one row."""
    if isinstance(document, dict):
        lists = {name: value for name, value in document.items() if isinstance(value, list)}
        rows = [name for name, value in lists.items() if value and all(isinstance(one, dict) for one in value)]
        if len(lists) == len(document) and len(document) > 1 and len({len(value) for value in lists.values()}) == 1:
            document = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
        elif len(rows) == 1 and not {"role", "from"} & lists[rows[0]][0].keys():
            document = lists[rows[0]]
        else:
            document = [document]
    if not isinstance(document, list):
        kind = type(document).__name__
        raise refuse_file(file, f"must hold an array of objects, got {kind}; write [{{...}}, {{...}}]")
    for number, values in enumerate(document, start=1):
        if not isinstance(values, dict):
            kind = type(values).__name__
            mistakes.add(
                file, f"row {number}", f"must be a JSON object, got {kind} {show_value(values)}; write {{...}}"
            )
            values = _UNREAD
        yield Row(str(file), "row", number, values)
