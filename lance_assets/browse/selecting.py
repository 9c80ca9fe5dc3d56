"""Which rows of one table, in one round or all, a person asked for: filters, order, sample and page, read lazily.

A filter reads only the columns that it looks at, and gives the numbers of the rows that match; these are remembered. A
page then reads its rows alone. So the second page of a million rows costs no second search.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

import numpy as np
import polars as pl

from lance_assets.browse.mistakes import BadQueryError
from lance_assets.browse.shelf import ROW_NUMBER, Shelf, collect

OF_ROUND = "of_round"
"""The column that names the round where rows of several are listed together."""
NO_VALUE, ANY_VALUE = "(none)", "(any)"
"""What a person chooses for rows without, or with any, value in a column."""
FACETS = (
    *("kind", "drop_reason", "refused_reason", "source", "source_round", "tier", "finish_reason", "outcome", "model"),
    *("benchmark", "metric", "task", "stratum", "is_correct", "rule", "other_round", "parent_round"),
)
"""Columns whose few values a person chooses from."""
LINKED = ("row_id", "seed_id", "parent_id", "source_id", "nearest_id", "other_id", "chosen_id", "rejected_id")
"""Columns that hold the id of a row."""
PER_PAGE = 50
MAX_PER_PAGE = 500
MAX_SAMPLE = 500


@dataclass(frozen=True)
class Choice:
    """What a person asked for of a table."""

    values: Mapping[str, str] = field(default_factory=dict)
    """By column the value that rows have; `NO_VALUE` and `ANY_VALUE` are of no column."""
    number: str | None = None
    """The column that `least` and `most` are of."""
    least: float | None = None
    """The smallest number of a row, itself taken."""
    most: float | None = None
    """The largest."""
    seed: str | None = None
    """How the id of the seed begins, or the row's own id."""
    text: str | None = None
    """What a text of the row contains; capitals count where it has some."""
    sort: str | None = None
    """The column that rows are ordered by; None: as the table has them."""
    is_falling: bool = False
    """Whether the largest comes first."""
    sample: int | None = None
    """How many rows are drawn at random; None: all are listed."""
    draw: int = 1
    """Which drawing: the same number draws the same rows."""
    page: int = 1
    """From 1."""
    per_page: int = PER_PAGE
    """Rows of a page."""

    def write_query(self, **changes: Any) -> str:
        """The query of an address that asks for this, some fields changed; a change of anything goes to page 1."""
        new = replace(self, **changes) if "page" in changes else replace(self, page=1, **changes)
        fields: dict[str, Any] = dict(new.values)
        fields |= {"number": new.number if new.least is not None or new.most is not None else None}
        fields |= {"min": _write(new.least), "max": _write(new.most), "seed": new.seed, "text": new.text}
        fields |= {"sort": new.sort, "falling": "1" if new.is_falling else None, "random": new.sample}
        fields |= {"draw": new.draw if new.sample else None, "page": new.page if new.page > 1 else None}
        fields |= {"per": new.per_page if new.per_page != PER_PAGE else None}
        return urlencode({name: value for name, value in fields.items() if value not in (None, "")})


def _write(number: float | None) -> str | None:
    return None if number is None else f"{number:g}"


def list_facets(schema: pl.Schema) -> list[str]:
    """The columns of a table whose values a person chooses from."""
    return [name for name in FACETS if name in schema]


def list_numbers(schema: pl.Schema) -> list[str]:
    """The columns of a table that hold numbers, those named after scores first."""
    found = [name for name, dtype in schema.items() if dtype.is_numeric()]
    return sorted(found, key=lambda name: ("score" not in name, found.index(name)))


def list_texts(schema: pl.Schema) -> list[str]:
    """The columns of a table that hold texts of people or models."""
    known = {*FACETS, *LINKED, OF_ROUND, "round", "noun", "content_hash", "item"}
    return [name for name, dtype in schema.items() if dtype in (pl.String, pl.List(pl.String)) and name not in known]


