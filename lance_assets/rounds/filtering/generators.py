"""Which model wrote what, in an experiment that mixes several generators: shares of rows, and the writer of any row."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from lance_assets.records import ROW_GENERATORS
from lance_assets.rounds.report import Counts, Report, round_measure
from lance_assets.rounds.round import Round

TABLE = "row_generators"
"""The further table of raw_generations that says who wrote each completion."""


def tabulate_generators(written_by: Mapping[str, tuple[str, str]]) -> pl.DataFrame:
    """Who wrote which row, schema `ROW_GENERATORS`, in the order of the ids."""
    rows = [(row_id, *written_by[row_id]) for row_id in sorted(written_by)]
    return pl.DataFrame(rows, schema=ROW_GENERATORS, orient="row")


def read_writers(this_round: Round) -> dict[str, str]:
    """The generator of each row that a round's mixed stages wrote, by row id; none where one model wrote all."""
    if not this_round.has(TABLE, this_round.key):
        return {}
    return dict(this_round.read(TABLE).select("row_id", "generator").iter_rows())


def find_writers(this_round: Round, rows: Iterable[tuple[str | None, str | None]]) -> list[str | None]:
    """Who wrote rows of any round up to this one.

    Args:
        this_round: the round that asks.
        rows: of each row the round that made it and its id there.

    Returns:
        The generators' names in order; None for what no mixed stage wrote, such as seeds.
    """
    by_round: dict[str, dict[str, str]] = {}
    found: list[str | None] = []
    for key, row_id in rows:
        if key is not None and key not in by_round:
            by_round[key] = read_writers(this_round.at(key))
        found.append(by_round[key].get(row_id) if key is not None and row_id is not None else None)
    return found


def describe_generators(this_round: Round, row_ids: Sequence[str], *, of: str) -> Report:
    """How many of some rows each generator wrote, and their shares; nothing where one model writes all.

    Args:
        this_round: the round that the rows are of.
        row_ids: as in raw_generations; those that no mixed stage wrote do not count.
        of: what the rows are, for the names of the figures.
    """
    if not this_round.plan.settings.generators:
        return {}
    writers = read_writers(this_round)
    counts = Counter(writers[row_id] for row_id in row_ids if row_id in writers)
    shares = {f"generator_rate/{of}/{name}": round_measure(counts[name] / counts.total()) for name in sorted(counts)}
    return {f"generators/{of}": Counts("generator", dict(sorted(counts.items()))), **shares}
