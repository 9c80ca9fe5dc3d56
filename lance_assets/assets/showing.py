"""How a report looks in the UI: each fact as Dagster metadata."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from lance_assets.pictures import rounds as pictures
from lance_assets.rounds.report import (
    Counts,
    Fact,
    Histogram,
    Losses,
    Markdown,
    Measures,
    Report,
    Rows,
    ScoresByRung,
    ScoresOverRounds,
    Trends,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_CELL = 160


def show_report(report: Report) -> dict[str, dg.MetadataValue | float | int | bool | str]:
    """The metadata of a materialization or check."""
    return {name: show_fact(fact) for name, fact in report.items()}


def show_fact(fact: Fact) -> dg.MetadataValue | float | int | bool | str:
    """One fact: numbers and words as they are, everything else as Markdown, JSON, a path or a picture."""
    match fact:
        case bool() | int() | float() | str():
            return fact
        case Path():
            return dg.MetadataValue.path(fact)
        case list():
            return dg.MetadataValue.json(fact)
        case Counts():
            return tabulate_counts(fact)
        case Rows():
            return tabulate_rows(fact)
        case Measures():
            return tabulate_measures(fact)
        case Markdown():
            return dg.MetadataValue.md(fact.text)
        case Histogram() | Losses() | ScoresOverRounds() | ScoresByRung() | Trends():
            return show_picture(fact)
        case Mapping():
            return dg.MetadataValue.json(dict(fact))


def tabulate_rows(rows: Rows) -> dg.MetadataValue:
    """The first rows as a Markdown table, long cells shortened."""
    if rows.table.is_empty():
        return dg.MetadataValue.md("*no rows*")

    def cell(value: object) -> str:
        text = f"{value:.2f}" if isinstance(value, float) else str(value)
        text = text.replace("\n", " ⏎ ").replace("|", "\\|")
        return text if len(text) <= MAX_CELL else text[: MAX_CELL - 1] + "…"

    lines = ["| " + " | ".join(rows.columns) + " |", "|" + " --- |" * len(rows.columns)]
    for row in rows.table.head(rows.num_rows).to_dicts():
        lines.append("| " + " | ".join(cell(row[name]) for name in rows.columns) + " |")
    return dg.MetadataValue.md("\n".join(lines))


def tabulate_counts(counted: Counts) -> dg.MetadataValue:
    """Counts as a Markdown table with shares, most frequent first."""
    total = sum(counted.counts.values())
    if total == 0:
        return dg.MetadataValue.md("*no rows*")
    lines = [f"| {counted.of} | rows | share |", "| --- | ---: | ---: |"]
    ordered = sorted(counted.counts.items(), key=lambda item: (-item[1], item[0]))
    lines += [f"| {name} | {count} | {count / total:.1%} |" for name, count in ordered]
    return dg.MetadataValue.md("\n".join(lines))


def tabulate_measures(measures: Measures) -> dg.MetadataValue:
    """Measures as a Markdown table, numbers to 4 places, a dash for what could not be measured."""
    if not measures.rows:
        return dg.MetadataValue.md("*nothing to measure*")

    def cell(value: float | str | None) -> str:
        return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(measures.rows[0]) + " |", "|" + " --- |" * len(measures.rows[0])]
    lines += ["| " + " | ".join(cell(value) for value in row.values()) + " |" for row in measures.rows]
    return dg.MetadataValue.md("\n".join(lines))


def show_picture(fact: Histogram | Losses | ScoresOverRounds | ScoresByRung | Trends) -> dg.MetadataValue:
    """The picture of a fact, or a word where there is nothing to draw."""
    figure = pictures.draw(fact)
    return dg.MetadataValue.md("*nothing to plot*") if figure is None else show_figure(figure)


def show_figure(figure: "Figure") -> dg.MetadataValue:
    """A figure as Markdown that holds it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{encoded})")
