"""The plan of an experiment as text: the largest round stage by stage, all rounds, what fits, and the assumptions."""

from collections.abc import Iterable, Sequence

import polars as pl

from lance_assets.algorithms.forecast.machine_rates import add_known
from lance_assets.forecast.build import Forecast
from lance_assets.forecast.stages import Row

UNKNOWN = "unknown"
TRAINED = ("SFT", "DPO", "SFT of the label model")
NOT_ASKED = (*TRAINED, "embedding")
"""The stages that ask no model."""


def format_count(value: float | None) -> str:
    """A whole number with separators."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def format_hours(value: float | None) -> str:
    """Hours, minutes or seconds."""
    if value is None:
        return UNKNOWN
    if value >= 1:
        return f"{value:,.1f} h"
    return f"{value * 60:.1f} min" if value * 60 >= 1 else f"{value * 3600:.0f} s"


def format_gib(value: float | None) -> str:
    """GiB, or a dash for a server."""
    return "-" if value is None else f"{value:.1f}"


def format_disk(value: float | None) -> str:
    """GiB or MiB."""
    if value is None:
        return UNKNOWN
    return f"{value:,.1f} GiB" if value >= 1 else f"{value * 1024:,.1f} MiB"


def add_all(values: Iterable[float | None]) -> str:
    """The sum of the known numbers, and whether some are unknown."""
    numbers = list(values)
    known = sum(value for value in numbers if value is not None)
    return f"{known:,.0f}" + (" + unknown" if None in numbers else "")


def add_hours(values: Iterable[float | None]) -> str:
    """The sum of the hours; where some are unknown, what it is at least, and `UNKNOWN` where nothing is known."""
    numbers = list(values)
    known = sum(value for value in numbers if value is not None)
    if None not in numbers:
        return format_hours(known)
    return f"at least {format_hours(known)}" if known else UNKNOWN


def describe_hours(forecast: Forecast) -> str:
    """The hours of all rounds in a sentence, with every stage whose hours are unknown, and how they become known."""
    rows = [row for rows in forecast.rounds.values() for row in rows]
    unknown = list(dict.fromkeys(row.name for row in rows if row.hours is None))
    total = f"hours of all rounds: {add_hours(row.hours for row in rows)}"
    if not unknown:
        return total
    is_measurable = any(not name.startswith("evaluation") for name in unknown)
    remedy = f"; lance plan {forecast.plan.name} --measure measures this computer" if is_measurable else ""
    return f"{total}; unknown: {', '.join(unknown)}{remedy}"


def tabulate_stages(rows: Sequence[Row], *, has_prices: bool) -> pl.DataFrame:
    """One row for each stage."""
    return pl.DataFrame(
        [
            {
                "stage": row.name,
                "rows": format_count(row.rows),
                "at most": format_count(row.rows_at_most),
                "prompt tokens": format_count(row.prompt_tokens),
                "completion tokens": format_count(row.completion_tokens),
                "tokens at most": format_count(row.tokens_at_most),
                "GiB": format_gib(row.gib),
                "disk at most": format_disk(row.disk_gib),
                "hours": format_hours(row.hours),
                "hours at most": format_hours(row.hours_at_most),
            }
            | ({"cost": "-" if row.cost is None else f"{row.cost:,.2f}"} if has_prices else {})
            for row in rows
        ]
    )


def tabulate_rounds(forecast: Forecast) -> pl.DataFrame:
    """One row for each round, and one for all of them."""
    rounds = {**forecast.rounds, "all": [row for rows in forecast.rounds.values() for row in rows]}
    return pl.DataFrame(
        [
            {
                "round": key,
                "sampled rows": add_all(row.rows for row in rows if row.name not in NOT_ASKED),
                "prompt tokens": add_all(row.prompt_tokens for row in rows if row.name not in NOT_ASKED),
                "completion tokens": add_all(row.completion_tokens for row in rows),
                "trained tokens": add_all(row.prompt_tokens for row in rows if row.name in TRAINED),
                "disk at most": format_disk(sum(row.disk_gib or 0.0 for row in rows)),
                "hours": add_hours(row.hours for row in rows),
                "hours at most": add_hours(row.hours_at_most for row in rows),
            }
            | ({"cost": _add_costs(rows)} if forecast.has_prices else {})
            for key, rows in rounds.items()
        ]
    )


def _add_costs(rows: Sequence[Row]) -> str:
    total = add_known(*(row.cost for row in rows if row.name not in NOT_ASKED))
    return UNKNOWN if total is None else f"{total:,.2f}"


def render_forecast(forecast: Forecast) -> str:
    """The whole plan as text."""
    largest = list(forecast.rounds)[-1]
    machine, settings = forecast.machine, forecast.plan.settings
    with pl.Config(
        tbl_rows=-1,
        tbl_cols=-1,
        tbl_width_chars=220,
        fmt_str_lengths=60,
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
    ):
        tables = [
            f"{forecast.plan.name}: {settings.model} on {machine.name}, {machine.description}",
            f"{largest}, the largest round (GiB is the memory on each device)",
            str(tabulate_stages(forecast.rounds[largest], has_prices=forecast.has_prices)),
            "All rounds, as expected",
            str(tabulate_rounds(forecast)),
            describe_hours(forecast),
        ]
    disk = f"{forecast.disk_gib:.1f} GiB at most of {forecast.free_gib:.1f} GiB free disk"
    fits = [f"will not fit: {problem}" for problem in forecast.problems]
    fits = fits or [f"fits: memory on {machine.name}, and {disk}"]
    return "\n".join([*tables, *fits, "Assumptions", *(f"  {note}" for note in forecast.notes)])
