"""Rows of a table as a language model writes them: JSON objects or lines of values, each read or refused with a reason.

Source: `src/cllm/llm_gen.py` of seedatnabeel/CLLM, commit 4ce879d, which finds objects by `{[^{}]*}`. Differences:

1.  Each object is read by itself. Theirs loses every row of a text where one object cannot be read.
2.  A word of the schema, such as "integer", refuses a row only where the column has no such value. The authors'
    tutorial drops every row that has the value "Yes" or "No".
3.  Columns, types, ranges and categories are checked here. Theirs casts the whole table by pandas, and where that fails
    its tutorial looks for the bad values in another table.
4.  `lines` reads rows of values without names, in the order of the columns, for models that write little.
"""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lance_assets.algorithms.tabular.columns import Column, Value, read_value, write_number

RowFormat = Literal["json", "lines"]
_OBJECT = re.compile(r"\{[^{}]*\}")
_LONGEST = 20_000
"""Characters of one row, beyond which it is not read."""


@dataclass(frozen=True)
class WrittenRow:
    """One row that a model wrote, or tried to."""

    text: str
    """The piece of the model's text."""
    values: Mapping[str, Value] | None
    """Its values by column; None where it is refused."""
    reason: str | None
    """Why it is refused; None where it is read."""


def write_row(columns: Sequence[Column], row: Mapping[str, Value], *, row_format: RowFormat) -> str:
    """A row as a model is shown it.

    >>> columns = [Column("age", "integer"), Column("ill", "category", values=("no", "yes"))]
    >>> write_row(columns, {"age": 59.0, "ill": "yes"}, row_format="json")
    '{"age": 59, "ill": "yes"}'
    >>> write_row(columns, {"age": 59.0, "ill": "yes"}, row_format="lines")
    '59, yes'
    """
    texts = [row[column.name] for column in columns]
    if row_format == "json":
        parts = [
            f"{json.dumps(column.name, ensure_ascii=False)}: "
            + (json.dumps(value, ensure_ascii=False) if isinstance(value, str) else write_number(value))
            for column, value in zip(columns, texts, strict=True)
        ]
        return "{" + ", ".join(parts) + "}"
    written = io.StringIO()
    csv.writer(written, lineterminator="").writerow(
        [value if isinstance(value, str) else write_number(value) for value in texts]
    )
    return re.sub(r",(?=(?:[^\"]*\"[^\"]*\")*[^\"]*$)", ", ", written.getvalue())


def read_written(
    text: str, columns: Sequence[Column], *, row_format: RowFormat, is_cut: bool = False
) -> list[WrittenRow]:
    """Every row of a text, in order, read or refused.

    Args:
        text: what the model wrote; words around the rows are no rows.
        columns: of the table, the label among them, in the order of `lines`.
        row_format: "json": each object without an object in it is a row. "lines": each line with a comma is one, but
            for one that has the columns' names.
        is_cut: whether the text was cut at the token limit: then a row that does not end is "cut_off".

    Returns:
        The rows. Reasons are those of `columns.read_value`, "cut_off", "unreadable", "missing_column" and
        "unknown_column"; the first that applies, in the order of the columns.

    >>> columns = [Column("age", "integer"), Column("ill", "category", values=("no", "yes"))]
    >>> [row.reason for row in read_written('{"age": 1, "ill": "no"} {"age": 2} {oh', columns, row_format="json")]
    [None, 'missing_column', 'unreadable']
    """
    if row_format == "json":
        return _read_objects(text, columns, is_cut=is_cut)
    return _read_lines(text, columns, is_cut=is_cut)


def _read_objects(text: str, columns: Sequence[Column], *, is_cut: bool) -> list[WrittenRow]:
    found, end = [], 0
    for match in _OBJECT.finditer(text):
        found.append(_read_object(match[0], columns))
        end = match.end()
    rest = text[end:]
    if (begun := rest.rfind("{")) >= 0:
        found.append(WrittenRow(rest[begun:].strip(), None, "cut_off" if is_cut else "unreadable"))
    return found


def _read_object(piece: str, columns: Sequence[Column]) -> WrittenRow:
    if len(piece) > _LONGEST:
        return WrittenRow(piece, None, "unreadable")
    try:
        # RecursionError: brackets within brackets; ValueError: a number of thousands of digits.
        pairs = json.loads(piece, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return WrittenRow(piece, None, "unreadable")
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        return WrittenRow(piece, None, "unreadable")
    return _check(piece, {name.strip(): value for name, value in pairs}, columns)


def _read_lines(text: str, columns: Sequence[Column], *, is_cut: bool) -> list[WrittenRow]:
    names, lines = [column.name for column in columns], text.splitlines()
    found = []
    for place, line in enumerate(lines):
        piece = line.strip()
        if "," not in piece:
            continue
        try:
            values = next(csv.reader([piece], skipinitialspace=True))
        except (csv.Error, StopIteration):
            found.append(WrittenRow(piece, None, "unreadable"))
            continue
        values = [value.strip() for value in values]
        if values == names:
            continue
        if is_cut and place == len(lines) - 1:
            found.append(WrittenRow(piece, None, "cut_off"))
        elif len(values) != len(names):
            reason = "missing_column" if len(values) < len(names) else "unknown_column"
            found.append(WrittenRow(piece, None, reason))
        else:
            found.append(_check(piece, dict(zip(names, values, strict=True)), columns))
    return found


def _check(piece: str, values: Mapping[str, object], columns: Sequence[Column]) -> WrittenRow:
    names = {column.name for column in columns}
    if not names <= values.keys():
        return WrittenRow(piece, None, "missing_column")
    if not values.keys() <= names:
        return WrittenRow(piece, None, "unknown_column")
    read: dict[str, Value] = {}
    for column in columns:
        value, reason = read_value(column, values[column.name])
        if value is None:
            return WrittenRow(piece, None, reason)
        read[column.name] = value
    return WrittenRow(piece, read, None)
