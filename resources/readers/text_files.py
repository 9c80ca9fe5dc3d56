"""Unlabelled texts to tables: JSON lines, Parquet or plain text, every error with file, place, value and remedy.

What Kun (arXiv 2401.06477, first stage) calls the raw texts of a corpus. Its bounds on perplexity and length are not
here: a reader keeps every text.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import polars as pl
import psutil

from lance_assets.records import derive_row_id
from resources.readers.row_files import Row, read_rows, refuse_file, show_value, take_text

logger = logging.getLogger(__name__)

UNLABELLED_TEXTS = pl.Schema(
    {
        "row_id": pl.String,  # derived from the text without the blanks at its ends
        "text": pl.String,  # as it is written
        "source_tag": pl.String,  # where the file says it came from; null where it says nothing
    }
)
"""Texts without prompts."""


@dataclass(frozen=True)
class TextFile:
    """What was read."""

    table: pl.DataFrame
    """The texts, schema `UNLABELLED_TEXTS`, in the order of the file, each once."""
    num_duplicates: int
    """Rows left out because their text stands earlier in the file."""
    skipped: list[tuple[int, str]]
    """Lines of a `.jsonl` file that hold no row, from 1, with the reason."""


def read_texts(path: Path, *, field: str = "text", limit: int | None = None) -> pl.DataFrame:
    """Read the texts of a file, see `read_text_file`; what was left out is logged."""
    read = read_text_file(path, field=field, limit=limit)
    if read.num_duplicates:
        logger.info("%s: left out %d texts that stand earlier in the file", path, read.num_duplicates)
    return read.table


def read_text_file(
    path: Path,
    *,
    field: str = "text",
    tag_field: str = "source_tag",
    limit: int | None = None,
    max_bytes: int | None = None,
) -> TextFile:
    """Read texts from a `.jsonl`, `.parquet` or `.txt` file; plain text has one text a paragraph, between blank lines.

    Texts that differ by blanks at their ends alone are the same; the first is kept, with its tag.

    Args:
        path: the file.
        field: which field or column holds the text; of no meaning for plain text.
        tag_field: which one holds the tag, a string, a number or null; a row without it has none.
        limit: rows or paragraphs to read from the start, repeated ones among them, at least 1; None for all.
        max_bytes: most bytes to read, uncompressed; None for half of the memory that is available.

    Raises:
        SeedFileError: anything about the file or a row that cannot be used.
        ValueError: limit below 1.
    """
    skipped: list[tuple[int, str]] = []
    if path.suffix == ".txt":
        rows = _read_paragraphs(path, field=field, limit=limit, max_bytes=max_bytes)
    elif path.suffix in (".jsonl", ".parquet"):
        _check_column(path, field)
        rows, skipped = read_rows(path, wanted=(field, tag_field), limit=limit, max_bytes=max_bytes)
    else:
        raise refuse_file(
            path,
            "the file must end in .jsonl (one JSON object a line), .parquet or .txt (paragraphs between blank lines), "
            f"got {path.suffix!r}",
        )
    texts: dict[str, tuple[str, str, str | None]] = {}
    for row in rows:
        text, tag = take_text(path, row, field), _take_tag(path, row, tag_field)
        row_id = derive_row_id("text", text.strip())
        texts.setdefault(row_id, (row_id, text, tag))
    table = pl.DataFrame(list(texts.values()), schema=UNLABELLED_TEXTS, orient="row")
    return TextFile(table=table, num_duplicates=len(rows) - len(texts), skipped=skipped)


def _check_column(path: Path, field: str) -> None:
    """Name the columns there are, which the rows read from a Parquet file no longer know."""
    if path.suffix != ".parquet" or not path.is_file():
        return
    try:
        columns = list(pl.read_parquet_schema(path))
    except (OSError, pl.exceptions.PolarsError):
        return  # read_rows says what is wrong with the file
    if field not in columns:
        raise refuse_file(path, f"column {field!r} is missing, found {sorted(columns)}; set field to one of them")


def _take_tag(path: Path, row: Row, tag_field: str) -> str | None:
    value = row.values[tag_field] if tag_field in row.values else None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise refuse_file(
            path,
            f"{row.place}: field {tag_field!r} must be a string, a number or null, got {show_value(value)}; correct it",
        )
    return take_text(path, row, tag_field) if isinstance(value, str) else str(value)


def _read_paragraphs(path: Path, *, field: str, limit: int | None, max_bytes: int | None) -> list[Row]:
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "no such file"
        raise refuse_file(path, f"{what}; check the path in the experiment")
    max_bytes = psutil.virtual_memory().available // 2 if max_bytes is None else max_bytes
    rows: list[Row] = []
    paragraph: list[str] = []
    try:
        for line in chain(_read_lines(path, max_bytes), ("",)):
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


def _read_lines(path: Path, max_bytes: int) -> Iterator[str]:
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(max_bytes + 1), b""), start=1):
            if offset + len(line) > max_bytes:
                raise refuse_file(
                    path,
                    f"line {number} goes beyond the {max_bytes} bytes of memory that may be used; "
                    "set a limit of paragraphs, or split the file",
                )
            try:
                # Editors on Windows put a byte order mark before the first line.
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise refuse_file(
                    path,
                    f"line {number} is not UTF-8: byte {line[error.start]:#04x} at offset {offset + error.start}; "
                    "save the file as UTF-8",
                ) from error
            offset += len(line)
