"""Experiments and rounds side by side: scores with intervals, the settings that differ, and what each step took."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from lance_assets.browse.contract import Asked, Page, View, Way
from lance_assets.browse.mistakes import BadQueryError
from lance_assets.browse.shelf import Shelf
from lance_assets.rounds.asking import Cost, add_costs, read_cost
from lance_assets.rounds.finished.leaderboard import read_leaderboard
from lance_assets.rounds.headline import compare_with
from lance_assets.rounds.identity.kept import NoIdentityError, compare_identities, read_identity
from lance_assets.rounds.nouns import NOUNS
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.round import Round

READ_BY_LEADERBOARD = ("eval_report", "eval_items", "judge_items", "harness_items", "sft_set", "preference_pairs")
"""The tables whose change makes the leaderboard another one."""

Place = tuple[str, str]
"""An experiment and a round."""


def show_all(asked: Asked) -> Page:
    """Every finished round, the best first, or those of some experiments; the two that are named side by side.

    Raises:
        BadQueryError: an experiment or a round that there is not.
    """
    shelf = asked.shelf
    known = shelf.list_experiments()
    wanted = list(asked.query["experiment"]) if "experiment" in asked.query else known
    if unknown := sorted(set(wanted) - set(known)):
        raise BadQueryError(f"experiment: {unknown[0]!r} has no tables; choose of {', '.join(known)}")
    places = [(name, key) for name in known for key in shelf.list_rounds(name)]
    sides = [_read_place(asked, name, places) for name in ("a", "b")]
    return _show(shelf, wanted, [side for side in sides if side is not None], "Experiments and rounds compared")


def show_round(asked: Asked) -> Page:
    """A round beside another of its experiment, and all rounds of the experiment."""
    other = asked.choose_other_round()
    mine = (asked.experiment, asked.round_key)
    sides = [(asked.experiment, other), mine] if other else [mine]
    return _show(asked.shelf, [asked.experiment], sides, f"{asked.experiment} {asked.round_key} compared")


def _read_place(asked: Asked, field: str, places: Sequence[Place]) -> Place | None:
    named = asked.get(field)
    if named is None:
        return None
    experiment, _, key = named.partition("/")
    if (experiment, key) not in places:
        raise BadQueryError(
            f"{field}: there is no round {named!r}; write it as experiment/round, such as mini_lance/r0001"
        )
    return experiment, key


def _show(shelf: Shelf, wanted: Sequence[str], sides: Sequence[Place], title: str) -> Page:
    rows, left_out = read_scores(shelf, wanted)
    places = [f"{name}/{key}" for name in shelf.list_experiments() for key in shelf.list_rounds(name)]
    scales = [
        {"rows": group.to_dicts(), "benchmark": group["benchmark"][0], "metric": group["metric"][0]}
        for _, group in rows.group_by("scale", maintain_order=True)
    ]
    content: dict[str, Any] = {"scales": scales, "left_out": left_out, "places": places, "pair": None}
    if len(sides) == 2:
        content["pair"] = compare_pair(shelf, sides[0], sides[1], rows)
    content["chosen"] = [f"{name}/{key}" for name, key in sides]
    return Page("compared.html", title, content)


def read_scores(shelf: Shelf, wanted: Sequence[str]) -> tuple[pl.DataFrame, Mapping[str, str]]:
    """The leaderboard of some experiments, and which rounds are left out and why."""
    plans = [plan for name in wanted if (plan := shelf.find_plan(name)) is not None]
    gone = {name: "its file is gone or broken" for name in wanted if shelf.find_plan(name) is None}
    states = tuple(
        shelf.find_state(plan.name, key, table)
        for plan in plans
        for key in shelf.list_rounds(plan.name)
        for table in READ_BY_LEADERBOARD
        if shelf.has(plan.name, key, table)
    )
    # A plan that was read again is another one, so a changed file is noticed too.
    key = ("leaderboard", states, tuple(map(id, plans)))
    rows, left_out = shelf.keep(key, lambda: read_leaderboard(plans, shelf.platform))
    return rows, left_out | gone


def compare_pair(shelf: Shelf, before: Place, after: Place, rows: pl.DataFrame) -> dict[str, Any]:
    """Two rounds side by side: scores, difference, settings that differ, costs by step."""
    scores = {(row["experiment"], row["round"]): row for row in rows.to_dicts()}
    costs = [read_costs(shelf, place) for place in (before, after)]
    nouns = [noun for noun in NOUNS if any(noun in cost for cost in costs)]
    lines = [(noun, *(cost.get(noun) for cost in costs)) for noun in nouns]
    totals = [add_costs(list(cost.values())) for cost in costs]
    return {
        "names": [" ".join(place) for place in (before, after)],
        "places": [before, after],
        "scores": [scores.get(place) for place in (before, after)],
        "difference": _compare_scores(shelf, before, after),
        "settings": find_differences(shelf, before, after),
        "costs": [*lines, ("all steps", *totals)] if lines else [],
    }


def _compare_scores(shelf: Shelf, before: Place, after: Place) -> dict[str, Any]:
    """The difference of two rounds of one experiment over the same items, or why there is none."""
    if before[0] != after[0]:
        return {
            "why": "a difference with its interval is only between rounds of one experiment; the leaderboard shows both"
        }
    plan = shelf.find_plan(after[0])
    if not isinstance(plan, Plan):
        return {"why": "the experiment's file is gone or broken"}
    try:
        return {"interval": compare_with(Round(plan, shelf.platform, after[1], lambda _: None), before[1])}
    except (ValueError, OSError) as error:
        return {"why": str(error)}


def find_differences(shelf: Shelf, before: Place, after: Place) -> list[dict[str, Any]]:
    """The settings and libraries in which two rounds differ; one that several steps read is there once."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for noun in NOUNS:
        try:
            then, now = (read_identity(shelf.platform.tables, *place, noun) for place in (before, after))
        except NoIdentityError:
            continue
        first, second = (
            {str(part): side[part] for part in ("recipe", "settings", "libraries") if part in side}
            for side in (then, now)
        )
        for each in compare_identities(first, second):
            key = (each.path, str(each.before), str(each.after))
            line = found.setdefault(key, {"path": each.path.removeprefix("settings."), "steps": []})
            line |= {"before": str(each.before), "after": str(each.after)}
            line["steps"].append(noun)
        if then.get("code", {}).get("hash") != now.get("code", {}).get("hash"):
            line = found.setdefault(("code", "", ""), {"path": "code", "steps": [], "before": "–", "after": "changed"})
            line["steps"].append(noun)
    return list(found.values())


def read_costs(shelf: Shelf, place: Place) -> dict[str, Cost]:
    """What each step of a round took; a file that cannot be read is left out."""
    files = sorted(shelf.platform.root.joinpath("costs", *place).glob("*.json"))
    return {file.stem: cost for file in files if (cost := read_cost(file, place[0])) is not None}


VIEW = View(
    "compared",
    "Compared",
    "Which round is better, what was different, and what did it cost?",
    (Way("/compare", show_all), Way("/e/{experiment}/{round_key}/compared", show_round)),
)
