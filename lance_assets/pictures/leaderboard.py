"""The leaderboard as Markdown tables of experiments, rounds and seconds, and as a picture."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl

from lance_assets.algorithms.measures.leaderboard import SPENT, name_scales, rank_experiments
from lance_assets.algorithms.measures.progress import format_round, parse_round
from lance_assets.markdown import show_text
from lance_assets.pictures.drawing import WIDTH
from lance_assets.pictures.study import build_table
from lance_assets.rounds.nouns import NOUNS
from lance_assets.rounds.report import format_score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = [
    *("score [95%]", "since r0000", "over raw backbone", "SFT rows (new)", "pairs (new)"),
    *("tokens sampled", "tokens trained", "seconds", "price"),
]
"""The columns of `show_results`; where no price is known, the last one is left out."""

NOTHING = "no experiment has a finished round yet; materialize r0000 of one"


def show_difference(difference: Sequence[float] | None) -> str:
    """A difference with its interval, if it has one."""
    if difference is None:
        return "-"
    mean, low, high = difference
    return f"{mean:+.3f}" + (f" [{low:+.3f}, {high:+.3f}]" if math.isfinite(high - low) else "")


def show_number(value: float | None, digits: int = 0) -> str:
    """A number with separated thousands; a dash if it is unknown."""
    return "-" if value is None else f"{value:,.{digits}f}"


def show_results(row: dict) -> list[str]:
    """The cells under `RESULTS`: a row's scores, the rows it trained on, and its costs."""
    differences = [show_difference(row[name]) for name in ("since_start", "over_backbone")]
    sets = (("num_sft_rows", "num_new_sft_rows"), ("num_pairs", "num_new_pairs"))
    trained = [f"{show_number(row[whole])} ({show_number(row[new])})" for whole, new in sets]
    spent = [show_number(row[name]) for name in SPENT[:-1]]
    return [format_score(row), *differences, *trained, *spent, show_number(row["price"], 4)]


def tabulate_by_scale(rows: pl.DataFrame, titles: list[str], show: Callable[[dict], list[str]]) -> str:
    """A Markdown table for each scale under its name, with a note if there are several.

    Args:
        rows: ordered, schema `LEADERBOARD` and more.
        titles: the titles of the columns; those before the first of `RESULTS` hold text.
        show: returns the cells of a row.
    """
    names, has_prices = name_scales(rows), rows["price"].count() > 0
    shown = len(titles) if has_prices else len(titles) - 1
    parts = [f"*{NOTHING}*"] if rows.is_empty() else []
    parts += ["Scores under different headings do not compare: their evaluations differ."] if len(names) > 1 else []
    for scale, name in names.items():
        cells = [show(row)[:shown] for row in rows.filter(scale=scale).to_dicts()]
        parts += [f"**{show_text(name)}**", build_table(titles[:shown], cells, num_texts=titles.index(RESULTS[0]))]
    return "\n\n".join(parts)


def say_best(rows: pl.DataFrame) -> str:
    """The best round of each scale, in a sentence. Schema `LEADERBOARD`."""
    if rows.is_empty():
        return f"There is {NOTHING}"
    best = rank_experiments(rows).unique("scale", keep="first", maintain_order=True).to_dicts()
    told = [
        f"{row['experiment']} {row['round']} with {format_score(row)}"
        + (f", {show_difference(row['since_start'])} since r0000" if row["since_start"] is not None else "")
        for row in best
    ]
    counted = f"{rows['experiment'].n_unique()} experiments, {len(rows)} rounds"
    where = f" on the first of {len(best)} scales" if len(best) > 1 else ""
    return f"The best{where} is {told[0]}; {counted}"


def tabulate_experiments(rows: pl.DataFrame) -> str:
    """One line for each experiment: its best round, and the sum of what all rounds up to that one took."""
    table = tabulate_by_scale(
        rank_experiments(rows),
        ["place", "experiment", "recipe", "best of rounds", *RESULTS],
        lambda row: [
            *(str(row["place"]), row["experiment"], show_text(row["recipe"])),
            f"{name_round(row)} of {row['num_rounds']}",
            *show_results(row),
        ],
    )
    return table if rows.is_empty() else f"{table}\n\nWhat was spent is the sum over all rounds up to the best."


def tabulate_all_rounds(rows: pl.DataFrame) -> str:
    """One line for each round, with what this round took."""
    titles = ["experiment", "recipe", "round", *RESULTS]
    return tabulate_by_scale(
        rows, titles, lambda row: [row["experiment"], show_text(row["recipe"]), name_round(row), *show_results(row)]
    )


def name_round(row: dict) -> str:
    """A round, with what its launch set in place of the file's settings."""
    return f"{row['round']} ({show_text(row['overrides'])})" if row["overrides"] else str(row["round"])


def tabulate_seconds(rows: pl.DataFrame) -> str:
    """The seconds of every step, one line for each round."""
    timed = rows["seconds_by_noun"].explode().struct.field("noun")
    nouns = [noun for noun in NOUNS if noun in timed]
    lines = []
    for row in rows.sort("experiment", "round").to_dicts():
        seconds = {step["noun"]: step["seconds"] for step in row["seconds_by_noun"]}
        steps = [show_number(seconds[noun], 1) if noun in seconds else "-" for noun in nouns]
        lines.append([row["experiment"], row["round"], *steps, show_number(row["seconds"], 1)])
    # Words of a title are put below each other, so that the columns of all steps find their place side by side.
    titles = [noun.replace("_", " ") for noun in nouns]
    return build_table(["experiment", "round", *titles, "in all"], lines, num_texts=2)


def list_left_out(left_out: Mapping[str, str]) -> str:
    """The experiments that are left out and why, as a Markdown list."""
    lines = [f"* **{show_text(name)}**: {show_text(' '.join(text.split()))}" for name, text in left_out.items()]
    return "\n".join(lines) or "*nothing*"


def draw_leaderboard(rows: pl.DataFrame) -> "Figure":
    """Scores over rounds with their 95% intervals: a panel for each scale, a line for each experiment."""
    from matplotlib.figure import Figure

    names, experiments = name_scales(rows), sorted(rows["experiment"].unique())
    # The names of many experiments need their place below a panel: beside it they would leave it none.
    num_lines = -(-len(experiments) // 2)
    figure = Figure(figsize=(WIDTH, (3.4 + 0.17 * num_lines) * len(names)), layout="constrained", facecolor="white")
    panels = figure.subplots(len(names), 1, squeeze=False)[:, 0]
    for axes, (scale, name) in zip(panels, names.items(), strict=True):
        mine = rows.filter(scale=scale).sort("experiment", "round")
        for (experiment, recipe), line in mine.group_by("experiment", "recipe", maintain_order=True):
            place = experiments.index(str(experiment))
            score = line["score"]
            ends = [end.fill_null(0).clip(0) for end in (score - line["ci_low"], line["ci_high"] - score)]
            # side by side, so that intervals do not hide each other
            at = [parse_round(key) + 0.04 * place for key in line["round"]]
            axes.errorbar(
                *(at, score.to_list(), ends),
                **{"marker": "o", "markersize": 4, "capsize": 3, "color": f"C{place % 10}"},
                label=f"{experiment} ({recipe})",
            )
        ticks = range(max(map(parse_round, mine["round"])) + 1)
        axes.set_xticks(ticks, [format_round(number) for number in ticks])
        is_higher_better = bool(mine["higher_is_better"][0])
        axes.set_title(name, fontsize=10, wrap=True)
        axes.set(xlabel="round", ylabel="score" if is_higher_better else "score (lower is better)")
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return figure
