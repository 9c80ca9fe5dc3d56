"""Whether rounds make a real language model better: methods against their controls on data that people wrote.

    python -m benchmarks.real_evolution --model NAME [--data DIR] [--only STUDY | --full] [--rng-seeds N]
        [--first-seed K] [--also FILE ...] [--out DIR] [--plan MACHINE] [--quick]

Without `--only` and `--full` it is one seed of the first study; a seed takes half an hour and more on two cores.

| study | held-out data | arms, the method first |
| --- | --- | --- |
| llm2llm_snips | 140 requests of SNIPS | LLM2LLM on 21 seeds; seeds alone; paraphrases of any seed; one shot |
| diverse_evol_t0 | 150 rows of T0 | DiverseEvol's picks, 2% to 8% of 5,000; random picks; all 4,843 left |
| trace_tasks | 70 each of SNIPS, T0, GSM8K | TRACE, the three in turn, with replay of a tenth; without it |
| lance_general | 51 answers, 48 rules | LANCE as `make demo-real`, without pairs; random scores; no reviews; seeds |

Of lessons on SNIPS a classifier says which are of their class. T0 is scored by exact match and by ROUGE-L. Answers are
scored by bits per byte and by which of four choices is the likeliest, and instructions by whether the form that they
ask for is kept. TRACE's arms have OP and BWT too.

All arms of a study train each round on the same number of tokens. The model is its own teacher and its own reviewer.
A killed study goes on from its last finished round, with the same settings only; finished rounds lie in `--out`, and
so do the scores as `STUDY.csv`. `--also` takes such files of other seeds in, so that seeds may be run on several days.
The number of rounds is fixed, and the last round counts, not the best one. The last line is one JSON object: of the
first study its recipe, benchmark, start, end, gain and interval, and for each study every arm's scores and how far the
method's end is from its own, with a 95% interval paired over seeds (with one seed, over items). `gain_points` is 100
times the gain, and above 0 where the end is better, whether higher or lower scores are (`higher_is_better`); scores,
and the differences under `arms`, are as they are.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks import _real_worlds as worlds
from benchmarks._arms import START, Arm, Measure, find_root, plan_arm, read_scores, run_arm
from benchmarks._continual import describe_continual
from benchmarks._models import find_model
from benchmarks._real_data import find_data, skip
from benchmarks._snips_lessons import describe_lessons
from lance_assets.algorithms.measures.arms import BACKBONE, compare_rounds, summarise_arms
from lance_assets.algorithms.measures.progress import START_ROUND, format_round
from lance_assets.algorithms.similarity.words import compute_rouge_l
from lance_assets.rounds.experiments import find_plan, plan_experiment
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from lance_assets.settings.experiment import ExperimentSettings

PROJECT_ROOT = Path(__file__).parents[1]
SNIPS_BUDGET = 11000
T0_BUDGET = 24000
LANCE_BUDGET = 14000
TRACE_BUDGET, TASKS_FILE = 12000, "tasks.jsonl"
PER_TASK = 140
"""Seeds of each of TRACE's tasks; one epoch of SNIPS's takes about the budget."""


@dataclass(frozen=True)
class Study:
    """A method with its controls."""

    recipe: str
    benchmark: str
    unit: str
    """Of the score, as it is printed."""
    arms: Mapping[str, Arm]
    """The method first."""
    write: Callable[[Path, str, int], Plan]
    """Given a folder, the model and a seed: the experiment, its files written."""
    further: Mapping[str, Measure] = field(default_factory=dict)
    """What is reported beside the score that is the study's."""
    higher_is_better: bool = True
    """Of the score; what is reported beside it is always better where it is higher."""


