"""What the command `lance costs` prints: where a round's minutes went, beside what was planned."""

from collections.abc import Callable, Mapping

from lance_assets.algorithms.forecast.made_rounds import MadeRound
from lance_assets.forecast.build import Forecast, build_forecast
from lance_assets.forecast.comparing import Compared, compare_round
from lance_assets.forecast.made import find_last_made
from lance_assets.home import find_home
from lance_assets.rounds.asking import Cost
from lance_assets.rounds.nouns import NOUNS
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from lance_assets.rounds.shown.overhead import split_round
from lance_assets.rounds.shown.seconds import measure_round

TITLES = ("step", "seconds", "models", "rest", "tokens", "planned s", "planned tokens", "off")


def show_costs(
    plan: Plan, platform: Platform, round_keys: list[str], *, with_plan: bool, say: Callable[[str], None]
) -> None:
    """Print a table of each round: its steps, what models worked of their seconds, and the plan of this computer.

    Args:
        plan: the experiment.
        platform: where the data is.
        round_keys: the rounds; empty for every one that has costs.
        with_plan: whether the plan is made, which reads the seeds and the model's tokenizer. It goes by the last
            round that was finished before the first of them.
        say: takes the text.

    Raises:
        ValueError: a round has no costs.
    """
    folder = platform.root / "costs" / plan.name
    keys = round_keys or sorted(path.name for path in folder.glob("r[0-9]*"))
    found = {key: Round(plan, platform, key, lambda _: None).read_costs() for key in keys}
    if missing := [key for key, costs in found.items() if not costs] or ([] if keys else ["any round"]):
        raise ValueError(f"{plan.name} has no costs of {', '.join(missing)} in {folder}; run it first")
    # One plan for all of them, since a plan reads the seeds and the tokenizer.
    forecast, why_not = make_plan(plan, find_last_made(plan, platform, before=min(keys))) if with_plan else (None, "")
    if why_not:
        say(f"no plan beside it: {why_not}")
    for key, costs in found.items():
        compared: list[Compared] = []
        if forecast is not None and key in forecast.rounds:
            compared = compare_round(forecast, key, costs)
        say(f"{plan.name} {key}: {split_round(costs).describe()}\n{tabulate_costs(costs, compared)}")


def make_plan(plan: Plan, made: MadeRound | None) -> tuple[Forecast | None, str]:
    """The plan for this computer where it was measured, or for the machine that the experiment suggests; or why not.

    Args:
        plan: the experiment.
        made: a finished round that the others are expected to be like.
    """
    try:
        return build_forecast(plan, machine=None, home=find_home(), made=made), ""
    except ValueError as error:
        return None, str(error)


def tabulate_costs(costs: Mapping[str, Cost], compared: list[Compared]) -> str:
    """A line for each step in the order of a round, one for what was waited, and one for all."""
    planned = {one.noun: one for one in compared}
    lines: list[tuple[str, ...]] = [TITLES]
    for noun in [name for name in NOUNS if name in costs]:
        cost, one = costs[noun], planned.get(noun)
        rest = max(0.0, cost.seconds - cost.model_seconds)
        lines.append(
            (
                *(noun, f"{cost.seconds:.1f}", f"{cost.model_seconds:.1f}", f"{rest:.1f}"),
                f"{cost.completion_tokens:,}" if cost.completion_tokens else "",
                *describe_planned(one),
            )
        )
    times = measure_round(costs)
    if times.waited is not None:
        lines.append(("waited between steps", f"{times.waited:.1f}", "", f"{times.waited:.1f}", *[""] * 4))
    split = split_round(costs)
    lines.append(("round", f"{split.total:.1f}", f"{split.model:.1f}", f"{split.overhead:.1f}", *[""] * 4))
    widths = [max(len(line[place]) for line in lines) for place in range(len(TITLES))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def describe_planned(one: Compared | None) -> tuple[str, str, str]:
    """The planned seconds and tokens of a step, and by how much the seconds are off; empty where none are planned."""
    if one is None:
        return "", "", ""
    seconds = "unknown" if one.planned is None else f"{one.planned:.1f}"
    tokens = f"{one.planned_tokens:,.0f}" if one.planned_tokens else ""
    return seconds, tokens, "" if one.error is None else f"{one.error:+.0%}"
