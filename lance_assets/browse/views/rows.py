"""The rows of any table: filtered, ordered, drawn at random, whole, and taken along as a file."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from starlette.responses import RedirectResponse, Response, StreamingResponse

from lance_assets.browse.contract import ALL_ROUNDS, Asked, Page, View, Way
from lance_assets.browse.mistakes import NotThereError
from lance_assets.browse.selecting import (
    ANY_VALUE,
    LINKED,
    NO_VALUE,
    OF_ROUND,
    Selection,
    build_filter,
    list_facets,
    list_numbers,
    list_texts,
    read_choice,
)
from lance_assets.browse.shelf import BLOCK, ROW_NUMBER, collect

MAX_OPTIONS = 60
"""Values of a column that a person chooses from; the commonest are there."""
BEGIN_WITH = ("reviewed_set", "cleaned_set", "raw_generations", "seed_set")
"""The table that the tab opens: the first of these that the round has."""
MIME = {"jsonl": "application/x-ndjson", "parquet": "application/vnd.apache.parquet"}


def choose_table(asked: Asked) -> Response:
    """Lead to the table that a person most likely wants."""
    there = _list_tables(asked)
    first = next((name for name in BEGIN_WITH if there.get(name)), next(iter(there)))
    return RedirectResponse(f"/e/{asked.experiment}/{asked.round_key}/rows/{first}")


def _list_rounds(asked: Asked) -> list[str]:
    is_all = asked.round_key == ALL_ROUNDS
    return asked.shelf.list_rounds(asked.experiment) if is_all else [asked.round_key]


def _list_tables(asked: Asked) -> dict[str, int | None]:
    """Every table of the rounds with its number of rows; None where one cannot be read."""
    found: dict[str, int | None] = {}
    for key in _list_rounds(asked):
        for table in asked.shelf.list_tables(asked.experiment, key):
            try:
                before = found.get(table, 0)
                number = asked.shelf.count_rows(asked.experiment, key, table)
                found[table] = None if before is None else before + number
            except (OSError, pl.exceptions.PolarsError):
                found[table] = None
    return {name: found[name] for name in asked.shelf.schemas if name in found}


def select(asked: Asked) -> Selection:
    """The rows that an address asks for.

    Raises:
        NotThereError: no round that is asked for has the table.
        BadQueryError: a field or a value that there is not.
    """
    table, shelf = asked.parts["table"], asked.shelf
    if table not in shelf.schemas:
        raise NotThereError(f"there is no table {table!r}; choose one of {', '.join(shelf.schemas)}")
    rounds = [key for key in _list_rounds(asked) if shelf.has(asked.experiment, key, table)]
    if not rounds:
        there = ", ".join(_list_tables(asked))
        where = f"{asked.experiment} {asked.round_key}"
        raise NotThereError(
            f"{where} has no table {table!r}; it has {there}. Materialize {asked.experiment}/{table} for the round, or "
            f"run it: lance run {asked.experiment}"
        )
    return Selection(shelf, asked.experiment, rounds, table, read_choice(asked.query, shelf.schemas[table]))


def show_rows(asked: Asked) -> Page:
    """The rows of a table, a page of them."""
    selection = select(asked)
    choice, schema = selection.choice, selection.schema
    page, total = selection.read_page()
    facets = {name: selection.count_values(name) for name in list_facets(schema)}
    content: dict[str, Any] = {
        "selection": selection,
        "choice": choice,
        "table": selection.table,
        "tables": _list_tables(asked),
        "base": f"/e/{asked.experiment}/{asked.round_key}/rows",
        "facets": {name: _list_options(counts) for name, counts in facets.items() if len(counts) > 1},
        "numbers": list_numbers(schema),
        "sortable": [name for name, dtype in schema.items() if not dtype.is_nested()],
        "has_seed": "seed_id" in schema or "row_id" in schema,
        "has_text": bool(list_texts(schema)),
        "rows": [_lay_out(row, schema, choice.sort) for row in page.to_dicts()],
        "num_rows": selection.num_rows,
        "total": total,
        "last_page": max(1, -(-total // choice.per_page)),
        "is_filtered": total != selection.num_rows or bool(choice.sample),
        "another": choice.write_query(sample=choice.sample or 20, draw=choice.draw + 1 if choice.sample else 1),
        "is_all": asked.round_key == ALL_ROUNDS,
        "none": NO_VALUE,
        "any": ANY_VALUE,
    }
    return Page("rows.html", f"{selection.table} of {asked.experiment} {asked.round_key}", content)


def _list_options(counts: dict[str | None, int]) -> list[tuple[str, str]]:
    """The value and the words of each choice of a column."""
    values = {value: number for value, number in counts.items() if value is not None}
    options = [(value, f"{value} ({number:,})") for value, number in values.items()][:MAX_OPTIONS]
    if None not in counts or not values:
        return options
    every = sum(values.values())
    return [(ANY_VALUE, f"any value ({every:,})"), (NO_VALUE, f"no value ({counts[None]:,})"), *options]


FACT_ORDER = ("kind", "drop_reason", "refused_reason", "review_score", "score_gap", "tier", "similarity")
"""What a row shows first beside its id."""


def _lay_out(row: dict[str, Any], schema: pl.Schema, sort: str | None) -> dict[str, Any]:
    """A row in the pieces that the template shows: facts, texts beside each other, and everything whole."""
    texts = [name for name in list_texts(schema) if isinstance(row[name], str)]
    # What the model wrote holds what was parsed of it.
    shown = [name for name in texts if not (name == "completion" and "raw_text" in texts)][:3]
    first = [*FACT_ORDER, *([sort] if sort else [])]
    facts = [name for name in first if name in schema and row[name] is not None]
    facts += [name for name in list_facets(schema) if row[name] is not None and name not in facts]
    facts += [name for name in list_numbers(schema) if "score" in name and row[name] is not None and name not in facts]
    facts = [name for name in dict.fromkeys(facts) if name not in texts]
    others = [name for name in schema if name not in (*shown, *facts, "row_id")]
    return {"row": row, "texts": shown, "facts": facts, "others": others, "linked": LINKED, "round": row[OF_ROUND]}


def download(asked: Asked) -> Response:
    """The rows that are filtered, as a file: JSON lines or Parquet, in the order of the table."""
    selection, kind = select(asked), asked.parts["format"]
    if kind not in MIME:
        raise NotThereError(f"rows are taken along as {' or '.join(MIME)}, not as {kind!r}")
    blocks = read_blocks(selection, names_round=asked.round_key == ALL_ROUNDS)
    content = write_jsonl(blocks) if kind == "jsonl" else write_parquet(blocks)
    name = f"{asked.experiment}_{asked.round_key}_{selection.table}.{kind}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(content, media_type=MIME[kind], headers=headers)


def read_blocks(selection: Selection, *, names_round: bool) -> Iterator[pl.DataFrame]:
    """The selected rows whole, a block of a table at a time; at least one block, which may have no rows.

    Args:
        selection: which rows.
        names_round: whether the column `OF_ROUND` comes first.
    """
    columns = [*([OF_ROUND] if names_round else []), *selection.schema.names()]
    yield pl.DataFrame(schema={OF_ROUND: pl.String, **selection.schema}).select(columns)
    if selection.choice.sample:
        yield selection.read_page()[0].select(columns)
        return
    kept = build_filter(replace(selection.choice, sort=None), selection.schema)
    for key in selection.rounds:
        num_rows = selection.shelf.count_rows(selection.experiment, key, selection.table)
        for start in range(0, num_rows, BLOCK):
            rows = selection.scan(key).slice(start, BLOCK)
            rows = rows if kept is None else rows.filter(kept)
            yield collect(rows).drop(ROW_NUMBER).with_columns(pl.lit(key).alias(OF_ROUND)).select(columns)


def write_jsonl(blocks: Iterator[pl.DataFrame]) -> Iterator[bytes]:
    """Rows as JSON lines."""
    for block in blocks:
        yield block.write_ndjson().encode()


class _Sink:
    """A file that is sent away as it is written."""

    closed = False

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.num_bytes = 0

    def write(self, content: bytes) -> int:
        self.pieces.append(bytes(content))
        self.num_bytes += len(content)
        return len(content)

    def tell(self) -> int:
        return self.num_bytes

    def flush(self) -> None:
        """There is nothing to flush: what is written is taken away by `take`."""

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        taken, self.pieces = b"".join(self.pieces), []
        return taken


def write_parquet(blocks: Iterator[pl.DataFrame]) -> Iterator[bytes]:
    """Rows as one Parquet file, a row group a block."""
    # polars writes a file at once or to a path, and this one shall neither be held in memory nor lie on the disk.
    sink = _Sink()
    first = next(blocks).to_arrow()
    with pq.ParquetWriter(pa.PythonFile(sink, mode="w"), first.schema, compression="zstd") as writer:
        for block in blocks:
            if block.height:
                writer.write_table(block.to_arrow().cast(first.schema))
                yield sink.take()
    yield sink.take()


VIEW = View(
    "rows",
    "Rows",
    "Which rows are there, and what do they say?",
    (
        Way("/e/{experiment}/{round_key}/rows", choose_table, takes_all_rounds=True),
        Way("/e/{experiment}/{round_key}/rows/{table}", show_rows, takes_all_rounds=True),
        Way("/e/{experiment}/{round_key}/rows/{table}/download.{format}", download, takes_all_rounds=True),
    ),
)
