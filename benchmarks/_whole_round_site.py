"""The experiment that `benchmarks.whole_round` runs, in a folder and a home of its own."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks._round_requests import draw_mixed_seeds
from benchmarks.evaluation import TASKS, read_lines, write_tasks
from lance_assets.home import SHIPPED
from lance_assets.rounds.experiments import load_plans
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from lance_assets.small_world import WORLD
from lance_assets.worlds import draw_problems

PROJECT_ROOT = Path(__file__).parents[1]
SOURCE = PROJECT_ROOT / "lance_assets" / "experiments" / "mini_lance"
NAME = "whole_round"
SMALL_TASKS = ("small_generation", "small_choice")
BARS = {"branch_threshold": 5.0, "sft_threshold": 3.0, "score_gap": 0.5}
"""Bars that leave every stage work, whatever a small model's reviews say: what is measured is time."""
CHECKS = {"max_unscored_rate": 1.0, "max_cut_off_rate": 1.0, "min_pairs": 0}


def write_small_tasks(folder: Path, num_items: int) -> None:
    """Two tasks of the harness over the small world's problems: to complete them, and to choose the completion."""
    problems = draw_problems(WORLD, -(-num_items // 40))[:num_items]
    answers = [problem.answer for problem in problems]
    rows = [
        {"text": problem.prompt, "answer": problem.answer, "choices": [problem.answer, answers[place - 1]]}
        for place, problem in enumerate(problems)
    ]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    prompts = [{"prompt": problem.prompt} for problem in problems]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts), encoding="utf-8")
    files = {"data_files": {"test": str(folder / "problems.jsonl")}}
    shared = {"dataset_path": "json", "dataset_kwargs": files, "test_split": "test", "doc_to_text": "{{text}}"}
    metric = {"aggregation": "mean", "higher_is_better": True}
    asked: dict[str, dict[str, Any]] = {
        "small_generation": {
            "output_type": "generate_until",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": {"until": ["\n\n\n"], "do_sample": False, "max_gen_toks": 160},
            "metric_list": [{"metric": "exact_match", **metric}],
        },
        "small_choice": {
            "output_type": "multiple_choice",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": 0,
            "metric_list": [{"metric": "acc", **metric}],
        },
    }
    for name in SMALL_TASKS:
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **shared, **asked[name]}))


def write_experiment(
    folder: Path,
    *,
    num_seeds: int,
    num_items: int,
    model: Path | None = None,
    data: Path | None = None,
    engine: Mapping[str, object] | None = None,
) -> None:
    """Write the experiment: `mini_lance` on mixed seeds, or a real model on questions of GSM8K.

    Args:
        folder: of experiments; that of this one is made in it.
        num_seeds: seeds of the round.
        num_items: items of each of the two tasks that the round is evaluated on.
        model: folder of a real model; None for the packaged small one.
        data: with a real model, the folder of `gsm8k_train.jsonl`, `gsm8k_test.jsonl` and `snips_test.jsonl`.
        engine: settings in place of the engine's.

    Raises:
        ValueError: a real model without real data, or data without a model.
    """
    if (model is None) != (data is None):
        raise ValueError("--model and --data belong together: the packaged small model knows its own world alone")
    own = folder / NAME
    shutil.copytree(SOURCE, own, ignore=shutil.ignore_patterns("__pycache__"))
    file, tasks = own / "defs.yaml", own / "tasks"
    tasks.mkdir()
    said = yaml.safe_load(file.read_text())
    settings = said["attributes"]
    settings["description"] = "LANCE as the benchmark whole_round runs it."
    settings["parameters"] |= {"max_seeds": num_seeds, **BARS, "force_ending": False}
    settings["checks"], settings["stop"] = CHECKS, {"max_rounds": 1}
    if model is None or data is None:
        write_small_tasks(tasks, num_items)
        names, headline = SMALL_TASKS, {"benchmark": "small_choice", "metric": "acc"}
        # The file spares r0000 a process of the harness that would read the same prompts.
        guarded = {"protected_prompts": "tasks/prompts.jsonl"}
        seeds = draw_mixed_seeds(num_seeds).select("prompt", "completion", "answer").to_dicts()
    else:
        write_tasks(tasks, data)
        names, headline, guarded = TASKS, {"benchmark": "choice", "metric": "acc"}, {}
        settings |= {"model": str(model.resolve()), "prompt_profile": "small"}
        # What such a model writes of a review seldom ends in a score, and a seed without one is in neither branch.
        settings["parameters"] = {"max_seeds": num_seeds, "max_new_tokens": 128, **BARS, "force_ending": True}
        settings["seeds"] = {"path": "seeds.jsonl"}
        # Reviews are short, and a few of a batch are long: more rows share the steps of those.
        settings["engine"] = {"batch_size": 128, "structured_output": "off"}
        settings["training"] = {
            "sft": {"learning_rate": 2e-5, "batch_size": 8, "max_length": 512},
            "dpo": {"learning_rate": 1e-6, "batch_size": 8, "max_length": 512},
        }
        settings["near_duplicates"] = {"lexical_threshold": 0.85, "embedding_threshold": 0.98}
        rows = read_lines(data / "gsm8k_train.jsonl")
        drawn = random.Random(0).sample(range(len(rows)), num_seeds)
        seeds = [{"prompt": rows[place]["question"], "completion": rows[place]["answer"]} for place in drawn]
    (own / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in seeds), encoding="utf-8")
    settings["engine"] |= engine or {}
    settings["evaluation"] = {
        "lm_eval": {"tasks": list(names), "include_path": "tasks", "limit": num_items, "batch_size": 32},
        "headline": [headline],
        **guarded,
    }
    file.write_text(yaml.safe_dump(said))


@dataclass(frozen=True)
class Site:
    """The experiment, and the home that its rounds lie in."""

    folder: Path
    """Of both."""

    @property
    def experiments(self) -> Path:
        """The folder of experiments."""
        return self.folder / "experiments"

    @property
    def home(self) -> Path:
        """LANCE_HOME."""
        return self.folder / "home"

    @property
    def plan(self) -> Plan:
        """The experiment's plan.

        Raises:
            ValueError: its file is wrong.
        """
        found = load_plans([self.experiments])[NAME]
        if isinstance(found, str):
            raise ValueError(found)
        return found

    def find_round(self, key: str) -> Round:
        """A round, to read what is there of it."""
        return Round(self.plan, Platform(data_root=str(self.home / "data")), key, lambda _: None)

    def run(self, *arguments: str) -> float:
        """Run the command `lance` as a user would; its seconds.

        Raises:
            RuntimeError: it failed; the message ends with the end of its output.
        """
        experiments = os.pathsep.join([str(self.experiments), SHIPPED])
        own = {"LANCE_HOME": str(self.home), "LANCE_EXPERIMENTS": experiments}
        environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"} | own
        environment["PYTHONPATH"] = str(PROJECT_ROOT)
        self.home.mkdir(parents=True, exist_ok=True)
        log, started = self.folder / "log.txt", time.monotonic()
        with log.open("ab") as out:
            code = "from lance_assets.cli.app import main; import sys; sys.argv[0] = 'lance'; main()"
            done = subprocess.run(
                [sys.executable, "-c", code, *arguments],
                cwd=PROJECT_ROOT,
                env=environment,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
            )
        if done.returncode:
            raise RuntimeError(f"lance {' '.join(arguments)} failed:\n{log.read_text(errors='replace')[-4000:]}")
        return time.monotonic() - started
