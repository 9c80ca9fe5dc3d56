"""Files that people wrote to tables: seeds, EFT rows and unlabelled texts, checked row by row.

Every error names file, place, value and remedy. Prompts, completions, gold answers and texts are kept as they are
written, except that calculator marks can be taken out (`<<48/2=24>>`, as in GSM8K: openai/grade-school-math).
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import polars as pl

from lance_assets.records import SEED_SET, SFT_SET, derive_row_id
from resources.readers.row_files import (
    Row,
    read_paragraphs,
    read_rows,
    refuse_file,
    show_value,
    take_text,
    take_value,
)

logger = logging.getLogger(__name__)

_MARKS = re.compile(r"<<[^<>]*>>")


UNLABELLED_TEXTS = pl.Schema(
    {
        "row_id": pl.String,  # derived from the text without the blanks at its ends
        "text": pl.String,  # as it is written
        "source_tag": pl.String,  # where the file says it came from; null where it says nothing
    }
)
"""Texts without prompts: what Kun (arXiv 2401.06477) calls the raw texts of a corpus, whatever their perplexity."""


@dataclass(frozen=True)
class SeedFields:
    """Which fields of a row hold what."""

    prompt: str = "prompt"
    """The prompt."""
    completion: str = "completion"
    """The completion."""
    answer: str | None = None
    """The gold answer (a string, a number or null); None where the file has no such field."""
    answer_after: str | None = None
    """The mark before the gold answer at the end of a completion (`####` in GSM8K); the completion keeps both."""
    strip_marks: bool = False
    """Whether to remove calculator marks `<<...>>` from completions."""


class SeedSource(Protocol):
    """What an experiment says about its seeds; a path is absolute, or relative to the experiment's folder."""

    @property
    def path(self) -> str:
        """The seed file."""
        ...

    @property
    def prompt_field(self) -> str:
        """Which field holds the prompt."""
        ...

    @property
    def completion_field(self) -> str:
        """Which field holds the completion."""
        ...

    @property
    def answer_field(self) -> str | None:
        """Which field holds the gold answer."""
        ...

    @property
    def answer_after(self) -> str | None:
        """The mark before the gold answer in a completion."""
        ...

    @property
    def strip_calculator_marks(self) -> bool:
        """Whether to remove calculator marks."""
        ...

    @property
    def limit(self) -> int | None:
        """How many rows to read."""
        ...

    @property
    def eft_path(self) -> str | None:
        """The file of EFT rows."""
        ...


def read_seeds(source: SeedSource, folder: Path) -> pl.DataFrame:
    """Read the seeds of an experiment whose folder is `folder`, see `read_seed_file`."""
    fields = SeedFields(
        prompt=source.prompt_field,
        completion=source.completion_field,
        answer=source.answer_field,
        answer_after=source.answer_after,
        strip_marks=source.strip_calculator_marks,
    )
    return read_seed_file(folder / Path(source.path).expanduser(), fields=fields, limit=source.limit)


def read_eft(source: SeedSource, folder: Path) -> pl.DataFrame:
    """Read the EFT rows of an experiment, see `read_eft_file`; none where it names no file."""
    if source.eft_path is None:
        return pl.DataFrame(schema=SFT_SET)
    return read_eft_file(folder / Path(source.eft_path).expanduser())


