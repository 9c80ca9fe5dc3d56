"""What a person sees of a round: previews, counts and plots, as Dagster metadata."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CELL = 160


def preview_rows(table: pl.DataFrame, columns: Sequence[str], *, num_rows: int = 5) -> dg.MetadataValue:
    """The first rows as a Markdown table, long cells shortened."""
    if table.is_empty():
        return dg.MetadataValue.md("*no rows*")

    def cell(value: object) -> str:
        text = f"{value:.2f}" if isinstance(value, float) else str(value)
        text = text.replace("\n", " ⏎ ").replace("|", "\\|")
        return text if len(text) <= MAX_CELL else text[: MAX_CELL - 1] + "…"

    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(cell(row[name]) for name in columns) + " |" for row in table.head(num_rows).to_dicts()]
    return dg.MetadataValue.md("\n".join(lines))


def count_table(counts: dict[str, int], *, of: str) -> dg.MetadataValue:
    """Counts as a Markdown table with shares, most frequent first."""
    total = sum(counts.values())
    if total == 0:
        return dg.MetadataValue.md("*no rows*")
    lines = [f"| {of} | rows | share |", "| --- | ---: | ---: |"]
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    lines += [f"| {name} | {count} | {count / total:.1%} |" for name, count in ordered]
    return dg.MetadataValue.md("\n".join(lines))


def round_measure(value: float | None) -> float | str:
    """A measure to 4 places, as Dagster shows it; words where there is none."""
    return "not measurable" if value is None else round(value, 4)


def measure_table(rows: Sequence[Mapping[str, float | str | None]]) -> dg.MetadataValue:
    """Measures as a Markdown table, one line a row, numbers to 4 places, what is not measurable as a dash."""
    if not rows:
        return dg.MetadataValue.md("*nothing to measure*")

    def cell(value: float | str | None) -> str:
        return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    lines += ["| " + " | ".join(cell(value) for value in row.values()) + " |" for row in rows]
    return dg.MetadataValue.md("\n".join(lines))


def show_figure(figure: "Figure") -> dg.MetadataValue:
    """A figure as Markdown that holds it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{encoded})")


def _new_axes(width: float = 6.0, height: float = 3.2) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axes = figure.subplots()
    axes.grid(visible=True, alpha=0.3)
    return figure, axes


def plot_histogram(values_by_name: Mapping[str, Sequence[float]], *, title: str, x_label: str) -> dg.MetadataValue:
    """Review scores, or another 0-to-10 quantity, as a stacked histogram."""
    named = {name: values for name, values in values_by_name.items() if len(values)}
    if not named:
        return dg.MetadataValue.md("*nothing to plot*")
    figure, axes = _new_axes()
    bins = [edge / 2 - 0.25 for edge in range(22)]
    axes.hist(list(named.values()), bins=bins, stacked=True, label=list(named))
    axes.set(title=title, xlabel=x_label, ylabel="rows")
    axes.legend()
    return show_figure(figure)


def plot_losses(curves: Mapping[str, Sequence[float]]) -> dg.MetadataValue:
    """Training losses by logged step, one panel a stage."""
    named = {name: losses for name, losses in curves.items() if len(losses)}
    if not named:
        return dg.MetadataValue.md("*nothing was trained*")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(named), 3.0))
    panels = figure.subplots(1, len(named), squeeze=False)[0]
    for axes, (name, losses) in zip(panels, named.items(), strict=True):
        axes.plot(range(1, len(losses) + 1), losses, marker="o", markersize=2)
        axes.set(title=name, xlabel="logged step", ylabel="loss")
        axes.grid(visible=True, alpha=0.3)
    return show_figure(figure)


def plot_rounds(
    rounds: Sequence[str],
    scores: Mapping[str, Sequence[tuple[float, float, float]]],
    *,
    title: str,
    backbone: float | None,
) -> dg.MetadataValue:
    """Scores over rounds with their 95% intervals, and the raw backbone as a line.

    Args:
        rounds: round keys, in order.
        scores: by metric, (score, ci_low, ci_high) for each round.
        title: of the picture.
        backbone: the raw backbone's headline score, where it was measured.
    """
    figure, axes = _new_axes()
    for name, points in scores.items():
        middle = [point[0] for point in points]
        low = [max(0.0, point[0] - point[1]) for point in points]
        high = [max(0.0, point[2] - point[0]) for point in points]
        axes.errorbar(list(rounds), middle, yerr=[low, high], marker="o", capsize=3, label=name)
    if backbone is not None:
        axes.axhline(backbone, linestyle="--", color="grey", label="raw backbone")
    axes.set(title=title, xlabel="round", ylabel="score")
    axes.legend()
    return show_figure(figure)


def plot_rungs(scores: dict[str, dict[int, float]], *, title: str) -> dg.MetadataValue:
    """Accuracy by rung, one line a round or model."""
    if not scores:
        return dg.MetadataValue.md("*no rungs*")
    figure, axes = _new_axes()
    for name, by_rung in scores.items():
        axes.plot(list(by_rung), list(by_rung.values()), marker="o", markersize=3, label=name)
    axes.set(title=title, xlabel="rung", ylabel="greedy accuracy", ylim=(-0.02, 1.02))
    axes.legend(fontsize=7)
    return show_figure(figure)


def plot_trends(rounds: pl.DataFrame, *, title: str) -> dg.MetadataValue:
    """One small panel for each measure over rounds; what was not measurable is left out.

    Args:
        rounds: a column `round`, and one of numbers or nulls for each measure.
        title: of the picture.
    """
    named = {
        name: [(key, value) for key, value in rounds.select("round", name).iter_rows() if value is not None]
        for name in rounds.columns
        if name != "round"
    }
    named = {name: points for name, points in named.items() if points}
    if not named:
        return dg.MetadataValue.md("*nothing to plot*")
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
    figure.suptitle(title, fontsize=10)
    return show_figure(figure)
