"""Files that people wrote to tables: seeds and EFT rows, checked row by row.

Prompts, completions and gold answers are kept as they are written, except that calculator marks can be taken out
(`<<48/2=24>>`, as in GSM8K: openai/grade-school-math). Rows that repeat an earlier one are left out and counted.
"""

import json
import logging
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import polars as pl

from lance_assets.records import SEED_ORIGINS, SEED_SET, SFT_SET, SeedPlaces, derive_row_id
from resources.readers.mistakes import MOST_SHOWN, Mistakes, RowError, refuse_file, show_value
from resources.readers.origins import Origin, take_origins
from resources.readers.row_kinds import NOTHING_SAID, SeedFields
from resources.readers.row_parts import ReadRow, ReadRows, check_text, read_parts
from resources.readers.sources import Source, read_rows
from resources.readers.turns import TOLD

logger = logging.getLogger(__name__)

_MARKS = re.compile(r"<<[^<>]*>>")

REPEATED_ROWS = pl.Schema(
    {"place": pl.String, "first_place": pl.String, "same_completion": pl.Boolean, "prompt": pl.String}
)
"""Rows that were left out since an earlier row has the prompt."""


class SeedSource(Protocol):
    """What an experiment says about its seeds."""

    @property
    def row_fields(self) -> SeedFields:
        """How rows are read."""
        ...

    @property
    def limit(self) -> int | None:
        """How many rows to read."""
        ...

    @property
    def eft_path(self) -> str | None:
        """The file of EFT rows, absolute or relative to the experiment's folder."""
        ...

    def find(self, folder: Path) -> Source:
        """Where the rows are, for an experiment in a folder."""
        ...


@dataclass(frozen=True)
class SeedFile:
    """What was read."""

    table: pl.DataFrame
    """The rows, each prompt once, in the order of the files."""
    how: str
    """The number of rows, their kind and the file, in words."""
    places: SeedPlaces
    """Where the rows of the table stand among all that were read."""
    repeated: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=REPEATED_ROWS))
    """Rows that were left out, schema `REPEATED_ROWS`."""
    origins: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SEED_ORIGINS))
    """Licence and source of the rows, schema `SEED_ORIGINS`; of rows about which nothing is said there is none."""
    not_allowed: dict[str, int] = field(default_factory=dict)
    """How many rows were left out for their licence, by its name."""


def open_seeds(source: SeedSource, folder: Path) -> SeedFile:
    """Read the seeds of an experiment whose folder is `folder`, see `open_seed_file`."""
    return open_seed_file(source.find(folder), fields=source.row_fields, limit=source.limit)


def read_seeds(source: SeedSource, folder: Path) -> pl.DataFrame:
    """The table of the seeds of an experiment, see `open_seeds`."""
    return open_seeds(source, folder).table


def read_eft(source: SeedSource, folder: Path) -> pl.DataFrame:
    """Read the EFT rows of an experiment, see `read_eft_file`; none where it names no file."""
    if source.eft_path is None:
        return pl.DataFrame(schema=SFT_SET)
    return read_eft_file(folder / Path(source.eft_path).expanduser())


def read_seed_file(
    path: Path, *, fields: SeedFields, limit: int | None = None, max_bytes: int | None = None
) -> pl.DataFrame:
    """The table of a file, a folder or a pattern, see `open_seed_file`."""
    return open_seed_file(Source(path), fields=fields, limit=limit, max_bytes=max_bytes).table


