"""An experiment so small that a round of it takes seconds, with real models, and one without any model at all."""

import json
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import sqlalchemy

# What the webserver resolves `staleStatus` with; dagster has no public way to ask.
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from lance_assets.assets.graph import build_experiment
from lance_assets.assets.names import find_key
from lance_assets.assets.running.platform import PlatformResource
from lance_assets.assets.self_evolution import define_overview
from lance_assets.assets.settings import build_run_config
from lance_assets.assets.upkeep import define_upkeep
from lance_assets.rounds.experiments import plan_experiment
from lance_assets.rounds.overrides import Launch
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.round import Round
from lance_assets.settings.experiment import ExperimentSettings
from lance_assets.small_world.jobs import complete_by_guess, corrupt_answer
from lance_assets.small_world.seeds import draw_eft_rows, draw_seeds, draw_texts
from lance_assets.small_world.tasks import parse_prompt

NUM_SEEDS = 12
WORLD = {"name": "lance_assets.small_world:WORLD", "per_stratum": 1, "max_new_tokens": 64}
NOUNS = (
    *("start_checkpoint", "seed_set", "raw_generations", "cleaned_set", "reviewed_set", "sft_set"),
    *("preference_pairs", "diversity_report", "checkpoint", "eval_report"),
)
CHECKS = {
    ("start_checkpoint", "is_newest"),
    ("raw_generations", "cut_off_rate"),
    ("cleaned_set", "near_duplicates"),
    ("cleaned_set", "kept_rows"),
    ("diversity_report", "no_collapse"),
    ("reviewed_set", "unscored_rate"),
    ("reviewed_set", "scores_tell"),
    ("sft_set", "no_evaluation_overlap"),
    ("preference_pairs", "pairs_differ"),
    ("checkpoint", "loss_moved"),
    ("eval_report", "no_regression"),
    ("eval_report", "floors"),
    ("eval_report", "no_forgetting"),
}

LOOSE = {"min_gold_auc": None, "max_equal_score_rate": 1.0, "min_keep_rate": 0.0, "max_one_wording_rate": 1.0}
"""Bars that a test sets where it is about them."""

TRAINING: dict[str, object] = {
    "sft": {"learning_rate": 1e-4, "num_epochs": 1, "batch_size": 8, "max_length": 256, "warmup_steps": 0},
    "dpo": {"learning_rate": 1e-5, "num_epochs": 1, "batch_size": 8, "max_length": 256, "warmup_steps": 0},
}


def write_tiny_experiment(folder: Path) -> Path:
    """Seeds, EFT rows and texts in an experiment's folder; every second seed is wrong, for the low branch."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    seeds = [dict(row) for row in draw_seeds(num_seeds=40)[:NUM_SEEDS]]
    for seed in seeds[::2]:
        problem = parse_prompt(seed["prompt"])
        assert problem is not None
        seed["completion"] = complete_by_guess(corrupt_answer(problem, rng), rng)
    eft, texts = draw_eft_rows(num_rows=8), draw_texts(num_texts=NUM_SEEDS)
    for name, rows in (("seeds.jsonl", seeds), ("eft.jsonl", eft), ("texts.jsonl", texts)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def build_tiny_settings(**changed: object) -> ExperimentSettings:
    """What the experiment's file would say; `changed` holds whole sections, or parameters of the recipe.

    The recipe is LANCE with parameters that suit it; another one has its own defaults.
    """
    parameters: dict[str, object] = {
        **{"max_seeds": 6, "num_prompts": 2, "num_completions": 2, "num_reviews": 1},
        **{"sft_threshold": 0.0, "score_gap": 0.0, "max_new_tokens": 96},
    }
    if "recipe" in changed:
        parameters = {}
    attributes: dict[str, object] = {
        "recipe": "lance",
        "model": "small",
        "prompt_profile": "compact",
        "owners": ["team:lance"],
        "seeds": {"path": "seeds.jsonl", "answer_field": "answer", "eft_path": "eft.jsonl"},
        "engine": {"batch_size": 8, "flush_seconds": 0, "device": "cpu"},
        "training": TRAINING,
        "evaluation": {"world": WORLD},
        "checks": {"max_unscored_rate": 1.0, "min_pairs": 0},
        "num_signal_pairs": 0,
        "stop": {"max_rounds": 2},
    }
    # A scripted model has one wording, draws its scores, and is made to say the same to all.
    changed["checks"] = LOOSE | dict(changed.get("checks", attributes["checks"]))  # type: ignore[call-overload]
    for name, value in changed.items():
        (attributes if name in ExperimentSettings.model_fields else parameters)[name] = value
    return ExperimentSettings.model_validate(attributes | {"parameters": parameters})


def plan_tiny(folder: Path, **changed: object) -> Plan:
    """The plan of the experiment in a folder that `write_tiny_experiment` wrote."""
    return plan_experiment(build_tiny_settings(**changed), folder)


def build_tiny_definitions(plan: Plan, platform: PlatformResource) -> dg.Definitions:
    """The experiment's definitions, every step in the process of its run."""
    machines = dg.Definitions(resources={"platform": platform}, executor=dg.in_process_executor)
    return dg.Definitions.merge(build_experiment(plan), define_overview(plan), define_upkeep([plan]), machines)


