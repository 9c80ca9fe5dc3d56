"""Columns of a small table: their kinds and bounds, read off its rows, and values that are checked against them.

A row's features are text, one line a column, such as `age: 59`. A value that a model wrote is read as what it says or
refused with a reason. It is never rounded, clipped or filled in.

Hand-written: pandera and pydantic check rows against a schema that a person writes; here the real rows are the schema.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["integer", "number", "category"]
Value = float | str
"""Of a category the text, otherwise the number."""

TYPE_WORDS = frozenset(
    {"integer", "float", "numeric", "categorical", "number", "continuous", "string", "category", "age in years"}
)
"""What models write in place of a value: words of the schema that they were shown."""


@dataclass(frozen=True)
class Given:
    """What a person says of a column; what is None is read off the rows."""

    description: str = ""
    """What it means, in words."""
    kind: Kind | None = None
    """How its values are read."""
    low: float | None = None
    """Smallest value allowed."""
    high: float | None = None
    """Largest value allowed."""
    values: tuple[str, ...] = ()
    """Of a category all its values; empty: those of the rows."""


@dataclass(frozen=True)
class Column:
    """A column of the table."""

    name: str
    """As the rows have it."""
    kind: Kind
    """How its values are read."""
    description: str = ""
    """What it means, in words; empty where nobody said it."""
    low: float = -math.inf
    """Smallest number allowed."""
    high: float = math.inf
    """Largest number allowed."""
    values: tuple[str, ...] = ()
    """Of a category all its values, sorted."""

    def describe(self) -> str:
        """The column as a model is told of it: its name, kind and meaning.

        >>> Column("sex", "category", "of the patient", values=("f", "m")).describe()
        'sex (one of: f, m): of the patient'
        """
        kind = f"one of: {', '.join(self.values)}" if self.kind == "category" else self.kind
        return f"{self.name} ({kind})" + (f": {self.description}" if self.description else "")


def write_number(value: float) -> str:
    """A number as rows have it: whole ones without a point.

    >>> write_number(3.0), write_number(32.1)
    ('3', '32.1')
    """
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def write_features(columns: Sequence[Column], row: Mapping[str, Value]) -> str:
    r"""A row's features as text, one line a column.

    >>> write_features([Column("age", "integer"), Column("sex", "category")], {"age": 59.0, "sex": "f"})
    'age: 59\nsex: f'
    """
    return "\n".join(f"{column.name}: {write_value(row[column.name])}" for column in columns)


def write_value(value: Value) -> str:
    """A value as rows have it."""
    return value if isinstance(value, str) else write_number(value)


def split_features(text: str) -> dict[str, str]:
    r"""The values of a row's features by column, as text.

    Raises:
        ValueError: a line is no `column: value`, or a column stands twice.

    >>> split_features("age: 59\nsex: f")
    {'age': '59', 'sex': 'f'}
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.strip().splitlines(), start=1):
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not colon or not name or not value:
            raise ValueError(f"line {number} is no 'column: value', got {line[:80]!r}")
        if name in found:
            raise ValueError(f"the column {name!r} stands twice")
        found[name] = value
    return found


def read_number(text: str) -> float | None:
    """The finite number that a text is; None for any other text.

    >>> read_number(" 3.50 "), read_number("nan"), read_number("3 years"), read_number("1_000")
    (3.5, None, None, None)
    """
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def infer_columns(
    rows: Sequence[Mapping[str, str]], *, given: Mapping[str, Given], range_slack: float | None
) -> tuple[Column, ...]:
    """The columns of a table by its rows.

    A column of whole numbers is an integer, of numbers a number, and any other a category. Where nobody gives a bound,
    it lies beyond the values of the rows by `range_slack` of their range, and not below 0 where no value does.

    Args:
        rows: the features of each row as text, all with the same columns.
        given: what a person says of columns, by name.
        range_slack: 0 or more; None: only given bounds hold.

    Raises:
        ValueError: there is no row, rows differ in their columns, a value is not of the kind that is given, or a
            column is described that no row has.
    """
    if not rows:
        raise ValueError("a table needs a row to know its columns by, got none")
    names = list(rows[0])
    for number, row in enumerate(rows, start=1):
        if list(row) != names:
            raise ValueError(f"row {number} has the columns {', '.join(row)}, and row 1 has {', '.join(names)}")
    if unknown := sorted(set(given) - set(names)):
        raise ValueError(f"no row has the column {', '.join(unknown)}; the rows have {', '.join(names)}")
    return tuple(_infer(name, [row[name] for row in rows], given.get(name, Given()), range_slack) for name in names)


def _infer(name: str, texts: Sequence[str], said: Given, slack: float | None) -> Column:
    numbers = [read_number(text) for text in texts]
    read = [number for number in numbers if number is not None]
    is_numeric = len(read) == len(texts) and not said.values
    kind = said.kind or (
        "category" if not is_numeric else "integer" if all(one == int(one) for one in read) else "number"
    )
    if kind == "category":
        values = said.values or tuple(sorted({write_value(text) for text in texts}))
        if strange := sorted(set(texts) - set(values)):
            raise ValueError(f"column {name}: {strange[0]!r} is none of its values, {', '.join(values)}")
        return Column(name, kind, said.description, values=values)
    for text, number in zip(texts, numbers, strict=True):
        if number is None or (kind == "integer" and number != int(number)):
            raise ValueError(f"column {name}: {text!r} is no {kind}; correct the row, or set another kind")
    low, high = -math.inf, math.inf
    if slack is not None:
        reach = slack * (max(read) - min(read))
        low, high = min(read) - reach, max(read) + reach
        low = max(0.0, low) if min(read) >= 0 else low
    low, high = (low if said.low is None else said.low), (high if said.high is None else said.high)
    for text, number in zip(texts, read, strict=True):
        if not low <= number <= high:
            raise ValueError(f"column {name}: {text} is not in {write_number(low)} to {write_number(high)}")
    return Column(name, kind, said.description, low, high)


def read_value(column: Column, value: object) -> tuple[Value | None, str | None]:
    """A value that a model wrote, or why it is none.

    Args:
        column: what it has to be.
        value: as JSON has it, or as text.

    Returns:
        The value and None; or None and "missing_value", "echoed_type", "wrong_type", "out_of_range" or
        "unknown_category".

    >>> age = Column("age", "integer", low=0, high=120)
    >>> [read_value(age, one) for one in (59, "59", 59.5, 130)]
    [(59.0, None), (59.0, None), (None, 'wrong_type'), (None, 'out_of_range')]
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None, "missing_value"
    if isinstance(value, list | dict) or (isinstance(value, float) and not math.isfinite(value)):
        return None, "wrong_type"
    text = value.strip() if isinstance(value, str) else _write_json_number(value)
    if text is None:
        return None, "wrong_type"
    if column.kind == "category":
        # A model writes Yes for yes; the row has the table's own spelling.
        known = {one.casefold(): one for one in column.values}
        if text.casefold() in known:
            return known[text.casefold()], None
        return None, "echoed_type" if text.casefold() in TYPE_WORDS else "unknown_category"
    number = None if isinstance(value, bool) else read_number(text)
    if number is None:
        return None, "echoed_type" if text.casefold() in TYPE_WORDS else "wrong_type"
    if column.kind == "integer" and number != int(number):
        return None, "wrong_type"
    return (number, None) if column.low <= number <= column.high else (None, "out_of_range")


def _write_json_number(value: object) -> str | None:
    """A number or truth value of JSON as text; None where it is neither, or a number too large for any column."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, int | float):
        return None
    try:
        return write_number(float(value))
    except OverflowError:
        return None
