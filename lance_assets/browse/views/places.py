"""Where a person begins: the experiments, the rounds of one, and the tables of a round."""

from typing import Any

import polars as pl

from lance_assets.browse.contract import Asked, Page, View, Way
from lance_assets.browse.shelf import Shelf
from lance_assets.rounds.headline import read_headline
from lance_assets.rounds.nouns import NOUNS, find_owner
from lance_assets.rounds.plan import Plan


def show_experiments(asked: Asked) -> Page:
    """Every experiment that has rounds, with what its last finished round scored."""
    shelf = asked.shelf
    rows = [_describe_experiment(shelf, name) for name in shelf.list_experiments()]
    without = sorted(set(shelf.plans) - {row["name"] for row in rows})
    broken = {name: plan for name, plan in shelf.plans.items() if isinstance(plan, str)}
    content = {"rows": rows, "without": [name for name in without if name not in broken], "broken": broken}
    return Page("experiments.html", "Experiments", content | {"root": str(shelf.platform.root / "tables")})


def _describe_experiment(shelf: Shelf, name: str) -> dict[str, Any]:
    rounds = shelf.list_rounds(name)
    plan = shelf.find_plan(name)
    scored = [key for key in rounds if shelf.has(name, key, "eval_report")]
    return {
        "name": name,
        "recipe": plan.settings.recipe if isinstance(plan, Plan) else None,
        "description": plan.settings.description if isinstance(plan, Plan) else "",
        "rounds": rounds,
        "scored": scored[-1] if scored else None,
        "score": read_score(shelf, name, scored[-1]) if scored else None,
    }


def read_score(shelf: Shelf, experiment: str, round_key: str) -> dict[str, Any]:
    """The headline of a round with its interval, or the words why there is none."""
    try:
        plan, report = shelf.find_plan(experiment), shelf.read(experiment, round_key, "eval_report")
        return {"headline": read_headline(report, evaluation=plan.settings.evaluation if plan else None)}
    except (ValueError, OSError, pl.exceptions.PolarsError) as error:
        return {"headline": None, "mistake": str(error)}


def show_experiment(asked: Asked) -> Page:
    """The rounds of an experiment: their scores, and how many rows each stage has."""
    shelf, name = asked.shelf, asked.experiment
    stages = ("seed_set", "raw_generations", "cleaned_set", "reviewed_set", "sft_set", "preference_pairs")
    rows = [
        {
            "key": key,
            "counts": {stage: _count(shelf, name, key, stage) for stage in stages},
            "score": read_score(shelf, name, key) if shelf.has(name, key, "eval_report") else None,
        }
        for key in shelf.list_rounds(name)
    ]
    return Page("experiment.html", name, {"rows": rows, "stages": stages, "plan": shelf.find_plan(name)})


def show_round(asked: Asked) -> Page:
    """The tables of a round, each with what it holds."""
    shelf, name, key = asked.shelf, asked.experiment, asked.round_key
    tables = [
        {
            "name": table,
            "rows": _count(shelf, name, key, table),
            "about": NOUNS[table].description if table in NOUNS else f"Kept beside {find_owner(table)}.",
        }
        for table in shelf.list_tables(name, key)
    ]
    missing = [noun for noun in NOUNS if not shelf.has(name, key, noun)]
    score = read_score(shelf, name, key) if shelf.has(name, key, "eval_report") else None
    return Page("round.html", f"{name} {key}", {"tables": tables, "missing": missing, "found": score})


def _count(shelf: Shelf, experiment: str, round_key: str, table: str) -> int | None:
    """Rows of a table; None where it cannot be read, which its own page explains."""
    if not shelf.has(experiment, round_key, table):
        return 0
    try:
        return shelf.count_rows(experiment, round_key, table)
    except (OSError, pl.exceptions.PolarsError):
        return None


VIEW = View(
    "places",
    "Experiments",
    "Which experiments and rounds are there?",
    (
        Way("/", show_experiments),
        Way("/e/{experiment}", show_experiment),
        Way("/e/{experiment}/{round_key}", show_round),
    ),
    has_tab=False,
)