def open_seed_file(
    source: Source, *, fields: SeedFields, limit: int | None = None, max_bytes: int | None = None
) -> SeedFile:
    """Read seeds.

    Args:
        source: the file, folder, pattern or data set.
        fields: how its rows are read.
        limit: rows to read from its start, at least 1; None for all.
        max_bytes: most bytes to read, uncompressed; None for half of the memory that is available.

    Returns:
        A table of schema `SEED_SET`, in the order of the file. Of rows with one prompt the first is kept.

    Raises:
        SeedFileError: anything about the file or its rows that cannot be used; of rows all of them.
        ValueError: limit below 1, or gold answers from two places.
    """
    if fields.answer is not None and fields.answer_after is not None:
        raise ValueError(f"set answer ({fields.answer!r}) or answer_after ({fields.answer_after!r}), not both")
    read, how = _read_checked(source, fields, limit, max_bytes)
    mistakes, answers = Mistakes(), []
    for one in read.rows:
        try:
            answers.append(_take_answer(one, fields))
        except RowError as error:
            mistakes.add(one.row.file, one.row.place, str(error))
    found: list[Origin | None] = [None] * len(read.rows)
    if fields.origins != NOTHING_SAID:
        found = [*take_origins([one.row for one in read.rows], fields.origins, mistakes)]
    mistakes.check()
    seeds: list[tuple[str, str, str, str | None, str]] = []
    places: dict[str, int] = {}
    first: dict[str, ReadRow] = {}
    repeated: list[tuple[str, str, bool, str]] = []
    origins: list[tuple[str, list[str], list[str]]] = []
    not_allowed: Counter[str] = Counter()
    for place, (one, answer, origin) in enumerate(zip(read.rows, answers, found, strict=True)):
        if origin is not None and not origin.is_allowed(fields.origins):
            not_allowed[origin.license or "not stated"] += 1
            continue
        completion = one.completion or ""
        # Row ids derive from the prompt, so two rows with one prompt would be one row.
        earlier = first.setdefault(one.prompt.strip(), one)
        if earlier is not one:
            repeated.append((_place(one), _place(earlier), earlier.completion == completion, one.prompt))
            continue
        kept = _MARKS.sub("", completion) if fields.strip_marks else completion
        seeds.append((derive_row_id("seed", one.prompt), one.prompt, kept, answer, "seed"))
        places[seeds[-1][0]] = place
        if origin is not None and not origin.is_unknown:
            origins.append((seeds[-1][0], origin.list_licenses(), origin.list_sources()))
    if not_allowed and not seeds:
        allowed = ", ".join(fields.origins.allowed or ())
        raise refuse_file(
            read.rows[0].row.file,
            f"none of {len(read.rows)} rows has a licence of seeds.allowed_licenses ({allowed}); "
            f"found {', '.join(not_allowed)}; allow one of them, or give other rows",
        )
    columns = ("row_id", "prompt", "completion", "answer", "source")
    table = pl.DataFrame(seeds, schema={name: SEED_SET[name] for name in columns}, orient="row")
    absent = (pl.lit(None, SEED_SET[name]).alias(name) for name in SEED_SET if name not in columns)
    left_out = pl.DataFrame(repeated, schema=REPEATED_ROWS, orient="row")
    if repeated:
        how += f"; left out {len(repeated)} whose prompt comes earlier"
        how += f" ({left_out['same_completion'].sum()} with the same completion): {_list_repeated(repeated)}"
    if not_allowed:
        told = ", ".join(f"{number} {name}" for name, number in not_allowed.most_common())
        how += f"; left out {not_allowed.total()} whose licence is not allowed ({told})"
    known = pl.DataFrame(origins, schema=SEED_ORIGINS, orient="row")
    return SeedFile(
        *(table.with_columns(*absent).select(SEED_SET.names()), how, SeedPlaces(places, len(read.rows))),
        *(left_out, known, dict(not_allowed)),
    )


def _list_repeated(repeated: list[tuple[str, str, bool, str]]) -> str:
    """The places of the first rows that were left out, and how many there are beside them."""
    told = [f"{place} repeats {first}" for place, first, *_ in repeated[:MOST_SHOWN]]
    return ", ".join(told) + (f", and {len(repeated) - MOST_SHOWN} more" if len(repeated) > MOST_SHOWN else "")


def _place(one: ReadRow) -> str:
    return f"{Path(one.row.file).name} {one.row.place}"


