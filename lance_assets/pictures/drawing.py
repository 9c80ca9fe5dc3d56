"""The pictures of a round: each fact of a report that is drawn, no wider than the dialog that shows it.

Dagster shows a picture in a dialog of a fixed width and cuts off what is wider. So every picture is `WIDTH` inches wide
and grows downwards. The ground is white and the ink is dark, whatever theme the UI has: a picture is one file for all
who look at it.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl

from lance_assets.rounds.report import Histogram, Losses, Retention, ScoresByStratum, ScoresOverRounds, Trends

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 6.8
"""Of every picture, in inches."""
DPI = 110
"""Pixels an inch."""
EARLIER = "0.72"
"""The grey of earlier rounds."""
MAX_LINES = 40
"""Lines of the retention's picture; of more the ones that lost most are drawn."""
MAX_ROUNDS = 10
"""Rounds that one picture shows side by side; of more the last ones are drawn."""
MIN_SMOOTHED = 8
"""Fewest steps of a curve that is smoothed."""
NUM_SMOOTHED = 10
"""Parts of a curve over which its losses are averaged: single steps of a small batch jump."""

Picture = Histogram | Losses | ScoresOverRounds | ScoresByStratum | Retention | Trends
"""A fact that is drawn."""


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


def open_panels(num_panels: int, *, num_columns: int = 1, height: float = 2.6) -> "tuple[Figure, list[Axes]]":
    """A figure of `WIDTH` with some panels, those that are not needed left blank.

    Args:
        num_panels: how many are drawn into.
        num_columns: how many stand side by side.
        height: of each panel, in inches.
    """
    from matplotlib.figure import Figure

    num_lines = -(-num_panels // num_columns)
    figure = Figure(figsize=(WIDTH, height * num_lines), layout="constrained", facecolor="white")
    panels = figure.subplots(num_lines, num_columns, squeeze=False).ravel().tolist()
    for axes in panels[num_panels:]:
        axes.set_axis_off()
    for axes in panels[:num_panels]:
        axes.grid(visible=True, alpha=0.3)
        axes.tick_params(labelsize=8)
    return figure, panels[:num_panels]


def choose_bins(values: Sequence[float]) -> list[float]:
    """The edges of a histogram's bars: half points around a scale that ends at 10, otherwise 20 equal parts."""
    lowest, highest = min(values), max(values)
    if lowest >= 0 and 1 < highest <= 10:
        return [edge / 2 - 0.25 for edge in range(2 * (5 if highest <= 5 else 10) + 2)]
    span = (highest - lowest) or 1.0
    return [lowest + span * edge / 20 for edge in range(21)]


def draw_histogram(fact: Histogram) -> "Figure | None":
    """A panel for each group, so that no bar hides another; the round before is an outline, thresholds are lines."""
    named = {name: values for name, values in fact.values.items() if len(values)}
    if not named:
        return None
    bins = choose_bins([value for values in named.values() for value in values])
    figure, panels = open_panels(len(named), height=2.4 if len(named) == 1 else 1.6)
    for place, (axes, (name, values)) in enumerate(zip(panels, named.items(), strict=True)):
        label = f"{name} ({len(values)})"
        axes.hist(list(values), bins=bins, color=f"C{place}", edgecolor="white", linewidth=0.5, label=label)
        if before := [value for value in fact.before.get(name, ()) if bins[0] <= value <= bins[-1]]:
            axes.hist(before, bins=bins, histtype="step", color="0.45", label=f"{fact.round_before} ({len(before)})")
        for number, (what, bar) in enumerate(fact.thresholds.items()):
            if bins[0] <= bar <= bins[-1]:
                axes.axvline(bar, color="black", linestyle=("--", ":")[number % 2], label=f"{what} {bar:g}")
        axes.set_ylabel("rows", fontsize=8)
        axes.set_xlim(bins[0], bins[-1])
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    panels[-1].set_xlabel(fact.x_label, fontsize=9)
    figure.suptitle(fact.title, fontsize=10)
    return figure


def smooth(values: Sequence[float]) -> list[float]:
    """The mean of the values around each one, over a tenth of the curve; as they are where they are few.

    >>> smooth([1.0, 2.0, 3.0])
    [1.0, 2.0, 3.0]
    >>> smooth([0.0, 3.0, 0.0, 3.0, 0.0, 3.0, 0.0, 3.0])[1:3]
    [1.0, 2.0]
    """
    half = max(1, len(values) // (2 * NUM_SMOOTHED)) if len(values) >= MIN_SMOOTHED else 0
    around = [values[max(0, place - half) : place + half + 1] for place in range(len(values))]
    return [sum(near) / len(near) for near in around]


def draw_losses(fact: Losses) -> "Figure | None":
    """A panel for each stage's losses and for each further measure: steps thin, their mean bold, earlier in grey."""
    curves = {f"{name} loss (nats)": losses for name, losses in fact.curves.items() if len(losses)}
    curves |= {name: values for name, values in fact.measures.items() if len(values)}
    if not curves:
        return None
    figure, panels = open_panels(len(curves), num_columns=1 if len(curves) == 1 else 2, height=2.5)
    for axes, (name, values) in zip(panels, curves.items(), strict=True):
        stage = name.removesuffix(" loss (nats)")
        for key, earlier in fact.earlier.get(stage, {}).items():
            axes.plot(range(1, len(earlier) + 1), smooth(earlier), color=EARLIER, linewidth=1.2)
            axes.annotate(key, (len(earlier), smooth(earlier)[-1]), fontsize=6, color="0.4", xytext=(2, 0), **_OFFSET)
        steps = range(1, len(values) + 1)
        if len(values) >= MIN_SMOOTHED:
            axes.plot(steps, values, color="C0", alpha=0.35, linewidth=0.7)
        axes.plot(
            steps, smooth(values), color="C0", linewidth=1.8, marker="o" if len(values) < 30 else "", markersize=3
        )
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("optimizer step", fontsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


_OFFSET = {"textcoords": "offset points", "va": "center"}


def draw_scores(fact: ScoresOverRounds) -> "Figure":
    """Scores over rounds with their 95% intervals, and the raw backbone as a line; a panel for scores above 1."""
    # A perplexity of 12 would press every accuracy to the floor.
    panels = [
        {name: points for name, points in fact.scores.items() if (max(point[0] for point in points) > 1) == is_large}
        for is_large in (False, True)
    ]
    panels = [panel for panel in panels if panel] or [{}]
    figure, all_axes = open_panels(len(panels), height=3.2)
    for axes, panel in zip(all_axes, panels, strict=True):
        for place, (name, points) in enumerate(panel.items()):
            middle = [point[0] for point in points]
            low = [max(0.0, point[0] - point[1]) for point in points]
            high = [max(0.0, point[2] - point[0]) for point in points]
            # Side by side, so that intervals do not hide each other.
            at = [number + 0.06 * (place - (len(panel) - 1) / 2) for number in range(len(points))]
            axes.errorbar(at, middle, yerr=[low, high], marker="o", markersize=4, capsize=3, label=name)
        # The backbone's line belongs to the headline's panel.
        if fact.backbone is not None and (len(panels) == 1 or (fact.backbone > 1) == (panel is panels[1])):
            axes.axhline(fact.backbone, linestyle="--", color="0.4", label="raw backbone")
        is_large = any(point[0] > 1 for points in panel.values() for point in points)
        mark_rounds(axes, fact.rounds)
        axes.set_ylabel("score" if is_large else "score (share, 0 to 1)", fontsize=9)
        axes.legend(fontsize=7)
    figure.suptitle(fact.title, fontsize=10)
    return figure


def mark_rounds(axes: "Axes", keys: Sequence[str]) -> None:
    """Name the rounds below a panel in which each stands at its number; of many every second, third, ... is named."""
    step = -(-len(keys) // MAX_ROUNDS)
    axes.set_xticks(range(0, len(keys), step), list(keys)[::step], fontsize=8)
    axes.set_xlim(-0.4, len(keys) - 0.6)
    axes.set_xlabel("round", fontsize=9)


def draw_strata(fact: ScoresByStratum) -> "Figure | None":
    """Accuracy by stratum: this round with its intervals, earlier rounds in greys, the raw backbone dashed."""
    if not fact.scores:
        return None
    figure, (axes,) = open_panels(1, height=3.2)
    rounds = [name for name in fact.scores if name != "backbone"]
    for name, by_stratum in fact.scores.items():
        at, values = list(by_stratum), list(by_stratum.values())
        if name == "backbone":
            axes.plot(at, values, linestyle="--", color="0.4", label="raw backbone")
        elif name == rounds[-1]:
            ends = fact.intervals
            error = [
                [max(0.0, by_stratum[key] - ends[key][0]) if key in ends else 0.0 for key in at],
                [max(0.0, ends[key][1] - by_stratum[key]) if key in ends else 0.0 for key in at],
            ]
            axes.errorbar(at, values, yerr=error, marker="o", markersize=4, capsize=3, color="C0", label=name)
        else:
            # The older, the paler.
            grey = 0.8 - 0.3 * (rounds.index(name) + 1) / len(rounds)
            axes.plot(at, values, marker="o", markersize=2.5, color=str(round(grey, 2)), label=name)
    axes.set_xlabel(fact.axis, fontsize=9)
    axes.set_ylabel("greedy accuracy (share of problems)", fontsize=9)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xticks(sorted({key for by_stratum in fact.scores.values() for key in by_stratum}))
    axes.legend(fontsize=7)
    figure.suptitle(fact.title, fontsize=10)
    return figure


def draw_retention(fact: Retention) -> "Figure | None":
    """A line for each task and stratum, a column for each round: the score, and by colour what is left of the best."""
    from matplotlib.figure import Figure

    matrix = fact.matrix.drop_nulls("retained_rate")
    if matrix.is_empty():
        return None
    rounds = list(dict.fromkeys(fact.matrix["round"]))[-MAX_ROUNDS:]
    lost = matrix.group_by("name", maintain_order=True).agg(pl.col("retained_rate").last())
    worst = set(lost.sort("retained_rate", maintain_order=True)["name"].head(MAX_LINES))
    names = [name for name in lost["name"] if name in worst]
    cells = {(row["name"], row["round"]): row for row in matrix.to_dicts()}
    rates = [[cells[name, key]["retained_rate"] if (name, key) in cells else None for key in rounds] for name in names]
    figure = Figure(figsize=(WIDTH, 1.3 + 0.26 * len(names)), layout="constrained", facecolor="white")
    axes = figure.subplots()
    grid = [[float("nan") if rate is None else rate for rate in line] for line in rates]
    image = axes.imshow(grid, cmap="RdYlBu", vmin=0.5, vmax=1.0, aspect="auto", alpha=0.6)
    for (name, key), row in cells.items():
        if name in worst and key in rounds:
            place = (rounds.index(key), names.index(name))
            axes.text(*place, f"{row['score']:.3g}", ha="center", va="center", fontsize=7)
    axes.set_xticks(range(len(rounds)), rounds, fontsize=8)
    axes.set_xlabel("round", fontsize=9)
    lower = {row["name"] for row in cells.values() if not row["higher_is_better"]}
    axes.set_yticks(range(len(names)), [f"{name} (lower is better)" if name in lower else name for name in names])
    axes.tick_params(axis="y", labelsize=7)
    axes.set_title(fact.title, fontsize=10)
    bar = figure.colorbar(image, ax=axes, extend="min")
    bar.set_label("share of the best so far", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def draw_trends(fact: Trends) -> "Figure | None":
    """One small panel for each measure over rounds; what was not measurable is left out."""
    named = read_points(fact.rounds)
    if not named:
        return None
    keys: list[str] = fact.rounds["round"].to_list()
    figure, panels = open_panels(len(named), num_columns=min(2, len(named)), height=1.7)
    for axes, (name, points) in zip(panels, named.items(), strict=True):
        at, values = [keys.index(key) for key, _ in points], [value for _, value in points]
        axes.plot(at, values, marker="o", markersize=4, color="C0")
        axes.set_title(name.replace("_", " "), fontsize=9)
        mark_rounds(axes, keys)
        axes.set_xlabel("")
        axes.set_ylabel(fact.units[name] if name in fact.units else "", fontsize=8)
        for what, bar in fact.floors.items():
            if what[4:] == name:
                axes.axhline(bar, color="black", linestyle="--", linewidth=1, label=f"{what} {bar:g}")
                axes.legend(fontsize=6)
    figure.suptitle(fact.title, fontsize=10)
    return figure


def read_points(rounds: pl.DataFrame) -> Mapping[str, list[tuple[str, float]]]:
    """By measure the rounds that have it, with its values; a measure that no round has is left out."""
    named = {
        name: [(key, value) for key, value in rounds.select("round", name).iter_rows() if value is not None]
        for name in rounds.columns
        if name != "round"
    }
    return {name: points for name, points in named.items() if points}