def _write_rows(file: Path, rows: list[dict[str, str]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def evaluate_on(world: str, number: int, *, max_new_tokens: int) -> dict[str, Any]:
    """Greedy completions of held-out problems; the study looks at no sampled ones."""
    name = f"benchmarks._real_worlds:{world}"
    return {"name": name, "per_stratum": number, "max_new_tokens": max_new_tokens, "sampled_temperature": None}


def write_snips(folder: Path, model: str, rng_seed: int) -> Plan:
    """LLM2LLM on SNIPS, where the model teaches itself."""
    _write_rows(folder / "seeds.jsonl", worlds.draw_snips_seeds(per_intent=3, rng_seed=rng_seed))
    attributes: dict[str, Any] = {
        "recipe": "llm2llm",
        "model": model,
        "prompt_profile": "small",
        "seeds": {"path": "seeds.jsonl", "answer_field": "answer"},
        "roles": {"teacher": {"model": model, "engine": {"batch_size": 32}}},
        "parameters": {
            # A lesson's prompt repeats the instruction of SNIPS, which has 42 tokens.
            **{"temperature": 0.8, "top_p": 0.95, "max_new_tokens": 128, "student_max_new_tokens": 16},
            # The raw model names 3% of intents rightly, so it writes requests alone: their seeds say the intent.
            "teacher_writes": "prompt",
            **{"num_lessons": 2, "max_attempts": 2, "answer_kind": "label", "answer_mark": None},
            **{"labels": {label: list(names) for label, names in worlds.INTENTS.items()}},
        },
        "engine": {"batch_size": 32},
        "training": {
            "token_budget": SNIPS_BUDGET,
            "sft": {"learning_rate": 2e-5, "num_epochs": 3, "batch_size": 4, "max_length": 256},
        },
        "evaluation": {"world": evaluate_on("SNIPS", 140, max_new_tokens=16)},
        "stop": {"max_rounds": 2, "on_regression": "continue"},
    }
    return plan_experiment(ExperimentSettings.model_validate(attributes), folder)


def write_t0(folder: Path, model: str, rng_seed: int) -> Plan:
    """DiverseEvol on a pool of T0."""
    pool, _ = worlds.read_t0(worlds.POOL_ROWS, worlds.HELD_OUT_ROWS)
    _write_rows(folder / "pool.jsonl", pool)
    attributes: dict[str, Any] = {
        "recipe": "diverse_evol",
        "model": model,
        "prompt_profile": "small",
        "seeds": {"path": "pool.jsonl"},
        "parameters": {"num_first": 100, "num_picks": 100},
        "engine": {"batch_size": 32},
        "training": {
            "token_budget": T0_BUDGET,
            "sft": {"learning_rate": 2e-5, "num_epochs": 1, "batch_size": 8, "max_length": 256},
        },
        "evaluation": {"world": evaluate_on("T0", 150, max_new_tokens=24)},
        "stop": {"max_rounds": 3, "on_regression": "continue"},
    }
    return plan_experiment(ExperimentSettings.model_validate(attributes), folder)


@cache
def choose_task_rows(rng_seed: int) -> tuple[dict[str, str], ...]:
    """The seeds of TRACE's tasks, one task after another, none of which the guard of the evaluation would leave out.

    A round would end there: the tasks are cut off the file by their sizes. Which passages are a task's wording follows
    from all seeds of the file, so that they are looked at again once some have taken the places of others.
    """
    left = worlds.draw_task_seeds(per_task=3 * PER_TASK, rng_seed=rng_seed)
    while True:
        rows = tuple(row for task in worlds.TASKS for row in left[task][:PER_TASK])
        with tempfile.TemporaryDirectory() as folder:
            _write_rows(Path(folder) / TASKS_FILE, list(rows))
            guard = Round(plan_tasks(Path(folder), "small"), Platform(data_root=folder), START_ROUND, print).guard
            ids = [str(place) for place in range(len(rows))]
            found = [
                guard.find(ids, [row["prompt"] for row in rows]),
                guard.find_in_completions(ids, [row["completion"] for row in rows]),
            ]
        guarded = {rows[int(place)]["prompt"] for table in found for place in table["row_id"]}
        if not guarded:
            assert len(rows) == PER_TASK * len(worlds.TASKS), "three times as many rows were drawn"
            return rows
        left = {task: [row for row in own if row["prompt"] not in guarded] for task, own in left.items()}


def write_tasks(folder: Path, model: str, rng_seed: int) -> Plan:
    """TRACE on three tasks of real data, one a round."""
    _write_rows(folder / TASKS_FILE, list(choose_task_rows(rng_seed)))
    return plan_tasks(folder, model)


def plan_tasks(folder: Path, model: str) -> Plan:
    """The experiment of the three tasks, whose file is written."""
    attributes: dict[str, Any] = {
        "recipe": "trace",
        "model": model,
        "prompt_profile": "small",
        "seeds": {"path": TASKS_FILE},
        "parameters": {"task_sizes": [PER_TASK] * len(worlds.TASKS), "replay_rate": 0.1},
        "engine": {"batch_size": 32},
        "training": {
            "token_budget": TRACE_BUDGET,
            "sft": {"learning_rate": 2e-5, "num_epochs": 1, "batch_size": 8, "max_length": 384},
        },
        "evaluation": {"world": evaluate_on("THREE_TASKS", 70, max_new_tokens=160), "task_order": list(worlds.TASKS)},
        "checks": {"max_forgetting": None},
        "stop": {"max_rounds": len(worlds.TASKS) - 1, "on_regression": "continue"},
    }
    return plan_experiment(ExperimentSettings.model_validate(attributes), folder)


def write_general(folder: Path, model: str, rng_seed: int) -> Plan:
    """LANCE as `make demo-real` runs it, on a fixed number of tokens a round."""
    plan = find_plan("smollm2_lance")
    settings = plan.settings.model_dump()
    settings["model"] = model
    settings["training"]["token_budget"] = LANCE_BUDGET
    settings["stop"] |= {"max_rounds": 2, "on_regression": "continue"}
    world = evaluate_on("INSTRUCTIONS", 48, max_new_tokens=64)
    settings["evaluation"] |= {"world": world}
    return Plan(plan.name, plan.folder, ExperimentSettings.model_validate(settings))


def measure_rouge_l(this_round: Round, model: str) -> list[float]:
    """ROUGE-L's F of the greedy completion of each held-out problem with its answer."""
    items = this_round.read("eval_items").filter(model=model, metric="greedy").sort("prompt")
    return [compute_rouge_l(said, gold).f for said, gold in items.select("completion", "answer").iter_rows()]


def measure_rules(this_round: Round, model: str) -> list[float]:
    """Whether the greedy completion of each instruction keeps its rule."""
    items = this_round.read("eval_items").filter(model=model, metric="greedy").sort("prompt")
    return items["is_correct"].cast(pl.Float64).to_list()


def measure_task(task: str) -> Measure:
    """Whether each held-out problem of one task is done."""

    def measure(this_round: Round, model: str) -> list[float]:
        items = this_round.read("eval_items").filter(model=model, metric="greedy", task=task).sort("prompt")
        return items["is_correct"].cast(pl.Float64).to_list()

    return measure


def measure_choices(this_round: Round, model: str) -> list[float]:
    """Whether the right one of four choices is the likeliest."""
    items = this_round.read("harness_items").filter(model=model, benchmark="held_out_choice", metric="acc")
    return items.sort("item")["score"].to_list()


STUDIES = {
    "llm2llm_snips": Study(
        "llm2llm",
        "SNIPS",
        "greedy accuracy",
        {
            "llm2llm": Arm(2),
            "seeds_only": Arm(0, sft={"num_epochs": 6}),
            "paraphrases": Arm(1, {"targeted": False}),
            "one_shot": Arm(1, {"num_lessons": 4}),
        },
        write_snips,
    ),
    "diverse_evol_t0": Study(
        "diverse_evol",
        "T0",
        "exact match",
        {"diverse_evol": Arm(3), "random": Arm(3, {"method": "random"}), "all": Arm(1, {"num_picks": None})},
        write_t0,
        {"rouge_l": measure_rouge_l},
    ),
    "lance_general": Study(
        "lance",
        "held_out_text",
        "bits per byte, lower is better",
        {
            # It builds no pairs here (docs/real-models.md), so there is no control without them.
            "lance": Arm(2),
            "random_scores": Arm(2, {"reviewer": "random"}),
            "self_instruct": Arm(2, {"reviewer": "none"}),
            "seeds_only": Arm(2, {"propose": False}),
        },
        write_general,
        {"choices": measure_choices, "rules_kept": measure_rules},
        higher_is_better=False,
    ),
    "trace_tasks": Study(
        "trace",
        "THREE_TASKS",
        "greedy accuracy",
        {"replay": Arm(2), "no_replay": Arm(2, {"replay_rate": 0.0})},
        write_tasks,
        {task: measure_task(task) for task in worlds.TASKS},
    ),
}


def make_plan(name: str, arm: Arm, rng_seed: int, out: Path, model: str) -> Plan:
    """An arm's experiment, its files written."""
    folder = out / name / f"seed{rng_seed}" / "experiment"
    return plan_arm(STUDIES[name].write(folder, model, rng_seed), arm, rng_seed)


def run_study(name: str, rng_seed: int, out: Path, model: str, arms: Mapping[str, Arm]) -> None:
    """Run what is not finished of a study's seed, the shared r0000 first."""
    start = find_root(out, name, rng_seed, START)
    for arm_name, arm in {START: Arm(0), **arms}.items():
        started, root = time.monotonic(), find_root(out, name, rng_seed, arm_name)
        run_arm(make_plan(name, arm, rng_seed, out, model), arm, root, start)
        print(f"{name} seed {rng_seed} {arm_name}: {time.monotonic() - started:.0f} s", flush=True)


def plan_study(name: str, model: str, machine: str) -> str:
    """What a seed of the study's method takes on a machine, as `lance plan` prints it; the weights need not be here.

    Args:
        name: of the study.
        model: a name of which a `config.json` is here.
        machine: of lance_assets/forecast/throughput.yaml.
    """
    from lance_assets.forecast.build import build_forecast
    from lance_assets.forecast.table import render_forecast
    from lance_assets.home import find_home

    place = Path(model).expanduser()
    with tempfile.TemporaryDirectory() as scratch:
        arm = next(iter(STUDIES[name].arms.values()))
        plan = make_plan(name, arm, 0, Path(scratch), str(place.resolve()) if place.exists() else model)
        return f"{name}\n\n{render_forecast(build_forecast(plan, machine=machine, home=find_home()))}"


def read_study(name: str, rng_seeds: list[int], out: Path, model: str, arms: Mapping[str, Arm]) -> pl.DataFrame:
    """Every round of every arm and seed, as `read_scores`."""
    return pl.concat(
        read_scores(
            {arm: make_plan(name, one, seed, out, model) for arm, one in arms.items()},
            {arm: find_root(out, name, seed, arm) for arm in arms},
            seed,
            further=STUDIES[name].further,
        )
        for seed in rng_seeds
    )


def list_columns(name: str) -> list[str]:
    """Those of a study's scores that are kept for later: one line for each arm and round of a seed."""
    return ["rng_seed", "arm", "round", "score", "num_rows", "train_tokens", *STUDIES[name].further]


def add_seeds(rows: pl.DataFrame, files: list[Path]) -> pl.DataFrame:
    """Add the scores of other seeds, without their items, which a comparison over several seeds does not need.

    Args:
        rows: of this run, as `read_study`.
        files: what other runs wrote as `STUDY.csv`.

    Raises:
        ValueError: a file lacks a column, or has a seed that is there already.
    """
    for file in files:
        more, columns = pl.read_csv(file), list_columns(file.stem)
        if missing := sorted(set(columns) - set(more.columns)):
            raise ValueError(f"{file} has no column {', '.join(missing)}; give a STUDY.csv that this command wrote")
        if both := sorted(set(more["rng_seed"]) & set(rows["rng_seed"])):
            raise ValueError(f"{file} has seed {both[0]}, which is there already; run others with --first-seed")
        typed = more.select(pl.col(name).cast(rows.schema[name]) for name in columns)
        rows = pl.concat([rows, typed], how="diagonal")
    return rows.sort("rng_seed", maintain_order=True)


def summarise(name: str, rows: pl.DataFrame, arms: Mapping[str, Arm]) -> dict[str, Any]:
    """Tables of a study, one for each score, and what the last line says of it."""
    study = STUDIES[name]
    found = _tabulate(rows, arms, metric="score", title=f"{name}: {study.unit}")
    further = {one: _tabulate(rows, arms, metric=one, title=f"{name}: {one}") for one in study.further}
    return found | ({"further": further} if further else {})


def _tabulate(rows: pl.DataFrame, arms: Mapping[str, Arm], *, metric: str, title: str) -> dict[str, Any]:
    method = next(iter(arms))
    means = {(row["arm"], row["round"]): row["mean"] for row in summarise_arms(rows, metric=metric).to_dicts()}
    ends = {arm: format_round(one.num_rounds) for arm, one in arms.items()}
    found: dict[str, Any] = {"backbone": {"score": round(means[BACKBONE, START_ROUND], 4)}}
    print(f"\n{title}; raw model {means[BACKBONE, START_ROUND]:.3f}\n")
    print(f"| arm | r0000 | last | since r0000 | {method} less this | SFT rows | tokens trained |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for arm, end in ends.items():
        gain = compare_rounds(rows, (method, START_ROUND), (arm, end), metric=metric)
        behind = compare_rounds(rows, (arm, end), (method, ends[method]), metric=metric) if arm != method else None
        last = rows.filter(arm=arm, round=end)
        seen, tokens = (sum(last[column].to_list()) / len(last) for column in ("num_rows", "train_tokens"))
        found[arm] = {"start": means[arm, START_ROUND], "end": means[arm, end], "gain": gain, "behind": behind}
        shown = "" if behind is None else _show(behind)
        start = means[method, START_ROUND]
        print(f"| {arm} | {start:.3f} | {means[arm, end]:.3f} | {_show(gain)} | {shown} | {seen:.0f} | {tokens:.0f} |")
    return found


def show_lessons(rng_seeds: list[int], out: Path, arms: Mapping[str, Arm]) -> dict[str, Any]:
    """How many lessons on SNIPS ask for the intent that they are trained on, by arm, printed and given."""
    writing = [arm for arm, one in arms.items() if one.num_rounds]
    found = {
        arm: describe_lessons([find_root(out, "llm2llm_snips", seed, arm) for seed in rng_seeds]) for arm in writing
    }
    for arm, told in found.items():
        of = f"{told['num_of_their_class']} of {told['num_accepted']} accepted lessons are of their class"
        print(f"{arm}: {of}, {told['share']} [{told['ci_low']}, {told['ci_high']}]; {told['num_written']} were written")
    return found


def show_continual(rng_seeds: list[int], out: Path, model: str, arms: Mapping[str, Arm]) -> dict[str, Any]:
    """OP and BWT of TRACE's arms, printed and given."""

    def open_last(arm: str, one: Arm, seed: int) -> Round:
        platform = Platform(data_root=str(find_root(out, "trace_tasks", seed, arm)))
        plan = make_plan("trace_tasks", one, seed, out, model)
        return Round(plan, platform, format_round(one.num_rounds), lambda _: None)

    found = describe_continual({arm: [open_last(arm, one, seed) for seed in rng_seeds] for arm, one in arms.items()})
    for name, interval in found.items():
        print(f"{name}: {_show(interval)}")
    return found


def _show(interval: tuple[float, float, float]) -> str:
    middle, low, high = interval
    return f"{middle:+.3f} [{low:+.3f}, {high:+.3f}]"


def locate_model(name: str, parser: argparse.ArgumentParser) -> str:
    """The name of a model as experiments in other folders may have it; it is brought here before anything runs."""
    find_model(name, parser)
    # Experiments read a path as relative to their own folder.
    return str(Path(name).expanduser().resolve()) if Path(name).expanduser().exists() else name


def main() -> None:
    """Run what is not finished, and print tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder, GGUF file or hub id, as for lance model")
    parser.add_argument("--data", type=Path, help="the folder of real data sets")
    parser.add_argument("--rng-seeds", type=int, help="how many seeds; three of a study that is named, and of all")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="scores of other seeds, named STUDY.csv")
    parser.add_argument("--only", choices=STUDIES, help="one study alone")
    parser.add_argument("--full", action="store_true", help="every study")
    parser.add_argument("--out", type=Path, help="where rounds are kept; without it they are thrown away")
    parser.add_argument(
        "--plan", metavar="MACHINE", help="print what the method takes there, as lance plan; run nothing"
    )
    parser.add_argument("--quick", action="store_true", help="one seed, the first study, the method and one control")
    options = parser.parse_args()
    if options.model is None:
        skip("no real model: name one by --model")
    os.environ[worlds.VARIABLE] = str(find_data(parser, options.data, worlds.FILES).resolve())
    started, first = time.monotonic(), options.first_seed
    number = options.rng_seeds or (3 if options.only or options.full else 1)
    seeds = list(range(first, first + (1 if options.quick else number)))
    if unknown := [file for file in options.also if file.stem not in STUDIES]:
        parser.error(f"--also takes files named STUDY.csv, got {', '.join(map(str, unknown))}")
    names = [options.only] if options.only else list(STUDIES)[: None if options.full and not options.quick else 1]
    if options.plan:
        print("\n\n".join(plan_study(name, options.model, options.plan) for name in names))
        return
    model = locate_model(options.model, parser)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        for name in names:
            arms = dict(list(STUDIES[name].arms.items())[: 2 if options.quick else None])
            for seed in seeds:
                run_study(name, seed, out, model, arms)
            rows = read_study(name, seeds, out, model, arms)
            rows = add_seeds(rows, [file for file in options.also if file.stem == name])
            if options.out is not None:
                rows.select(list_columns(name)).write_csv(options.out / f"{name}.csv", float_precision=6)
            figures[name] = summarise(name, rows, arms)
            if name == "llm2llm_snips":
                figures[name]["lessons"] = show_lessons(seeds, out, arms)
            if name == "trace_tasks":
                figures[name]["continual"] = show_continual(seeds, out, model, arms)
            num_seeds = rows["rng_seed"].n_unique()
    minutes = (time.monotonic() - started) / 60
    print(json.dumps(describe(names[0], figures, model=options.model, num_seeds=num_seeds, minutes=minutes)))


def describe(name: str, figures: Mapping[str, Any], *, model: str, num_seeds: int, minutes: float) -> dict[str, Any]:
    """The last line: of a study its method's gain, and of every study its arms.

    Args:
        name: of the study that the gain is of.
        figures: of each study what `summarise` found.
        model: as it was named.
        num_seeds: of the study.
        minutes: that all took.
    """
    study = STUDIES[name]
    own = figures[name][next(iter(study.arms))]
    middle, low, high = own["gain"]
    # Bits for each byte fall where a model gets better.
    gain = (middle, low, high) if study.higher_is_better else (-middle, -high, -low)
    return {
        "recipe": study.recipe,
        "benchmark": study.benchmark,
        "model": model,
        "start": own["start"],
        "end": own["end"],
        **dict(zip(("gain_points", "ci_low", "ci_high"), (round(100 * part, 2) for part in gain), strict=True)),
        "higher_is_better": study.higher_is_better,
        "arms": figures,
        "num_seeds": num_seeds,
        "minutes": round(minutes, 1),
    }


if __name__ == "__main__":
    main()