def _read_checked(source: Source, fields: SeedFields, limit: int | None, max_bytes: int | None) -> tuple[ReadRows, str]:
    """The rows, none with a mistake, and how they were read, in words."""
    mistakes = Mistakes()
    rows = read_rows(source, limit=limit, max_bytes=max_bytes, mistakes=mistakes)
    # Without any row there is a mistake: an empty file is refused.
    if not rows:
        mistakes.check()
    read = read_parts(rows, fields, mistakes)
    mistakes.check()
    how = f"read {len(read.rows)} row{'s'[: len(read.rows) != 1]} as {read.reading.describe()} from {source.name}"
    if num_before := sum(bool(one.turns) for one in read.rows):
        how += f"; {num_before} with earlier turns or a system message, {TOLD[fields.turns]}"
    if unread := [name for name in read.reading.columns if name not in read.reading.used | {fields.answer}]:
        how += f"; not read: {', '.join(unread)}"
    return read, how


def read_eft_file(path: Path) -> pl.DataFrame:
    """Read examples of reviewing (evaluation fine-tuning); a prompt may repeat, and a row that does is left out.

    Returns:
        A table of schema `SFT_SET` with source `eft` and round `r0000`.

    Raises:
        SeedFileError: anything about the file or its rows that cannot be used; of rows all of them.
    """
    read, how = _read_checked(Source(path), SeedFields(setting=""), None, None)
    rows = dict.fromkeys((one.prompt, one.completion or "") for one in read.rows)
    if num_repeated := len(read.rows) - len(rows):
        how += f"; left out {num_repeated} that come earlier"
    logger.info("%s", how)
    examples = [
        {
            "row_id": derive_row_id("eft", prompt, completion),
            "prompt": prompt,
            "completion": completion,
            "source": "eft",
            "source_round": "r0000",
        }
        for prompt, completion in rows
    ]
    return pl.DataFrame(examples, schema=SFT_SET)


def read_prompts(path: Path, *, fields: SeedFields) -> list[ReadRow]:
    """Read prompts of an evaluation, with their completions where `fields` needs them.

    Args:
        path: a file, a folder or a pattern.
        fields: how its rows are read.

    Raises:
        SeedFileError: anything about the file or its rows that cannot be used; of rows all of them.
    """
    return _read_checked(Source(path), fields, None, None)[0].rows


def check_repeated(rows: list[ReadRow]) -> None:
    """Refuse prompts that stand in a file more than once.

    Raises:
        SeedFileError: all rows whose prompt comes earlier.
    """
    first: dict[str, ReadRow] = {}
    mistakes = Mistakes()
    for one in rows:
        earlier = first.setdefault(one.prompt, one)
        if earlier is not one:
            what = f"has the prompt of {earlier.row.place} again: {show_value(one.prompt)}; remove one of them"
            mistakes.add(one.row.file, one.row.place, what)
    mistakes.check()


def _take_answer(one: ReadRow, fields: SeedFields) -> str | None:
    if not one.is_last:
        return None
    if fields.answer_after is not None:
        completion = one.completion or ""
        _, mark, after = completion.rpartition(fields.answer_after)
        if not mark or not after.strip():
            raise RowError(
                f"the completion has no answer after {fields.answer_after!r}: {show_value(completion[-40:])}; add it, "
                "or unset answer_after"
            )
        return after.strip()
    if fields.answer is None:
        return None
    if fields.answer not in one.row.values:
        found = sorted(one.row.values)
        raise RowError(f"field {fields.answer!r} is missing, found {found}; add it, or unset answer_field")
    value = one.row.values[fields.answer]
    if value is None:
        return None
    if isinstance(value, float) and not math.isfinite(value):
        raise RowError(
            f"field {fields.answer!r} must be a number, got {value} (pandas writes NaN for a missing value); write the "
            "answer, or null where there is none"
        )
    if fields.answer_json and isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RowError(
            f"field {fields.answer!r} must be a string, a number or null, got {show_value(value)}; correct it, or set "
            "answer_json, which keeps lists and objects as JSON"
        )
    return str(value) if not isinstance(value, str) else check_text(fields.answer, value).strip()