@dataclass(frozen=True)
class World:
    """The tiny experiment with its data and its Dagster instance, all under one folder."""

    root: Path
    plan: Plan
    platform: PlatformResource
    instance: dg.DagsterInstance
    definitions: dg.Definitions

    @property
    def nouns(self) -> tuple[str, ...]:
        """The assets of a round."""
        return (*NOUNS, *(["label_checkpoint"] if self.plan.trains_label_model else []))

    def add(self, *keys: str) -> None:
        """Add rounds."""
        self.instance.add_dynamic_partitions("tiny_round", list(keys))

    def run(self, key: str, launch: Launch | None = None) -> dg.ExecuteInProcessResult:
        """Run a whole round by its job, with what a launch sets for it."""
        self.add(key)
        job = self.definitions.resolve_job_def("tiny_round")
        run_config = build_run_config("tiny__start_checkpoint", launch) if launch else None
        return job.execute_in_process(
            partition_key=key, instance=self.instance, raise_on_error=False, run_config=run_config
        )

    def materialize(
        self, key: str, *nouns: str, launch: Launch | None = None, accept: str = ""
    ) -> dg.ExecuteInProcessResult:
        """Materialize some assets of a round, with their checks, as the asset page does."""
        self.add(key)
        run_config = build_run_config("tiny__start_checkpoint", launch) if launch else None
        if accept:
            run_config = {"ops": {"tiny__checkpoint": {"config": {"accept_failed_checks": accept}}}}
        job = self.definitions.resolve_implicit_global_asset_job_def()
        return job.execute_in_process(
            partition_key=key,
            instance=self.instance,
            raise_on_error=False,
            asset_selection=[find_key(self.plan, noun) for noun in nouns],
            run_config=run_config,
        )

    def round(self, key: str) -> Round:
        """A round's tables."""
        return Round(self.plan, self.platform, key, lambda _: None)

    def find_materialization(self, noun: str, key: str) -> dg.EventLogRecord:
        """The newest one."""
        wanted = dg.AssetRecordsFilter(asset_key=find_key(self.plan, noun), asset_partitions=[key])
        (record,) = self.instance.fetch_materializations(wanted, limit=1).records
        return record

    def metadata(self, noun: str, key: str) -> dict[str, object]:
        """What a person sees on the newest materialization: plain values."""
        made = self.find_materialization(noun, key).asset_materialization
        assert made is not None
        return {name: value.value for name, value in made.metadata.items()}

    def tags(self, noun: str, key: str) -> dict[str, str]:
        """What Dagster keeps on the newest materialization, its data version and those of its inputs among them."""
        made = self.find_materialization(noun, key).asset_materialization
        assert made is not None
        return dict(made.tags)

    def versions(self, key: str) -> dict[str, str]:
        """The data version of every asset of a round, as Dagster has it."""
        return {noun: self.tags(noun, key)["dagster/data_version"] for noun in self.nouns}

    def read_bytes(self, key: str) -> dict[str, bytes]:
        """Every table of a round and every file of its checkpoint, by name."""
        folders = (self.platform.root / "tables" / "tiny" / key, self.platform.checkpoints.folder("tiny", key))
        return {file.name: file.read_bytes() for folder in folders for file in sorted(folder.iterdir())}


@contextmanager
def open_world(
    root: Path,
    *,
    made_before: Path | None = None,
    in_memory: bool = False,
    platform_class: type[PlatformResource] = PlatformResource,
    machines: dict[str, object] | None = None,
    **changed: object,
) -> Iterator[World]:
    """A world in an empty folder, or one that goes on from a copy of another's.

    Args:
        root: its folder.
        made_before: the folder of the world to go on from.
        in_memory: whether what Dagster keeps stays in memory, which halves what a scripted round takes.
        platform_class: what opens engines and the embedder.
        machines: more fields of the platform.
        changed: as for the settings.
    """
    if made_before is not None:
        shutil.copytree(made_before, root, dirs_exist_ok=True)
    write_tiny_experiment(root / "tiny")
    plan = plan_tiny(root / "tiny", **changed)
    platform = platform_class(data_root=str(root / "data"), **(machines or {}))
    (root / "dagster").mkdir(exist_ok=True)
    with dg.DagsterInstance.ephemeral() if in_memory else open_instance(root / "dagster") as instance:
        yield World(root, plan, platform, instance, build_tiny_definitions(plan, platform))


@sqlalchemy.event.listens_for(sqlalchemy.Engine, "connect")
def do_not_wait_for_the_disk(connection: object, _: object) -> None:
    """Dagster's storage commits 400 times a round, and no test needs what a power cut would lose."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF")


def open_instance(folder: Path) -> dg.DagsterInstance:
    """An instance on SQLite files, as a person's."""
    overrides = {
        "telemetry": {"enabled": False},
        # A process that outlives its test is reported at the end of all tests.
        "code_servers": {"wait_for_local_processes_on_shutdown": True},
        "run_coordinator": {"module": "dagster._core.run_coordinator", "class": "DefaultRunCoordinator"},
    }
    return dg.DagsterInstance.local_temp(str(folder), overrides=overrides)


def find_failures(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """What each failed step says to a person."""
    failures = {}
    for event in result.filter_events(lambda event: event.is_step_failure):
        data = event.step_failure_data
        told = data.user_failure_data
        error = data.error.to_string() if data.error is not None else ""
        failures[str(event.step_key)] = str(told.description) if told is not None else error
    return failures


def find_stale(world: World, key: str) -> dict[str, str]:
    """The UI's word for each asset of a round: FRESH, STALE (shown as unsynced) or MISSING."""
    graph = world.definitions.resolve_asset_graph()
    resolver = CachingStaleStatusResolver(world.instance, graph, LoadingContextForTest(world.instance))
    return {noun: resolver.get_status(find_key(world.plan, noun), key).value for noun in world.nouns}