def read_choice(query: Mapping[str, Sequence[str]], schema: pl.Schema) -> Choice:
    """What the query of an address asks for.

    Args:
        query: its fields.
        schema: of the table.

    Raises:
        BadQueryError: a field that there is not, or a value that it cannot have.
    """
    fields = {name: values[-1] for name, values in query.items() if values and values[-1] != ""}
    facets = list_facets(schema)
    known = {"number", "min", "max", "seed", "text", "sort", "falling", "random", "draw", "page", "per"}
    if unknown := sorted(set(fields) - known - set(facets)):
        raise BadQueryError(
            f"there is no field {unknown[0]!r} to choose rows by; there are {', '.join(facets)} and "
            f"{', '.join(sorted(known))}"
        )
    for name, columns in (("number", list_numbers(schema)), ("sort", [*schema])):
        if name in fields and fields[name] not in columns:
            raise BadQueryError(f"{name}: there is no such column {fields[name]!r}; choose one of {', '.join(columns)}")
    numbers = list_numbers(schema)
    return Choice(
        values={name: fields[name] for name in facets if name in fields},
        number=fields["number"] if "number" in fields else (numbers[0] if numbers else None),
        least=_read_number(fields, "min"),
        most=_read_number(fields, "max"),
        seed=fields["seed"] if "seed" in fields else None,
        text=fields["text"] if "text" in fields else None,
        sort=fields["sort"] if "sort" in fields else None,
        is_falling="falling" in fields,
        sample=_read_count(fields, "random", None, MAX_SAMPLE),
        draw=_read_count(fields, "draw", 1, 2**31) or 1,
        page=_read_count(fields, "page", 1, 10**9) or 1,
        per_page=_read_count(fields, "per", PER_PAGE, MAX_PER_PAGE) or PER_PAGE,
    )


def _read_number(fields: Mapping[str, str], name: str) -> float | None:
    if name not in fields:
        return None
    try:
        return float(fields[name])
    except ValueError:
        raise BadQueryError(f"{name} must be a number such as 7.5, got {fields[name]!r}") from None


def _read_count(fields: Mapping[str, str], name: str, default: int | None, most: int) -> int | None:
    if name not in fields:
        return default
    text = fields[name]
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:12]) <= most):
        raise BadQueryError(f"{name} must be a whole number from 1 to {most}, got {text!r}")
    return int(text)


