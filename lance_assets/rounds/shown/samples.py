"""Which rows of a table are shown: a few of every kind, score and outcome, the same ones on every visit.

The first rows of a table are of one kind and one seed. A plain random draw misses what is rare, and what is rare, such
as the one reason that dropped three rows, is what a person looks for.

Hand-written: polars 1.44 samples rows, and draws no strata; `sklearn` splits by strata and needs two rows of each.
"""

import hashlib
from collections.abc import Sequence

import polars as pl

from lance_assets.rounds.report import Rows

BANDS = ("low", "middle", "high")
"""What a numeric column is cut into: thirds of its different values."""


def draw_rows(table: pl.DataFrame, *, over: Sequence[str], num_rows: int, salt: str) -> pl.DataFrame:
    """Some rows of a table, as evenly as can be over the values of some columns.

    Of each combination of values the row comes first whose id has the smallest hash, so that neither the order of the
    table nor another visit changes the draw. Every combination gives one row before any gives a second one.

    Args:
        table: with a column `row_id`, or any others that tell its rows apart.
        over: columns whose values are drawn over; a column of floats by its thirds (`BANDS`).
        num_rows: how many rows are drawn at most.
        salt: another one draws other rows.

    Returns:
        The rows, those of one combination together.

    >>> table = pl.DataFrame({"row_id": ["a", "b", "c", "d"], "kind": ["x", "x", "x", "y"]})
    >>> draw_rows(table, over=["kind"], num_rows=2, salt="r0001")["kind"].to_list()
    ['x', 'y']
    """
    ids = table["row_id"] if "row_id" in table.columns else table.select(pl.struct(pl.all()).struct.json_encode())
    texts = ids.to_list() if isinstance(ids, pl.Series) else ids.to_series().to_list()
    hashes = [hashlib.sha256(f"{salt}\x1f{text}".encode()).hexdigest() for text in texts]
    groups = table.select(_band(table[name]) for name in over)
    placed = table.with_columns(
        pl.Series("hash_", hashes, pl.String),
        group_=pl.Series(["\x1f".join(map(str, row)) for row in groups.iter_rows()], dtype=pl.String),
    ).sort("hash_")
    placed = placed.with_columns(place_=pl.int_range(pl.len()).over("group_"))
    # Where there are more combinations than rows, chance chooses among them and not the alphabet.
    drawn = placed.sort("place_", "hash_").head(num_rows)
    return drawn.sort("group_", "place_").select(table.columns)


def sample_rows(
    table: pl.DataFrame, columns: Sequence[str], *, over: Sequence[str], salt: str, num_rows: int = 8
) -> Rows:
    """Rows to show, with a sentence that says how they were drawn.

    Args:
        table: all rows.
        columns: which columns are shown, in this order.
        over: columns whose values are drawn over, as `draw_rows`.
        salt: another one draws other rows.
        num_rows: how many rows are drawn at most.
    """
    drawn = draw_rows(table, over=over, num_rows=num_rows, salt=salt)
    named = ", ".join(name.replace("_", " ") for name in over)
    note = "" if len(drawn) == len(table) else f"{len(drawn)} of {len(table)} rows, drawn over {named}."
    return Rows(drawn, columns, num_rows=len(drawn), note=note)


def _band(values: pl.Series) -> pl.Series:
    if not values.dtype.is_float():
        return values.cast(pl.String)
    # Of different values: where nearly all rows have one score, thirds of the rows would be one band.
    known = values.drop_nulls().drop_nans().unique().sort().to_list()
    if not known:
        return pl.Series(values.name, [None] * len(values), dtype=pl.String)
    first, second = known[(len(known) - 1) // 3], known[2 * (len(known) - 1) // 3]
    bands = [
        None if value is None else BANDS[0] if value <= first else BANDS[1] if value <= second else BANDS[2]
        for value in values.to_list()
    ]
    return pl.Series(values.name, bands, dtype=pl.String)
