"""Texts without prompts, of files that people wrote, to a table."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from lance_assets.records import derive_row_id
from resources.readers.mistakes import Mistakes, RowError, refuse_file, show_value
from resources.readers.row_files import Row
from resources.readers.row_parts import check_text
from resources.readers.sources import Source, read_rows

logger = logging.getLogger(__name__)

UNLABELLED_TEXTS = pl.Schema(
    {
        "row_id": pl.String,  # derived from the text without the blanks at its ends
        "text": pl.String,  # as it is written
        "source_tag": pl.String,  # where the file says it came from; null where it says nothing
    }
)
"""Texts without prompts: what Kun (arXiv 2401.06477) calls the raw texts of a corpus, whatever their perplexity."""


@dataclass(frozen=True)
class TextFile:
    """What was read."""

    table: pl.DataFrame
    """The texts, schema `UNLABELLED_TEXTS`, in the order of the file, each once."""
    num_duplicates: int
    """Rows left out because the same text comes earlier in the file."""


def read_texts(source: Source | Path, *, field: str = "text", limit: int | None = None) -> pl.DataFrame:
    """Read texts, see `read_text_file`; what was left out is logged."""
    read = read_text_file(source, field=field, limit=limit)
    if read.num_duplicates:
        name = source.path if isinstance(source, Source) else source
        logger.info("%s: left out %d texts that come earlier in the file", name, read.num_duplicates)
    return read.table


def read_text_file(
    source: Source | Path,
    *,
    field: str = "text",
    tag_field: str = "source_tag",
    limit: int | None = None,
    max_bytes: int | None = None,
) -> TextFile:
    """Read texts; a plain text (`.txt`, `.md`) has one a paragraph, between blank lines.

    Texts that differ by blanks at their ends alone are the same; the first is kept, with its tag.

    Args:
        source: a file, folder, pattern or data set.
        field: which column holds the text; of no meaning for plain text.
        tag_field: which one holds the tag, a string, a number or null; a row without it has none.
        limit: rows or paragraphs to read from the start, repeated ones among them, at least 1; None for all.
        max_bytes: most bytes to read, uncompressed; None for half of the memory that is available.

    Raises:
        SeedFileError: anything about the file or its rows that cannot be used; of rows all of them.
        ValueError: limit below 1.
    """
    source = source if isinstance(source, Source) else Source(source)
    mistakes = Mistakes()
    rows = read_rows(source, limit=limit, max_bytes=max_bytes, mistakes=mistakes, paragraphs=field)
    if rows and not any(field in row.values for row in rows):
        columns = sorted({name for row in rows for name in row.values})
        raise refuse_file(rows[0].file, f"column {field!r} is missing, found {columns}; set field to one of them")
    texts: dict[str, tuple[str, str, str | None]] = {}
    for row in rows:
        try:
            text, tag = _take_text(row, field), _take_tag(row, tag_field)
        except RowError as error:
            mistakes.add(row.file, row.place, str(error))
            continue
        row_id = derive_row_id("text", text.strip())
        # Corpora repeat texts, which is no mistake: the first one is kept and the others are counted.
        texts.setdefault(row_id, (row_id, text, tag))
    mistakes.check()
    table = pl.DataFrame(list(texts.values()), schema=UNLABELLED_TEXTS, orient="row")
    return TextFile(table=table, num_duplicates=len(rows) - len(texts))


def _take_text(row: Row, field: str) -> str:
    if field not in row.values:
        raise RowError(f"field {field!r} is missing, found {sorted(row.values)}; add it")
    return check_text(field, row.values[field])


def _take_tag(row: Row, tag_field: str) -> str | None:
    value = row.values[tag_field] if tag_field in row.values else None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RowError(f"field {tag_field!r} must be a string, a number or null, got {show_value(value)}; correct it")
    return check_text(tag_field, value) if isinstance(value, str) else str(value)
