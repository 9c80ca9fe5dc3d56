"""The pictures of a round's facts, as matplotlib figures."""

from typing import TYPE_CHECKING

from lance_assets.rounds.report import Histogram, Losses, ScoresByRung, ScoresOverRounds, Trends

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(fact: Histogram | Losses | ScoresOverRounds | ScoresByRung | Trends) -> "Figure | None":
    """The picture of a fact; None where there is nothing to draw."""
    match fact:
        case Histogram():
            return draw_histogram(fact)
        case Losses():
            return draw_losses(fact)
        case ScoresOverRounds():
            return draw_scores(fact)
        case ScoresByRung():
            return draw_rungs(fact)
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
    """Scores over rounds with their 95% intervals, and the raw backbone as a line."""
    figure, axes = _new_axes()
    for name, points in fact.scores.items():
        middle = [point[0] for point in points]
        low = [max(0.0, point[0] - point[1]) for point in points]
        high = [max(0.0, point[2] - point[0]) for point in points]
        axes.errorbar(list(fact.rounds), middle, yerr=[low, high], marker="o", capsize=3, label=name)
    if fact.backbone is not None:
        axes.axhline(fact.backbone, linestyle="--", color="grey", label="raw backbone")
    axes.set(title=fact.title, xlabel="round", ylabel="score")
    axes.legend()
    return figure


def draw_rungs(fact: ScoresByRung) -> "Figure | None":
    """Accuracy by rung, one line a round or model."""
    if not fact.scores:
        return None
    figure, axes = _new_axes()
    for name, by_rung in fact.scores.items():
        axes.plot(list(by_rung), list(by_rung.values()), marker="o", markersize=3, label=name)
    axes.set(title=fact.title, xlabel="rung", ylabel="greedy accuracy", ylim=(-0.02, 1.02))
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
