"""An experiment so small that a round of it takes seconds, with real models, and one without any model at all."""

import json
import random
from pathlib import Path

import dagster as dg

from lance_assets.assets.experiment import build_experiment, plan_experiment
from lance_assets.assets.plan import Plan
from lance_assets.assets.platform import Platform
from lance_assets.settings import ExperimentSettings
from lance_assets.small_world.jobs import draw_degraded
from lance_assets.small_world.seeds import draw_eft_rows, draw_seeds
from lance_assets.small_world.tasks import parse_prompt

NUM_SEEDS = 12
NOUNS = (
    *("start_checkpoint", "seed_set", "raw_generations", "cleaned_set", "reviewed_set", "sft_set"),
    *("preference_pairs", "checkpoint", "eval_report"),
)
CHECKS = {
    ("start_checkpoint", "is_newest"),
    ("cleaned_set", "near_duplicates"),
    ("cleaned_set", "diversity"),
    ("reviewed_set", "unscored_rate"),
    ("sft_set", "no_evaluation_overlap"),
    ("preference_pairs", "pairs_differ"),
    ("checkpoint", "loss_moved"),
    ("eval_report", "no_regression"),
}


def write_tiny_experiment(folder: Path) -> Path:
    """Seeds and EFT rows in an experiment's folder: every second seed has a wrong completion, for the low branch."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    seeds = [dict(row) for row in draw_seeds(num_seeds=40)[:NUM_SEEDS]]
    for seed in seeds[::2]:
        problem = parse_prompt(seed["prompt"])
        assert problem is not None
        seed["completion"] = draw_degraded(rng, problem).completion.rpartition("Final Answer:")[2].strip()
    for name, rows in (("seeds.jsonl", seeds), ("eft.jsonl", draw_eft_rows(num_rows=8))):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def build_tiny_settings(**changed: object) -> ExperimentSettings:
    """What the experiment's file would say; `changed` holds whole sections, or parameters of the recipe."""
    parameters = {
        **{"max_seeds": 6, "num_prompts": 2, "num_completions": 2, "num_reviews": 1},
        **{"sft_threshold": 0.0, "score_gap": 0.0, "max_new_tokens": 96},
    }
    attributes: dict[str, object] = {
        "recipe": "lance",
        "model": "small",
        "prompt_profile": "compact",
        "owners": ["team:lance"],
        "seeds": {"path": "seeds.jsonl", "answer_field": "answer", "eft_path": "eft.jsonl"},
        "engine": {"batch_size": 64, "chunk_rows": 8, "device": "cpu"},
        "training": {
            "sft": {"learning_rate": 1e-4, "num_epochs": 1, "batch_size": 8, "max_length": 256, "warmup_steps": 0},
            "dpo": {"learning_rate": 1e-5, "num_epochs": 1, "batch_size": 8, "max_length": 256, "warmup_steps": 0},
        },
        "evaluation": {"small_world": {"per_rung": 1, "max_new_tokens": 64}},
        "checks": {"max_unscored_rate": 1.0, "min_vendi_rate": 0.0, "min_pairs": 0},
        "stop": {"max_rounds": 2},
    }
    for name, value in changed.items():
        (attributes if name in ExperimentSettings.model_fields else parameters)[name] = value
    return ExperimentSettings.model_validate(attributes | {"parameters": parameters})


def plan_tiny(folder: Path, **changed: object) -> Plan:
    """The plan of the experiment in a folder that `write_tiny_experiment` wrote."""
    return plan_experiment(build_tiny_settings(**changed), folder)


def build_tiny_definitions(plan: Plan, platform: Platform) -> dg.Definitions:
    """The experiment's definitions, every step in the process of its run."""
    machines = dg.Definitions(resources={"platform": platform}, executor=dg.in_process_executor)
    return dg.Definitions.merge(build_experiment(plan), machines)
