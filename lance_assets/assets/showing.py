"""How a report looks in the UI: each fact as Dagster metadata, as Markdown or as a picture."""

import base64
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from lance_assets.markdown import show_lines
from lance_assets.pictures.drawing import DPI, Picture, draw
from lance_assets.pictures.rows import (
    NO_MEASURES,
    NO_PICTURE,
    NO_ROWS,
    tabulate_counts,
    tabulate_measures,
    tabulate_rows,
)
from lance_assets.rounds.report import (
    Counts,
    Fact,
    Histogram,
    Judged,
    Losses,
    Markdown,
    Measures,
    Report,
    Retention,
    Rows,
    ScoresByStratum,
    ScoresOverRounds,
    Trends,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


NOTHING = (NO_ROWS, NO_MEASURES, NO_PICTURE)
"""What is said where a fact is empty."""
NUM_COLOURS = 64
"""Of a picture: flat areas and the grey edges of letters need no more."""


def show_report(report: Report) -> dict[str, dg.MetadataValue | float | int | bool | str]:
    """The metadata of a materialization or check; tables without rows and pictures of nothing are left out."""
    shown = {name: show_fact(fact) for name, fact in report.items()}
    return {name: value for name, value in shown.items() if not says_nothing(value)}


def says_nothing(value: object) -> bool:
    """Whether a fact was shown as the words for a table without rows, or for a picture without anything in it."""
    return isinstance(value, dg.MarkdownMetadataValue) and value.md_str in NOTHING


def show_description(judged: Judged) -> str | None:
    """What a check says, as text: the UI reads a description as Markdown, and it may name what a row holds."""
    said = judged.description or judged.found
    return show_lines(said) if said else None


def show_fact(fact: Fact) -> dg.MetadataValue | float | int | bool | str:
    """One fact: words as they are, numbers to the digits that mean something, all else as Markdown, JSON or a path."""
    match fact:
        case bool() | int() | str():
            return fact
        case float():
            return round_figure(fact)
        case Path():
            return dg.MetadataValue.path(fact)
        case list():
            return dg.MetadataValue.json(fact)
        case Counts():
            return dg.MetadataValue.md(tabulate_counts(fact))
        case Rows():
            return dg.MetadataValue.md(tabulate_rows(fact))
        case Measures():
            return dg.MetadataValue.md(tabulate_measures(fact))
        case Markdown():
            return dg.MetadataValue.md(fact.text)
        case Histogram() | Losses() | ScoresOverRounds() | ScoresByStratum() | Retention() | Trends():
            return show_picture(fact)
        case Mapping():
            return dg.MetadataValue.json(
                {name: round_figure(value) if isinstance(value, float) else value for name, value in fact.items()}
            )


def round_figure(value: float) -> float:
    """A number with four digits, or all before the point: more of them say nothing.

    >>> round_figure(0.123456), round_figure(12345.678)
    (0.1235, 12346.0)
    """
    if not math.isfinite(value):
        return value
    return float(round(value)) if abs(value) >= 1000 else float(f"{value:.4g}")


def show_picture(fact: Picture) -> dg.MetadataValue:
    """The picture of a fact, or a word where there is nothing to draw."""
    figure = draw(fact)
    return dg.MetadataValue.md(NO_PICTURE) if figure is None else show_figure(figure)


def show_figure(figure: "Figure") -> dg.MetadataValue:
    """A figure as Markdown that holds it.

    Dagster keeps each event with its metadata three times, and the pictures of a round of `mini_lance` were 1.9 MB of
    them. In `NUM_COLOURS` colours they take 28% of that. The webserver shows no file of the disk, so a link to a
    picture would be none.
    """
    from PIL import Image

    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    picture = Image.open(buffer).convert("RGB").quantize(NUM_COLOURS, dither=Image.Dither.NONE)
    picture.save(small, format="png", optimize=True)
    encoded = base64.b64encode(small.getvalue()).decode()
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{encoded})")
