"""The results of a study's arms as Markdown tables and one picture."""

from typing import TYPE_CHECKING

import polars as pl

from lance_assets.algorithms.measures.arms import BACKBONE, average_by_stratum, compare_rounds, summarise_arms
from lance_assets.algorithms.measures.progress import START_ROUND
from lance_assets.algorithms.measures.statistics import Interval
from lance_assets.markdown import show_text
from lance_assets.pictures.drawing import WIDTH
from lance_assets.worlds import World

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {"greedy": "greedy accuracy, %", "sampled": "sampled accuracy, %"}


def to_points(interval: Interval) -> list[float]:
    """Fractions as percentage points, one decimal."""
    return [round(100 * number, 1) for number in interval]


def _list_measured(rows: pl.DataFrame) -> list[str]:
    """The metrics that a study has; its experiment may sample nothing."""
    return [metric for metric in TITLES if rows[metric].null_count() < len(rows)]


def list_arms(rows: pl.DataFrame) -> dict[str, str]:
    """Every arm with its last round, in the order of the rows; the raw backbone is not an arm."""
    ordered = rows.filter(pl.col("arm") != BACKBONE).group_by("arm", maintain_order=True).agg(pl.col("round").max())
    return dict(ordered.iter_rows())


def build_table(titles: list[str], cells: list[list[str]], *, num_texts: int = 1) -> str:
    """A Markdown table whose first columns are left-aligned and whose others are right-aligned."""
    lines = [titles, ["---"] * num_texts + ["---:"] * (len(titles) - num_texts), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def show_interval(rows: pl.DataFrame, before: tuple[str, str], after: tuple[str, str], *, metric: str) -> str:
    """A difference with its interval in points."""
    mean, low, high = to_points(compare_rounds(rows, before, after, metric=metric))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def say_rounds(rows: pl.DataFrame, *, method: str) -> str:
    """Where an experiment's rounds have come to, in a sentence.

    Args:
        rows: schema `STUDY_ROWS`, of one seed.
        method: the arm.
    """
    last = list_arms(rows)[method]
    found = summarise_arms(rows, metric="greedy").filter(arm=method, round=last).row(0, named=True)
    told = f"{100 * found['mean']:.1f}% greedy accuracy in {last}"
    if last == START_ROUND:
        return told
    return f"{told}, {show_interval(rows, (method, START_ROUND), (method, last), metric='greedy')} points since r0000"


def tabulate_rounds(rows: pl.DataFrame, *, metric: str, method: str) -> str:
    """Mean accuracy of every arm by round, its gain since r0000, and how far it is behind the method."""
    arms = list_arms(rows)
    keys = sorted(rows["round"].unique())
    found = {(row["arm"], row["round"]): row for row in summarise_arms(rows, metric=metric).to_dicts()}

    def show(arm: str, key: str) -> str:
        if (arm, key) not in found:
            return ""
        row = found[arm, key]
        half = 100 * (row["high"] - row["mean"])
        return f"{100 * row['mean']:.1f}" + (f" ± {half:.1f}" if row["num_seeds"] > 1 else "")

    cells = [["raw backbone", *(show(BACKBONE, key) for key in keys), "", ""]]
    for arm, last in arms.items():
        # One round has gained nothing on itself.
        gained = "" if last == START_ROUND else show_interval(rows, (arm, START_ROUND), (arm, last), metric=metric)
        behind = show_interval(rows, (arm, last), (method, arms[method]), metric=metric) if arm != method else ""
        cells.append([show_text(arm), *(show(arm, key) for key in keys), gained, behind])
    return build_table([TITLES[metric], *keys, "since r0000", f"{show_text(method)} less this"], cells)


def tabulate_strata(rows: pl.DataFrame, world: World, *, metric: str) -> str:
    """Mean accuracy by the world's strata, of the raw backbone, of r0000 and of every arm's last round."""
    arms = list_arms(rows)
    places = [("raw backbone", BACKBONE, START_ROUND), (START_ROUND, next(iter(arms)), START_ROUND)]
    places += [(show_text(f"{arm}, {last}"), arm, last) for arm, last in arms.items() if last != START_ROUND]
    by_place = {name: average_by_stratum(rows, arm, key, metric=metric) for name, arm, key in places}
    cells = [[name, *(f"{100 * rate:.0f}" for rate in rates)] for name, rates in by_place.items() if rates]
    return build_table([f"{TITLES[metric]}, by {show_text(world.axis)}", *map(str, world.strata)], cells)


def tabulate_training(rows: pl.DataFrame, *, axis: str) -> str:
    """What each arm's rounds trained on, as means over seeds. A rule counts what is right, only for this report."""
    columns = {
        "num_new_sft": 1,
        "new_sft_right_rate": 100,
        "new_sft_mean_stratum": 1,
        "num_pairs": 1,
        "train_tokens": 1,
    }
    digits = {"new_sft_right_rate": 1, "new_sft_mean_stratum": 1}
    trained = rows.filter(pl.col("arm") != BACKBONE, pl.col("round") != START_ROUND)
    means = trained.group_by("arm", "round", maintain_order=True).agg(pl.col(name).mean() for name in columns)
    cells = [
        [show_text(row["arm"]), row["round"]]
        + [
            "-" if row[name] is None else f"{factor * row[name]:.{digits.get(name, 0)}f}"
            for name, factor in columns.items()
        ]
        for row in means.to_dicts()
    ]
    titles = ["arm", "round", "new SFT rows", "right, %", f"mean {show_text(axis)}"]
    titles += ["pairs so far", "tokens trained on"]
    return build_table(titles, cells, num_texts=2)


def tabulate_study(rows: pl.DataFrame, world: World, *, method: str) -> str:
    """All tables, one below the other."""
    tables = [tabulate_rounds(rows, metric=metric, method=method) for metric in _list_measured(rows)]
    strata = tabulate_strata(rows, world, metric="greedy")
    return "\n\n".join([*tables, strata, tabulate_training(rows, axis=world.axis)])


def draw_study(rows: pl.DataFrame, world: World) -> "Figure":
    """Greedy accuracy over rounds, with 95% intervals over seeds, and by the world's strata at the end."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 6.4), layout="constrained", facecolor="white")
    over_rounds, by_stratum = figure.subplots(2, 1)
    summary = summarise_arms(rows, metric="greedy")
    arms = list_arms(rows)
    for arm, last in arms.items():
        mine = summary.filter(pl.col("arm") == arm)
        # One seed has no spread, and an interval of no width would claim that nothing is uncertain.
        several = mine["num_seeds"].min() != 1
        spread = [(mine["mean"] - mine["low"]).to_list(), (mine["high"] - mine["mean"]).to_list()] if several else None
        line = over_rounds.errorbar(
            mine["round"].to_list(), mine["mean"].to_list(), yerr=spread, marker="o", capsize=3, label=arm
        )
        rates = average_by_stratum(rows, arm, last, metric="greedy")
        style = {"marker": "o", "markersize": 3, "color": line.lines[0].get_color()}
        by_stratum.plot(world.strata[: len(rates)], rates, label=f"{arm}, {last}", **style)
    start = average_by_stratum(rows, next(iter(arms)), START_ROUND, metric="greedy")
    by_stratum.plot(world.strata[: len(start)], start, linestyle=":", color="black", label=START_ROUND)
    for backbone in summary.filter(pl.col("arm") == BACKBONE)["mean"]:
        over_rounds.axhline(backbone, linestyle="--", color="grey", label="raw backbone")
    num_seeds = rows["rng_seed"].n_unique()
    title = f"Held-out problems, {num_seeds} seed{'s' if num_seeds > 1 else ''}"
    unit = "greedy accuracy (share)"
    over_rounds.set(title=title, xlabel="round", ylabel=unit)
    by_stratum.set(title=f"By {world.axis}", xlabel=world.axis, ylabel=unit, ylim=(-0.02, 1.02))
    for axes in (over_rounds, by_stratum):
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize=7)
    return figure
