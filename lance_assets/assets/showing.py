"""How a report looks in the UI: each fact as Dagster metadata, as Markdown or as a picture."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from lance_assets.conversations import show_prompt
from lance_assets.markdown import LINE_BREAK, show_lines, show_text
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
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MAX_CELL = 160
NUM_COLOURS = 64
"""Of a picture: flat areas and the grey edges of letters need no more."""


def show_report(report: Report) -> dict[str, dg.MetadataValue | float | int | bool | str]:
    """The metadata of a materialization or check."""
    return {name: show_fact(fact) for name, fact in report.items()}


def show_description(judged: Judged) -> str | None:
    """What a check says, as text: the UI reads a description as Markdown, and it may name what a row holds."""
    return None if judged.description is None else show_lines(judged.description)


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
        case Histogram() | Losses() | ScoresOverRounds() | ScoresByStratum() | Retention() | Trends():
            return show_picture(fact)
        case Mapping():
            return dg.MetadataValue.json(dict(fact))


def tabulate_rows(rows: Rows) -> dg.MetadataValue:
    """The first rows as a Markdown table, long cells shortened."""
    if rows.table.is_empty():
        return dg.MetadataValue.md("*no rows*")

    def cell(value: object) -> str:
        if value is None:
            return "-"
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        text = text.replace("\n", LINE_BREAK)
        # Cut first: a mark that hides a text from Markdown must keep its end.
        return show_text(text if len(text) <= MAX_CELL else text[: MAX_CELL - 1] + "…")

    lines = ["| " + " | ".join(map(show_text, rows.columns)) + " |", "|" + " --- |" * len(rows.columns)]
    shown = rows.table.head(rows.num_rows)
    if "prompt" in rows.columns:
        shown = shown.with_columns(pl.col("prompt").map_elements(show_prompt, return_dtype=pl.String))
    for row in shown.to_dicts():
        lines.append("| " + " | ".join(cell(row[name]) for name in rows.columns) + " |")
    return dg.MetadataValue.md("\n".join(lines))


def tabulate_counts(counted: Counts) -> dg.MetadataValue:
    """Counts as a Markdown table with shares, most frequent first."""
    total = sum(counted.counts.values())
    if total == 0:
        return dg.MetadataValue.md("*no rows*")
    lines = [f"| {show_text(counted.of)} | rows | share |", "| --- | ---: | ---: |"]
    ordered = sorted(counted.counts.items(), key=lambda item: (-item[1], item[0]))
    lines += [f"| {show_text(name)} | {count} | {count / total:.1%} |" for name, count in ordered]
    return dg.MetadataValue.md("\n".join(lines))


def tabulate_measures(measures: Measures) -> dg.MetadataValue:
    """Measures as a Markdown table, numbers to 4 places, a dash for what could not be measured."""
    if not measures.rows:
        return dg.MetadataValue.md("*nothing to measure*")

    def cell(value: float | str | None) -> str:
        return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else show_text(str(value))

    lines = ["| " + " | ".join(map(show_text, measures.rows[0])) + " |", "|" + " --- |" * len(measures.rows[0])]
    lines += ["| " + " | ".join(cell(value) for value in row.values()) + " |" for row in measures.rows]
    return dg.MetadataValue.md("\n".join(lines))


Picture = Histogram | Losses | ScoresOverRounds | ScoresByStratum | Retention | Trends
"""A fact that is drawn."""


def show_picture(fact: Picture) -> dg.MetadataValue:
    """The picture of a fact, or a word where there is nothing to draw."""
    figure = draw(fact)
    return dg.MetadataValue.md("*nothing to plot*") if figure is None else show_figure(figure)


def show_figure(figure: "Figure") -> dg.MetadataValue:
    """A figure as Markdown that holds it.

    Dagster keeps each event with its metadata three times, and the pictures of a round of `mini_lance` were 1.9 MB of
    them. In `NUM_COLOURS` colours they take 28% of that. The webserver shows no file of the disk, so a link to a
    picture would be none.
    """
    from PIL import Image

    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    picture = Image.open(buffer).convert("RGB").quantize(NUM_COLOURS, dither=Image.Dither.NONE)
    picture.save(small, format="png", optimize=True)
    encoded = base64.b64encode(small.getvalue()).decode()
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{encoded})")


def draw(fact: Picture) -> "Figure | None":
    """The picture of a fact; None where there is nothing to draw."""
    match fact:
        case Histogram():
            return draw_histogram(fact)
        case Losses():
            return draw_losses(fact)
        case ScoresOverRounds():
            return draw_scores(fact)
        case ScoresByStratum():
            return draw_strata(fact)
        case Retention():
            return draw_retention(fact)
        case Trends():
            return draw_trends(fact)


def _new_axes(width: float = 6.0, height: float = 3.2) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axes = figure.subplots()
    axes.grid(visible=True, alpha=0.3)
    return figure, axes


def draw_histogram(fact: Histogram) -> "Figure | None":
    """Review scores, or another 0-to-10 quantity, as a stacked histogram."""
    named = {name: values for name, values in fact.values.items() if len(values)}
    if not named:
        return None
    figure, axes = _new_axes()
    bins = [edge / 2 - 0.25 for edge in range(22)]
    axes.hist(list(named.values()), bins=bins, stacked=True, label=list(named))
    axes.set(title=fact.title, xlabel=fact.x_label, ylabel="rows")
    axes.legend()
    return figure


def draw_losses(fact: Losses) -> "Figure | None":
    """Training losses by logged step, one panel a stage."""
    named = {name: losses for name, losses in fact.curves.items() if len(losses)}
    if not named:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(named), 3.0))
    panels = figure.subplots(1, len(named), squeeze=False)[0]
    for axes, (name, losses) in zip(panels, named.items(), strict=True):
        axes.plot(range(1, len(losses) + 1), losses, marker="o", markersize=2)
        axes.set(title=name, xlabel="logged step", ylabel="loss")
        axes.grid(visible=True, alpha=0.3)
    return figure


def draw_scores(fact: ScoresOverRounds) -> "Figure":
    """Scores over rounds with their 95% intervals, and the raw backbone as a line; a panel for scores above 1."""
    from matplotlib.figure import Figure

    # A perplexity of 12 would press every accuracy to the floor.
    panels = [
        {name: points for name, points in fact.scores.items() if (max(point[0] for point in points) > 1) == is_large}
        for is_large in (False, True)
    ]
    panels = [panel for panel in panels if panel] or [{}]
    figure = Figure(figsize=(6.0 * len(panels), 3.2))
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, points in panel.items():
            middle = [point[0] for point in points]
            low = [max(0.0, point[0] - point[1]) for point in points]
            high = [max(0.0, point[2] - point[0]) for point in points]
            axes.errorbar(list(fact.rounds), middle, yerr=[low, high], marker="o", capsize=3, label=name)
        # The backbone's line belongs to the headline's panel.
        if fact.backbone is not None and (len(panels) == 1 or (fact.backbone > 1) == (panel is panels[1])):
            axes.axhline(fact.backbone, linestyle="--", color="grey", label="raw backbone")
        axes.set(title=fact.title, xlabel="round", ylabel="score")
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    return figure


MAX_LINES = 40
"""Lines of the retention's picture; of more the ones that lost most are drawn."""


