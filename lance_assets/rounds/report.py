"""What a maker says of the table it made: numbers, counts, rows and curves, without any drawing.

`lance_assets.assets.showing` turns each of these into what the UI shows. A study, a test or a command reads them as
they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl


@dataclass(frozen=True)
class Counts:
    """How many rows there are of each kind."""

    of: str
    """What is counted, such as "drop reason"."""
    counts: Mapping[str, int]
    """Rows by name."""


@dataclass(frozen=True)
class Rows:
    """Some rows of a table."""

    table: pl.DataFrame
    """The rows, the first ones first."""
    columns: Sequence[str]
    """Which columns are shown, in this order."""
    num_rows: int = 5
    """How many rows are shown."""
    note: str = ""
    """Which of the rows these are, in a sentence; empty where it is all of them or the first."""


@dataclass(frozen=True)
class Measures:
    """Measures in a table, one line each."""

    rows: Sequence[Mapping[str, float | str | None]]
    """The cells of each line by column; None where something could not be measured."""


@dataclass(frozen=True)
class Histogram:
    """Scores from 0 to 10, or another quantity on that scale."""

    values: Mapping[str, Sequence[float]]
    """The values by the name of their group."""
    title: str
    """The title of the picture."""
    x_label: str
    """What the values are, with their unit."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Lines that are drawn through it, by what they decide, such as "accepted above"."""
    before: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """The values of the round before, by the same groups."""
    round_before: str = ""
    """The round before."""


@dataclass(frozen=True)
class Losses:
    """Training losses by logged step, and other measures of training."""

    curves: Mapping[str, Sequence[float]]
    """The losses of each stage of training."""
    earlier: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    """By stage and earlier round the losses of then."""
    measures: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Other measures by logged step, by a name with their unit, such as "DPO accuracy (share of pairs)"."""


@dataclass(frozen=True)
class ScoresOverRounds:
    """Scores of several rounds with their 95% intervals."""

    rounds: Sequence[str]
    """Round keys, in order."""
    scores: Mapping[str, Sequence[tuple[float, float, float]]]
    """By metric (score, low end, high end) of each round."""
    title: str
    """The title of the picture."""
    backbone: float | None
    """The raw backbone's score, where it was measured."""


@dataclass(frozen=True)
class ScoresByStratum:
    """Accuracy by the strata of a world."""

    scores: Mapping[str, Mapping[int, float]]
    """By round or model, the accuracy of each stratum."""
    axis: str
    """The world's word for the strata, such as "rung"."""
    title: str
    """The title of the picture."""
    intervals: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    """The 95% intervals of the last round, by stratum."""


@dataclass(frozen=True)
class Retention:
    """What is left of the best that each task and stratum ever had."""

    matrix: pl.DataFrame
    """Schema `algorithms.measures.retention.RETENTION`."""
    title: str
    """The title of the picture."""


@dataclass(frozen=True)
class Trends:
    """Measures of all rounds so far."""

    rounds: pl.DataFrame
    """A column `round`, and one of numbers or nulls for each measure."""
    title: str
    """The title of the picture."""
    units: Mapping[str, str] = field(default_factory=dict)
    """What each measure is counted in, by its name."""
    floors: Mapping[str, float] = field(default_factory=dict)
    """Bars of measures, by the measure's name after `min_` or `max_`."""


@dataclass(frozen=True)
class Markdown:
    """A text that is already Markdown, such as a table of costs."""

    text: str
    """The text."""


NumberOrWord = float | int | bool | str
Fact = (
    NumberOrWord
    | list[str]
    | Path
    | Mapping[str, float]
    | Counts
    | Rows
    | Measures
    | Histogram
    | Losses
    | ScoresOverRounds
    | ScoresByStratum
    | Retention
    | Trends
    | Markdown
)
"""One thing a report says; a `Path` is a folder or file on this machine."""

Report = dict[str, Fact]
"""What a report says, by name, in the order in which it is shown."""

SUMMARY = "summary"
"""The name of the sentence that a report opens with."""

NOT_MEASURABLE = "not measurable"
"""What a report says in place of a measure that does not exist."""


@dataclass(frozen=True)
class Made:
    """What making one noun of a round gave."""

    table: pl.DataFrame
    """The noun's own table."""
    others: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    """Tables that belong to it, by name."""
    facts: Report = field(default_factory=dict)
    """What is known only while it is made and is in no table, such as memory and seconds."""
    version: str | None = None
    """The data version; None for the hash of the table's content."""


@dataclass(frozen=True)
class Judged:
    """What a check found."""

    passed: bool
    """Whether the round keeps the bar."""
    is_error: bool = True
    """Whether a failure is an error; a blocking check stops the round on an error alone."""
    facts: Report = field(default_factory=dict)
    """The figures that decided, with the bar."""
    description: str | None = None
    """A sentence for the person who reads it, where the figures do not suffice."""
    found: str = ""
    """What was found and held against which bar, in a sentence, whether it passed or not."""


def round_measure(value: float | None) -> float | str:
    """A measure to 4 places, or `NOT_MEASURABLE`."""
    return NOT_MEASURABLE if value is None else round(value, 4)


def count_values(column: pl.Series, *, of: str) -> Counts:
    """How many rows there are of each value; nulls are left out."""
    return Counts(of, dict(column.drop_nulls().value_counts().iter_rows()))


def format_score(row: Mapping[str, Any]) -> str:
    """A score with its interval, where it has one."""
    if row["ci_low"] is None:
        return f"{row['score']:.3f}"
    return f"{row['score']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
