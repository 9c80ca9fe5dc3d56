"""How far the plan of this machine is from what a round takes, of an experiment of each of seven recipes.

    python -m benchmarks.planning [--data DIR] [--model DIR] [--recipes NAME ...] [--quick] [--folder DIR]

Each recipe runs r0000 and r0001 by the command `lance run` in a home of its own: its mini experiment, or with a real
model an experiment of few seeds of GSM8K. `lance plan --measure` then times a few steps of its model. The seconds that
the plan gives are compared with those of every step of r0001 that asks, reads or trains a model, twice: as it is
planned before any round, and with the rows and tokens that r0001 had, as later rounds are planned.

    plan_error        the largest error of any step with the round's own rows and tokens, as a share of what was
                      measured, 0.25 is 25%; of the steps of `LEAST_SECONDS` or more
    plan_first_error  the same where rows and tokens are assumed
    plan_seconds_off  the largest difference of a shorter step, in seconds
    errors            of each recipe and plan, the error of each step; below 0 where the plan is too short
    plan_unknown      of each recipe, the steps that the plan does not know
    failed            of each recipe whose rounds failed, why; the others go on

Run it with nothing else at work. The last line is one JSON object.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks._real_worlds import INTENTS, ask_intent
from benchmarks._whole_round_site import BARS, CHECKS, Site
from benchmarks.evaluation import TASKS, read_lines, write_tasks
from lance_assets.forecast.build import build_forecast
from lance_assets.forecast.comparing import Compared, compare_round
from lance_assets.forecast.made import find_made
from lance_assets.home import SHIPPED_FOLDER
from lance_assets.rounds.experiments import load_plans
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round

KEY = "r0001"
LEAST_SECONDS = 30.0
"""Steps of fewer are starts of processes for the most part."""
ALL_ROWS: dict[str, Any] = {"max_new_tokens": 128}
PARAMETERS: dict[str, dict[str, Any]] = {
    "lance": {"max_seeds": 24, **BARS, **ALL_ROWS},
    "diverse_evol": {"num_first": 24, "num_picks": 24},
    "kun": {"language": "english", "max_texts": 48, "accept_score": 1.0, "signal": "pair_score", **ALL_ROWS},
    "llm2llm": {
        **{"teacher_writes": "prompt", "answer_kind": "label", "answer_mark": None},
        **{"num_lessons": 2, "max_attempts": 2, "student_max_new_tokens": 16, "max_new_tokens": 128},
        "labels": {label: list(names) for label, names in INTENTS.items()},
    },
    "self_rewarding": {"max_seeds": 24, "num_prompts": 2, **ALL_ROWS},
    "spin": dict(ALL_ROWS),
    "i_sheep": {"max_seeds": 16, "num_prompts": 2, "accept_score": 1.0, **ALL_ROWS},
}
"""Of the recipes that the project began with: bars that leave every stage work, whatever a small model says."""
NUM_SEEDS = {"diverse_evol": 240, "llm2llm": 48, "spin": 64}
"""Where they are not those that `max_seeds` takes."""


def write_experiment(folder: Path, recipe: str, *, model: Path, data: Path, num_items: int) -> None:
    """Write an experiment of a recipe: a real model on questions of GSM8K, and LLM2LLM's on requests of SNIPS.

    Args:
        folder: of experiments; it is called as its recipe.
        recipe: its name.
        model: folder of the model.
        data: folder of `gsm8k_train.jsonl`, `gsm8k_test.jsonl`, `snips_train.jsonl` and `snips_test.jsonl`.
        num_items: items of each of the two tasks of the evaluation.
    """
    own = folder / recipe
    (own / "tasks").mkdir(parents=True)
    write_tasks(own / "tasks", data)
    rows = read_lines(data / "gsm8k_train.jsonl")
    drawn = [rows[place] for place in random.Random(0).sample(range(len(rows)), 400)]
    parameters = PARAMETERS[recipe]
    number = NUM_SEEDS.get(recipe, parameters.get("max_seeds", 48))
    seeds = [
        {"prompt": row["question"], "completion": row["answer"], "answer": row["answer"].split("####")[-1].strip()}
        for row in drawn[:number]
    ]
    if recipe == "llm2llm":
        # A raw model as teacher need not know the answer where it writes another request of the seed's own class.
        rows = random.Random(0).sample(read_lines(data / "snips_train.jsonl"), number)
        seeds = [
            {"prompt": ask_intent(row["text"]), "completion": row["intent"], "answer": row["intent"]} for row in rows
        ]
    (own / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in seeds), encoding="utf-8")
    texts = [{"text": row["answer"].split("####")[0].strip()} for row in drawn[-100:]]
    (own / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts), encoding="utf-8")
    settings: dict[str, Any] = {
        **{"description": f"{recipe} as the benchmark planning runs it.", "recipe": recipe, "parameters": parameters},
        **{"model": str(model.resolve()), "prompt_profile": "small", "rng_seed": 0},
        "seeds": {"path": "seeds.jsonl", "answer_field": "answer"},
        **({"texts": {"path": "texts.jsonl"}} if recipe == "kun" else {}),
        **({"roles": {"teacher": {"model": str(model.resolve())}}} if recipe == "llm2llm" else {}),
        "engine": {"batch_size": 64, "structured_output": "off"},
        "training": {
            "sft": {"learning_rate": 2e-5, "batch_size": 8, "max_length": 512},
            "dpo": {"learning_rate": 1e-6, "batch_size": 8, "max_length": 512},
        },
        "evaluation": {
            "lm_eval": {"tasks": list(TASKS), "include_path": "tasks", "limit": num_items, "batch_size": 32},
            "headline": [{"benchmark": "choice", "metric": "acc"}],
        },
        "checks": CHECKS,
        "stop": {"max_rounds": 2},
    }
    (own / "defs.yaml").write_text(yaml.safe_dump({"type": ".Experiment", "attributes": settings}))


def compare_experiment(site: Site, name: str, folder: Path) -> dict[str, list[Compared]]:
    """Make the rounds of an experiment, measure this machine, and compare r0001 with both plans.

    Args:
        site: where rounds are made.
        name: of the experiment.
        folder: of experiments, that this one is in.

    Raises:
        RuntimeError: its rounds failed.
        ValueError: its file is wrong.
    """
    site.run("run", name, "--rounds", "1")
    plan, platform = load_plans([folder])[name], Platform(data_root=str(site.home / "data"))
    if not isinstance(plan, Plan):
        raise ValueError(plan)
    costs = Round(plan, platform, KEY, lambda _: None).read_costs()
    first = build_forecast(plan, machine=None, home=site.home, measures=True)
    second = build_forecast(plan, machine=None, home=site.home, made=find_made(plan, platform, KEY))
    return {words: compare_round(one, KEY, costs) for words, one in (("assumed", first), ("own rows", second))}


def describe(found: Mapping[str, Mapping[str, list[Compared]]]) -> dict[str, Any]:
    """The figures of all experiments."""
    steps = [
        (words, name, stage) for name, plans in found.items() for words, stages in plans.items() for stage in stages
    ]
    largest = {
        words: max(
            (
                abs(stage.error)
                for said, _, stage in steps
                if said == words and stage.measured >= LEAST_SECONDS and stage.error is not None
            ),
            default=None,
        )
        for words in ("own rows", "assumed")
    }
    off = [
        abs(stage.planned - stage.measured)
        for said, _, stage in steps
        if said == "own rows" and stage.measured < LEAST_SECONDS and stage.planned is not None
    ]
    return {
        "plan_error": None if largest["own rows"] is None else round(largest["own rows"], 3),
        "plan_first_error": None if largest["assumed"] is None else round(largest["assumed"], 3),
        "plan_seconds_off": round(max(off), 1) if off else None,
        "errors": {
            f"{name}, {words}": {stage.noun: round(stage.error, 3) for stage in stages if stage.error is not None}
            for name, plans in found.items()
            for words, stages in plans.items()
        },
        "plan_unknown": {
            name: unknown
            for name, plans in found.items()
            if (unknown := [stage.noun for stage in plans["own rows"] if stage.planned is None])
        },
    }


def main() -> None:
    """Run the experiments, and print how far their plans were off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=PARAMETERS, default=list(PARAMETERS), help="by name")
    parser.add_argument("--quick", action="store_true", help="the first alone")
    parser.add_argument("--folder", type=Path, help="an empty folder for all data, kept at the end")
    parser.add_argument("--model", type=Path, help="folder of a real model; with --data")
    parser.add_argument("--data", type=Path, help="folder of the real data that it asks for")
    options = parser.parse_args()
    if options.model is not None and options.data is None:
        parser.error("--model needs --data")
    found: dict[str, dict[str, list[Compared]]] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        site = Site(options.folder.resolve() if options.folder is not None else Path(scratch))
        site.experiments.mkdir(parents=True)
        for recipe in options.recipes[:1] if options.quick else options.recipes:
            name, folder = f"mini_{recipe}", SHIPPED_FOLDER
            if options.model is not None:
                name, folder = recipe, site.experiments
                write_experiment(folder, recipe, model=options.model, data=options.data, num_items=40)
            try:
                found[recipe] = compare_experiment(site, name, folder)
            except (RuntimeError, ValueError) as error:
                failed[recipe] = str(error)[-300:]
                print(f"{recipe} failed: {error}", flush=True)
                continue
            for words, stages in found[recipe].items():
                print("\n".join(f"{recipe}, {words}: {stage.describe()}" for stage in stages), flush=True)
    print(json.dumps(describe(found) | {"failed": failed}))


if __name__ == "__main__":
    main()