@dataclass(frozen=True)
class Selection:
    """The rows of a table that a choice leaves."""

    shelf: Shelf
    experiment: str
    rounds: Sequence[str]
    """The rounds whose tables are read together, in order."""
    table: str
    choice: Choice

    @property
    def schema(self) -> pl.Schema:
        """The columns of the table."""
        return self.shelf.schemas[self.table]

    @property
    def num_rows(self) -> int:
        """Rows before any filter."""
        return sum(self.shelf.count_rows(self.experiment, key, self.table) for key in self.rounds)

    def scan(self, round_key: str) -> pl.LazyFrame:
        """The table of a round, with the numbers of its rows."""
        return self.shelf.scan(self.experiment, round_key, self.table)

    def find_matches(self) -> pl.DataFrame:
        """The rows that the filters leave, in the order that was asked for: which round by number, and which row."""
        choice = replace(self.choice, page=1, per_page=PER_PAGE, sample=None, draw=1)
        states = tuple(self.shelf.find_state(self.experiment, key, self.table) for key in self.rounds)
        key = ("matches", states, choice.write_query())
        return self.shelf.keep(key, lambda: self._match(choice))

    def _match(self, choice: Choice) -> pl.DataFrame:
        kept, found = build_filter(choice, self.schema), []
        for number, key in enumerate(self.rounds):
            rows = self.scan(key)
            if kept is None and choice.sort is None:
                size = self.shelf.count_rows(self.experiment, key, self.table)
                found.append(
                    pl.select(pl.int_range(size, dtype=pl.UInt32).alias(ROW_NUMBER), part=pl.lit(number, pl.UInt16))
                )
                continue
            rows = rows if kept is None else rows.filter(kept)
            names = [ROW_NUMBER, *([choice.sort] if choice.sort else [])]
            found.append(collect(rows.select(names)).with_columns(part=pl.lit(number, pl.UInt16)))
        matches = pl.concat(found)
        if choice.sort:
            matches = matches.sort(choice.sort, descending=choice.is_falling, nulls_last=True, maintain_order=True)
        return matches.select("part", pl.col(ROW_NUMBER).cast(pl.UInt32))

    def choose_page(self) -> tuple[pl.DataFrame, int]:
        """The places of the rows of the page, and how many rows match in all."""
        choice = self.choice
        matches = self.find_matches()
        if choice.sample:
            size = min(choice.sample, len(matches))
            drawn = np.random.default_rng(choice.draw).choice(len(matches), size, replace=False, shuffle=False)
            return matches[np.sort(drawn)], len(matches)
        return matches.slice((choice.page - 1) * choice.per_page, choice.per_page), len(matches)

    def read_page(self) -> tuple[pl.DataFrame, int]:
        """The rows of the page whole, with `OF_ROUND`, and how many rows match in all."""
        places, total = self.choose_page()
        return self.fetch(places), total

    def fetch(self, places: pl.DataFrame) -> pl.DataFrame:
        """Rows whole, in the order of their places, with `OF_ROUND`."""
        parts = [pl.DataFrame(schema={"part": pl.UInt16, ROW_NUMBER: pl.UInt32, OF_ROUND: pl.String, **self.schema})]
        for number, key in enumerate(self.rounds):
            wanted = places.filter(part=number)[ROW_NUMBER]
            if len(wanted):
                rows = self.shelf.fetch(self.experiment, key, self.table, wanted)
                own = {"part": pl.lit(number, pl.UInt16), OF_ROUND: pl.lit(key)}
                parts.append(rows.with_columns(**own).select(parts[0].columns))
        ordered = places.join(pl.concat(parts), on=["part", ROW_NUMBER], how="left", maintain_order="left")
        return ordered.select(OF_ROUND, *self.schema.names())

    def count_values(self, column: str) -> dict[str | None, int]:
        """How many rows have each value of a column, the commonest first, before any filter."""
        states = tuple(self.shelf.find_state(self.experiment, key, self.table) for key in self.rounds)

        def count() -> dict[str | None, int]:
            tables = [
                collect(self.scan(key).group_by(pl.col(column).cast(pl.String)).agg(pl.len())) for key in self.rounds
            ]
            counted = pl.concat(tables).group_by(column).agg(pl.col("len").sum())
            return dict(counted.sort(["len", column], descending=[True, False]).iter_rows())

        return self.shelf.keep(("values", states, column), count)


def build_filter(choice: Choice, schema: pl.Schema) -> pl.Expr | None:
    """The condition that rows keep; None where every row does."""
    kept: list[pl.Expr] = []
    for name, value in choice.values.items():
        column = pl.col(name)
        if value in (NO_VALUE, ANY_VALUE):
            kept.append(column.is_null() if value == NO_VALUE else column.is_not_null())
        else:
            kept.append(column == value if schema[name] == pl.String else column.cast(pl.String) == value)
    if choice.number is not None:
        if choice.least is not None:
            kept.append(pl.col(choice.number) >= choice.least)
        if choice.most is not None:
            kept.append(pl.col(choice.number) <= choice.most)
    if choice.seed:
        ids = [name for name in ("seed_id", "row_id") if name in schema]
        kept.append(pl.any_horizontal(pl.lit(False), *(pl.col(name).str.starts_with(choice.seed) for name in ids)))
    if choice.text:
        contained = [_contains(name, choice.text, schema[name]) for name in list_texts(schema)]
        kept.append(pl.any_horizontal(pl.lit(False), *contained))
    # One comparison that is null leaves a row out, as one that is false does.
    return pl.all_horizontal(*kept).fill_null(False) if kept else None


def _contains(name: str, text: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name) if dtype == pl.String else pl.col(name).list.join("\n", ignore_nulls=True)
    # A pattern with (?i) is slower than a literal, so capitals are heeded where a person writes some.
    if text != text.lower():
        return column.str.contains(text, literal=True).fill_null(False)
    return column.str.contains(f"(?i){pl.escape_regex(text)}").fill_null(False)
