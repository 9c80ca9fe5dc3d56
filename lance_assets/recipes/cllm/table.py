"""The table of an experiment: the real rows are its seeds, features as the prompt and the label as the completion."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lance_assets.algorithms.tabular.boosting import Matrix, encode_rows
from lance_assets.algorithms.tabular.columns import Column, Kind, Value, infer_columns, read_value, split_features
from lance_assets.algorithms.tabular.written_rows import write_row
from lance_assets.recipes.cllm.settings import CllmSettings
from lance_assets.recipes.steps.rows import Seed

Row = Mapping[str, Value]
_FREE: dict[Kind, Kind] = {"integer": "number", "number": "number", "category": "category"}
"""How values of real rows are read: a few whole numbers do not say that all are."""


@dataclass(frozen=True)
class Table:
    """The real rows, and what is known of their columns."""

    features: tuple[Column, ...]
    """In the order of the rows."""
    label: Column
    """A category: the classes."""
    seeds: tuple[Seed, ...]
    """Where each row comes from."""
    rows: tuple[Row, ...]
    """The values of each, the label among them."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """The features and the label, in the order in which rows are written."""
        return (*self.features, self.label)

    def encode(self, rows: Sequence[Row]) -> tuple[Matrix, NDArray[np.int64]]:
        """Rows as numbers, [num_rows, num_features], and the places of their labels among the classes."""
        classes = {name: place for place, name in enumerate(self.label.values)}
        labels = [classes[str(row[self.label.name])] for row in rows]
        return encode_rows(self.features, rows), np.array(labels, dtype=np.int64)

    def read(self, prompt: str, completion: str, *, is_real: bool = False) -> Row:
        """The values of a row of features and label as text.

        Args:
            prompt: the features.
            completion: the label.
            is_real: whether the row is a real one, whose numbers and categories are what they are.

        Raises:
            ValueError: it has other columns, or a value that is none of a column.
        """
        texts = split_features(prompt)
        if sorted(texts) != sorted(column.name for column in self.features):
            raise ValueError(f"the columns are {', '.join(texts)}, not {', '.join(one.name for one in self.features)}")
        found: dict[str, Value] = {}
        for column in self.columns:
            text = completion if column is self.label else texts[column.name]
            free = replace(column, kind=_FREE[column.kind], low=-math.inf, high=math.inf) if is_real else column
            value, reason = read_value(free, text)
            if reason == "unknown_category" and is_real and column is not self.label:
                value = text
            if value is None:
                raise ValueError(f"column {column.name}: {text!r} is {reason}")
            found[column.name] = value
        return found


def read_table(seeds: Sequence[Seed], settings: CllmSettings) -> Table:
    """The table of some seeds.

    Raises:
        ValueError: a seed's prompt is no row of features, the rows differ in their columns, the label is a feature too,
            or there are fewer than two classes.
    """
    texts = []
    for seed in seeds:
        try:
            texts.append(split_features(seed.prompt))
        except ValueError as error:
            raise ValueError(
                f"seed {seed.row_id}: {error}; a seed's prompt is a row's features, one line a column, as 'age: 59', "
                "and its completion the label; write them by seeds.prompt, a template"
            ) from None
    if texts and settings.label in texts[0]:
        raise ValueError(f"label: {settings.label} is a feature of the rows too; give the label another name")
    given = {name: one.given for name, one in settings.columns.items()}
    try:
        features = infer_columns(texts, given=given, range_slack=settings.range_slack)
    except ValueError as error:
        raise ValueError(f"seeds: {error}") from None
    classes = tuple(sorted({seed.completion.strip() for seed in seeds}))
    if len(classes) < 2:
        raise ValueError(
            f"label: all {len(seeds)} seeds have the label {classes[0]!r}; give rows of two classes or more"
        )
    label = Column(settings.label, "category", settings.label_description, values=classes)
    table = Table(features, label, tuple(seeds), ())
    return Table(features, label, tuple(seeds), tuple(table.read(seed.prompt, seed.completion) for seed in seeds))


def show_rows(table: Table, rows: Sequence[Row], settings: CllmSettings) -> str:
    """Rows as a request shows them, one a line; rows without names come after a line of the names."""
    lines = [write_row(table.columns, row, row_format=settings.row_format) for row in rows]
    return "\n".join(lines if settings.row_format == "json" else [name_columns(table), *lines])


def name_columns(table: Table) -> str:
    """The names of the columns in the order of the rows."""
    return ", ".join(column.name for column in table.columns)
