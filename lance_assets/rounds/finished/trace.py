"""A row's story over all tables and rounds of an experiment: what it comes from, what came of it, who trained on it.

Tables name rows of other tables in the columns of `LINKS`. From a row, its story goes back along these links to its
seed, and forward to every row that names it. `LIKENESS` links two rows that are alike and do not come from each other:
the story shows such a neighbour and goes no further from it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl

LINKS = ("seed_id", "parent_id", "source_id", "chosen_id", "rejected_id")
"""Columns that name the row a row was made from."""

LIKENESS = ("nearest_id", "other_id")
"""Columns that name a row that is too like a row."""

TRAINING_SETS = ("sft_set", "preference_pairs", "label_set")
"""Tables whose rows a checkpoint of the same round is trained on."""

Relation = Literal["source", "itself", "result", "like"]
"""Whether an entry is what the row comes from, the row, what came of it, or another row that is too like it."""

Tables = Mapping[tuple[str, str], pl.DataFrame]
"""Tables by round and name, in the order in which they were made."""


@dataclass(frozen=True)
class Entry:
    """One row of one table in a story."""

    round_key: str
    """The round of the table."""
    table: str
    """The table's name."""
    relation: Relation
    """What the entry is to the traced row."""
    row: Mapping[str, object]
    """The row whole."""


@dataclass(frozen=True)
class Story:
    """Where a row is found, what it comes from, and what came of it."""

    row_id: str
    """The traced row."""
    entries: Sequence[Entry]
    """In the order of rounds and tables; an entry appears once, by its nearest relation."""

    @property
    def training_sets(self) -> dict[str, list[str]]:
        """By round, the training sets that hold the row or a row that came of it: the round's checkpoint saw them."""
        found: dict[str, list[str]] = {}
        for entry in self.entries:
            names = found.setdefault(entry.round_key, []) if entry.table in TRAINING_SETS else []
            if entry.relation in ("itself", "result") and entry.table in TRAINING_SETS and entry.table not in names:
                names.append(entry.table)
        return {key: names for key, names in found.items() if names}


def find_row_ids(tables: Tables, prefix: str) -> list[str]:
    """Every row id that begins with a prefix, sorted."""
    found: set[str] = set()
    for table in tables.values():
        if "row_id" in table.columns:
            found |= set(table["row_id"].filter(table["row_id"].str.starts_with(prefix)))
    return sorted(found)


def trace_row(tables: Tables, row_id: str) -> Story:
    """A row's story over the tables of one experiment.

    Cost: one pass over all tables for each step along the links, in each direction.

    Raises:
        ValueError: no table has the row.

    >>> seeds = pl.DataFrame({"row_id": ["s"], "source_id": [None]}, schema_overrides={"source_id": pl.String})
    >>> made = pl.DataFrame({"row_id": ["a", "b"], "seed_id": ["s", "s"]})
    >>> story = trace_row({("r0000", "seed_set"): seeds, ("r0000", "raw_generations"): made}, "s")
    >>> [(entry.relation, entry.row["row_id"]) for entry in story.entries]
    [('itself', 's'), ('result', 'a'), ('result', 'b')]
    """
    relations = relate_rows(tables, row_id)
    entries = [
        Entry(key, name, relations[row["row_id"]], row)
        for (key, name), table in tables.items()
        if "row_id" in table.columns
        for row in table.filter(pl.col("row_id").is_in(list(relations))).to_dicts()
    ]
    return Story(row_id, entries)


def relate_rows(tables: Tables, row_id: str) -> dict[str, Relation]:
    """Every row of a row's story by its id, with its nearest relation; of the tables only ids and links are read.

    Raises:
        ValueError: no table has the row.
    """
    if not any("row_id" in table.columns and (table["row_id"] == row_id).any() for table in tables.values()):
        raise ValueError(f"no table has a row {row_id!r}; a row id is 16 hexadecimal digits, as tables show them")
    sources = _follow({row_id}, lambda ids: _find_sources(tables, ids))
    results = _follow({row_id}, lambda ids: _find_results(tables, ids))
    like = _find_like(tables, row_id) - sources - results - {row_id}
    relations: dict[str, Relation] = dict.fromkeys(like, "like")
    relations |= dict.fromkeys(results, "result")
    relations |= dict.fromkeys(sources, "source")
    relations[row_id] = "itself"
    return relations


def _follow(start: set[str], step: Callable[[set[str]], set[str]]) -> set[str]:
    """Every id that is reached from the start, the start left out."""
    reached, frontier = set(start), set(start)
    while frontier:
        frontier = step(frontier) - reached
        reached |= frontier
    return reached - start


def _find_sources(tables: Tables, row_ids: set[str]) -> set[str]:
    """The ids that rows of these ids name."""
    found: set[str] = set()
    for table, links in _list_linked(tables, LINKS):
        rows = table.filter(pl.col("row_id").is_in(list(row_ids)))
        for link in links:
            found |= set(rows[link].drop_nulls())
    return found


def _find_results(tables: Tables, row_ids: set[str]) -> set[str]:
    """The ids of the rows that name one of these ids."""
    found: set[str] = set()
    for table, links in _list_linked(tables, LINKS):
        names_one = pl.any_horizontal(pl.col(link).is_in(list(row_ids)) for link in links)
        found |= set(table.filter(names_one)["row_id"])
    return found


def _find_like(tables: Tables, row_id: str) -> set[str]:
    """The rows that a row is too like, and those that are too like it."""
    found: set[str] = set()
    for table, links in _list_linked(tables, LIKENESS):
        for link in links:
            found |= set(table.filter(pl.col("row_id") == row_id)[link].drop_nulls())
            found |= set(table.filter(pl.col(link) == row_id)["row_id"])
    return found


def _list_linked(tables: Tables, wanted: Sequence[str]) -> Iterable[tuple[pl.DataFrame, list[str]]]:
    """The tables that have some of the columns, with these columns."""
    for table in tables.values():
        links = [link for link in wanted if link in table.columns]
        if links and "row_id" in table.columns:
            yield table, links