def read_seed_file(
    path: Path, *, fields: SeedFields, limit: int | None = None, max_bytes: int | None = None
) -> pl.DataFrame:
    """Read seeds from a `.jsonl` or `.parquet` file.

    Args:
        path: the file.
        fields: which fields to read; others are ignored.
        limit: rows to read from its start, at least 1; None for all.
        max_bytes: most bytes to read, uncompressed; None for half of the memory that is available.

    Returns:
        A table of schema `SEED_SET`, in the order of the file.

    Raises:
        SeedFileError: anything about the file or a row that cannot be used.
        ValueError: limit below 1, or gold answers from two places.
    """
    if fields.answer is not None and fields.answer_after is not None:
        raise ValueError(f"set answer ({fields.answer!r}) or answer_after ({fields.answer_after!r}), not both")
    wanted = [field for field in (fields.prompt, fields.completion, fields.answer) if field is not None]
    rows = read_rows(path, wanted=wanted, limit=limit, max_bytes=max_bytes)
    seeds: list[dict[str, object]] = []
    places: dict[str, str] = {}
    for row in rows:
        prompt = take_text(path, row, fields.prompt)
        completion = take_text(path, row, fields.completion)
        # Row ids derive from the prompt, so two rows with one prompt would be one row.
        if prompt.strip() in places:
            first = places[prompt.strip()]
            raise refuse_file(path, f"{row.place} has the prompt of {first} again: {show_value(prompt)}; remove one")
        places[prompt.strip()] = row.place
        seeds.append(
            {
                "row_id": derive_row_id("seed", prompt),
                "prompt": prompt,
                "completion": _MARKS.sub("", completion) if fields.strip_marks else completion,
                "answer": _take_answer(path, row, fields, completion),
                "source": "seed",
            }
        )
    return pl.DataFrame(seeds, schema=SEED_SET)


def read_eft_file(path: Path) -> pl.DataFrame:
    """Read examples of reviewing (evaluation fine-tuning), with fields `prompt` and `completion`; a prompt may repeat.

    Returns:
        A table of schema `SFT_SET` with source `eft` and round `r0000`.

    Raises:
        SeedFileError: anything about the file or a row that cannot be used, or the same row twice.
    """
    rows = read_rows(path, wanted=("prompt", "completion"), limit=None, max_bytes=None)
    examples: list[dict[str, object]] = []
    places: dict[tuple[str, str], str] = {}
    for row in rows:
        prompt, completion = take_text(path, row, "prompt"), take_text(path, row, "completion")
        if (prompt, completion) in places:
            raise refuse_file(
                path, f"{row.place} is {places[prompt, completion]} again: {show_value(prompt)}; remove one"
            )
        places[prompt, completion] = row.place
        examples.append(
            {
                "row_id": derive_row_id("eft", prompt, completion),
                "prompt": prompt,
                "completion": completion,
                "source": "eft",
                "source_round": "r0000",
            }
        )
    return pl.DataFrame(examples, schema=SFT_SET)


def _take_answer(path: Path, row: Row, fields: SeedFields, completion: str) -> str | None:
    if fields.answer_after is not None:
        _, mark, after = completion.rpartition(fields.answer_after)
        if not mark or not after.strip():
            raise refuse_file(
                path,
                f"{row.place}: field {fields.completion!r} has no answer after {fields.answer_after!r}: "
                f"{show_value(completion[-40:])}; add it, or unset answer_after",
            )
        return after.strip()
    if fields.answer is None:
        return None
    value = take_value(path, row, fields.answer)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise refuse_file(
            path,
            f"{row.place}: field {fields.answer!r} must be a string, a number or null, got {show_value(value)}; "
            "correct it",
        )
    return str(value) if not isinstance(value, str) else take_text(path, row, fields.answer).strip()


@dataclass(frozen=True)
class TextFile:
    """What was read."""

    table: pl.DataFrame
    """The texts, schema `UNLABELLED_TEXTS`, in the order of the file, each once."""
    num_duplicates: int
    """Rows left out because the same text comes earlier in the file."""


def read_texts(path: Path, *, field: str = "text", limit: int | None = None) -> pl.DataFrame:
    """Read the texts of a file, see `read_text_file`; what was left out is logged."""
    read = read_text_file(path, field=field, limit=limit)
    if read.num_duplicates:
        logger.info("%s: left out %d texts that come earlier in the file", path, read.num_duplicates)
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
    if path.suffix == ".txt":
        rows = read_paragraphs(path, field=field, limit=limit, max_bytes=max_bytes)
    elif path.suffix in (".jsonl", ".parquet"):
        _check_column(path, field)
        rows = read_rows(path, wanted=(field, tag_field), limit=limit, max_bytes=max_bytes)
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
        # Corpora repeat texts, which is no mistake: the first one is kept and the others are counted.
        texts.setdefault(row_id, (row_id, text, tag))
    table = pl.DataFrame(list(texts.values()), schema=UNLABELLED_TEXTS, orient="row")
    return TextFile(table=table, num_duplicates=len(rows) - len(texts))


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
