"""Reads what rounds left on the disk, lazily: of a table of a million rows only the columns that a page needs.

Every table is verified by its recorded hash when it is first opened, and again when its file changes, as all reads of
this project are. Nothing is written.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import polars as pl

from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from resources.stores.hashes import describe_state

ROW_NUMBER = "at"
"""The column that a scan adds: the row's number in its table, from 0. No table has a column of that name."""
BLOCK = 65_536
"""Rows that are read together: the row groups of the files."""
MAX_KEPT = 64
"""Results that are kept, such as which rows match a filter; of a million rows one takes up to 4 MB."""

T = TypeVar("T")


@dataclass
class Shelf:
    """The tables of every experiment, and what is remembered of them."""

    platform: Platform
    """Where they are."""
    schemas: Mapping[str, pl.Schema]
    """The columns of every table of a round by its name, in the order in which the tables are made."""
    find_plans: Callable[[], Mapping[str, Plan | str]]
    """Gives the plan of every experiment, or what is wrong with its file."""
    _kept: OrderedDict[Hashable, Any] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def keep(self, key: Hashable, compute: Callable[[], T]) -> T:
        """What `compute` gives, remembered under a key; of many the one that was not asked for longest is forgotten."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                found: T = self._kept[key]
                return found
        # Two threads may compute the same; a lock around it would let every page wait for the slowest.
        made = compute()
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return made

    @property
    def plans(self) -> Mapping[str, Plan | str]:
        """The plan of every experiment, or what is wrong with its file."""
        return self.find_plans()

    def find_plan(self, experiment: str) -> Plan | None:
        """The plan of an experiment; None where its file is gone or broken, and its tables are there all the same."""
        plan = self.plans.get(experiment)
        return plan if isinstance(plan, Plan) else None

    def list_experiments(self) -> list[str]:
        """Every experiment that has a table."""
        return [name for name in self.platform.tables.list_experiments() if self.list_rounds(name)]

    def list_rounds(self, experiment: str) -> list[str]:
        """Every round of an experiment that has a table, oldest first."""
        return self.platform.tables.list_rounds(experiment)

    def list_tables(self, experiment: str, round_key: str) -> list[str]:
        """The tables of a round, in the order in which they are made."""
        return [name for name in self.schemas if self.platform.tables.exists(experiment, round_key, name)]

    def has(self, experiment: str, round_key: str, table: str) -> bool:
        """Whether a round has a table."""
        return self.platform.tables.exists(experiment, round_key, table)

    def find_state(self, experiment: str, round_key: str, table: str) -> Hashable:
        """What tells that a table is still the same one."""
        path = self.platform.tables.path(experiment, round_key, table)
        return (path, describe_state(path.stat()))

    def scan(self, experiment: str, round_key: str, table: str) -> pl.LazyFrame:
        """A table with the column `ROW_NUMBER` before its own, read when it is collected.

        Raises:
            MissingTableError: it was never written.
            CorruptTableError: it is not what was written, or cannot be read as Parquet.
            ValueError: its columns are not the schema's: another version of the project wrote it.
        """
        store = self.platform.tables
        return store.scan(experiment, round_key, table, schema=self.schemas[table], row_number=ROW_NUMBER)

    def read(self, experiment: str, round_key: str, table: str, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Some columns of a table, or all of it, without `ROW_NUMBER`."""
        scanned = self.scan(experiment, round_key, table)
        return collect(scanned.drop(ROW_NUMBER) if columns is None else scanned.select(columns))

    def read_if_there(self, experiment: str, round_key: str, table: str, columns: Sequence[str]) -> pl.DataFrame:
        """Some columns of a table; without rows where the round does not have it."""
        if self.has(experiment, round_key, table):
            return self.read(experiment, round_key, table, columns)
        schema = self.schemas[table]
        return pl.DataFrame(schema={name: schema[name] for name in columns})

    def fetch(self, experiment: str, round_key: str, table: str, numbers: pl.Series) -> pl.DataFrame:
        """Some rows of a table whole, in the order of their numbers, with `ROW_NUMBER`; only their blocks are read."""
        wanted = numbers.cast(pl.UInt32).alias(ROW_NUMBER)
        empty = pl.DataFrame(schema={ROW_NUMBER: pl.UInt32, **self.schemas[table]})
        scanned, blocks = self.scan(experiment, round_key, table), []
        for block in (wanted // BLOCK).unique():
            inside = wanted.filter(wanted // BLOCK == block).implode()
            blocks.append(scanned.slice(int(block) * BLOCK, BLOCK).filter(pl.col(ROW_NUMBER).is_in(inside)))
        # Read side by side: a sample of 20 rows lies in as many blocks. As one plan they would share a scan of the
        # whole table.
        apart = pl.QueryOptFlags(comm_subplan_elim=False)
        read = pl.collect_all(blocks, engine="streaming", optimizations=apart) if blocks else []
        rows = pl.concat([empty, *(part.cast({ROW_NUMBER: pl.UInt32}).select(empty.columns) for part in read)])
        return wanted.to_frame().join(rows, on=ROW_NUMBER, how="left", maintain_order="left")

    def count_rows(self, experiment: str, round_key: str, table: str) -> int:
        """The number of rows of a table, from the end of its file alone."""
        return self.keep(
            ("rows", self.find_state(experiment, round_key, table)),
            lambda: int(
                pl.scan_parquet(self.platform.tables.path(experiment, round_key, table))
                .select(pl.len())
                .collect()
                .item()
            ),
        )


def collect(frame: pl.LazyFrame) -> pl.DataFrame:
    """The rows of a lazy table, in pieces that fit the processor's caches rather than all columns at once."""
    return frame.collect(engine="streaming")