def draw_retention(fact: Retention) -> "Figure | None":
    """A line for each task and stratum, a column for each round: the score, and by colour what is left of the best."""
    from matplotlib.figure import Figure

    matrix = fact.matrix.drop_nulls("retained_rate")
    if matrix.is_empty():
        return None
    rounds = list(dict.fromkeys(fact.matrix["round"]))
    lost = matrix.group_by("name", maintain_order=True).agg(pl.col("retained_rate").last())
    worst = set(lost.sort("retained_rate", maintain_order=True)["name"].head(MAX_LINES))
    names = [name for name in lost["name"] if name in worst]
    cells = {(row["name"], row["round"]): row for row in matrix.to_dicts()}
    rates = [[cells[name, key]["retained_rate"] if (name, key) in cells else None for key in rounds] for name in names]
    figure = Figure(figsize=(4.0 + 0.8 * len(rounds), 1.2 + 0.26 * len(names)), layout="constrained")
    axes = figure.subplots()
    grid = [[float("nan") if rate is None else rate for rate in line] for line in rates]
    image = axes.imshow(grid, cmap="RdYlGn", vmin=0.5, vmax=1.0, aspect="auto", alpha=0.6)
    for (name, key), row in cells.items():
        if name in worst:
            place = (rounds.index(key), names.index(name))
            axes.text(*place, f"{row['score']:.3g}", ha="center", va="center", fontsize=6)
    axes.set_xticks(range(len(rounds)), rounds, fontsize=7)
    lower = {row["name"] for row in cells.values() if not row["higher_is_better"]}
    axes.set_yticks(range(len(names)), [f"{name} (lower is better)" if name in lower else name for name in names])
    axes.tick_params(axis="y", labelsize=6)
    axes.set_title(fact.title, fontsize=9)
    figure.colorbar(image, ax=axes, label="share of the best so far", extend="min")
    return figure


def draw_strata(fact: ScoresByStratum) -> "Figure | None":
    """Accuracy by stratum, one line a round or model."""
    if not fact.scores:
        return None
    figure, axes = _new_axes()
    for name, by_stratum in fact.scores.items():
        axes.plot(list(by_stratum), list(by_stratum.values()), marker="o", markersize=3, label=name)
    axes.set(title=fact.title, xlabel=fact.axis, ylabel="greedy accuracy", ylim=(-0.02, 1.02))
    axes.legend(fontsize=7)
    return figure


def draw_trends(fact: Trends) -> "Figure | None":
    """One small panel for each measure over rounds; what was not measurable is left out."""
    rounds = fact.rounds
    named = {
        name: [(key, value) for key, value in rounds.select("round", name).iter_rows() if value is not None]
        for name in rounds.columns
        if name != "round"
    }
    named = {name: points for name, points in named.items() if points}
    if not named:
        return None
    from matplotlib.figure import Figure

    num_columns = min(4, len(named))
    num_lines = -(-len(named) // num_columns)
    figure = Figure(figsize=(3.0 * num_columns, 2.2 * num_lines), layout="constrained")
    panels = figure.subplots(num_lines, num_columns, squeeze=False).ravel()
    keys = rounds["round"].to_list()
    for axes, (name, points) in zip(panels, named.items(), strict=False):
        axes.plot([keys.index(key) for key, _ in points], [value for _, value in points], marker="o", markersize=3)
        axes.set_title(name, fontsize=9)
        axes.set_xlim(-0.3, len(keys) - 0.7)
        axes.set_xticks(range(len(keys)), [key.lstrip("r0") or "0" for key in keys], fontsize=7)
        axes.tick_params(axis="y", labelsize=7)
        axes.grid(visible=True, alpha=0.3)
    for axes in panels[len(named) :]:
        axes.set_axis_off()
    figure.suptitle(fact.title, fontsize=10)
    return figure
