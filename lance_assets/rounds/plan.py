"""An experiment as the assets see it: its name, settings, partitions, keys and code versions."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import dagster as dg

from lance_assets.prompts import hash_templates
from lance_assets.recipes import RECIPES
from lance_assets.settings.engines import EngineSettings, RoleSettings
from lance_assets.settings.experiment import ExperimentSettings

JUDGE = "judge"
"""The role of the model that evaluates; no recipe has it."""

JUDGE_TEMPLATES = "lance"
"""Whose templates `review` and `judge_pair` it is asked with, whatever the recipe."""

GPU_POOL = "gpu"
"""The pool of every step that holds a model: one at a time on a machine."""

AFTER: dict[str, tuple[str, ...]] = {
    "start_checkpoint": (),
    "seed_set": ("start_checkpoint",),
    "raw_generations": ("start_checkpoint", "seed_set"),
    "cleaned_set": ("start_checkpoint", "seed_set", "raw_generations"),
    "reviewed_set": ("start_checkpoint", "seed_set", "raw_generations", "cleaned_set"),
    "sft_set": ("start_checkpoint", "seed_set", "reviewed_set"),
    "preference_pairs": ("start_checkpoint", "reviewed_set"),
    "diversity_report": ("start_checkpoint", "seed_set", "cleaned_set", "reviewed_set", "sft_set"),
    "checkpoint": ("start_checkpoint", "sft_set", "preference_pairs", "diversity_report"),
    "eval_report": ("start_checkpoint", "checkpoint"),
}
"""What each asset of a round is made from, within the round."""

NOUNS = ("start_checkpoint", "seed_set", "label_checkpoint", *list(AFTER)[2:])
"""Every asset of a round, in the order they are made; a label_checkpoint only where the experiment trains one."""

LIBRARIES = {
    "raw_generations": ("torch", "transformers"),
    "reviewed_set": ("torch", "transformers"),
    "start_checkpoint": (),
    "seed_set": (),
    "cleaned_set": ("rapidfuzz", "rensa", "sentence-transformers"),
    "sft_set": (),
    "preference_pairs": (),
    "diversity_report": ("numpy", "scipy"),
    "checkpoint": ("torch", "transformers", "trl", "peft"),
    "label_checkpoint": ("torch", "transformers", "trl", "peft"),
    "eval_report": ("torch", "transformers", "lm-eval"),
}
"""Whose version is part of an asset's identity."""

WHERE_TRAINING_RUNS = ("launcher", "accelerate_config", "min_free_gpu_rate", "handover_seconds")
"""Settings of training that are no part of the checkpoint's identity."""

CODE_REVISION = 1
"""Raised by hand when a change of the code changes results."""


def identify_engine(engine: EngineSettings) -> dict[str, object]:
    """What of an engine changes its samples; where it runs, how it is batched and what it costs do not."""
    identity: dict[str, object] = engine.model_dump(include={"kind", "dtype", "structured_output"})
    if engine.kind == "vllm":
        identity["max_model_len"] = engine.vllm.max_model_len
    if engine.openai is not None and engine.kind == "openai":
        identity["served"] = engine.openai.model
    return identity


@dataclass(frozen=True)
class Plan:
    """One experiment, ready to become assets."""

    name: str
    """The experiment's: asset group, key prefix, partitions and folders."""
    folder: Path
    """Where its file lies; relative paths start there."""
    settings: ExperimentSettings
    """What its file says."""

    @cached_property
    def rounds(self) -> dg.DynamicPartitionsDefinition:
        """The experiment's own rounds."""
        return dg.DynamicPartitionsDefinition(name=f"{self.name}_round")

    @property
    def trains_label_model(self) -> bool:
        """Whether the experiment has a `label_checkpoint`: the recipe needs one and no role names it."""
        return getattr(self.recipe, "TRAINS_LABEL_MODEL", False) and "label" not in self.settings.roles

    @property
    def label_model(self) -> str:
        """Under which name the label model's checkpoint is kept."""
        return f"{self.name}_label"

    def list_before(self, noun: str) -> tuple[str, ...]:
        """What an asset of a round is made from, within the round."""
        if noun == "label_checkpoint":
            return ("start_checkpoint", "seed_set")
        return (*AFTER[noun], *(["label_checkpoint"] if noun == "raw_generations" and self.trains_label_model else []))

    @property
    def roles(self) -> dict[str, RoleSettings]:
        """Every second model by its role: those of the recipe, and the evaluation's judge."""
        judge = self.settings.evaluation.judge
        return self.settings.roles | ({JUDGE: judge} if judge is not None else {})

    @property
    def recipe(self) -> ModuleType:
        """The recipe's module."""
        return RECIPES[self.settings.recipe]

    def key(self, noun: str) -> dg.AssetKey:
        """The asset key of a noun."""
        return dg.AssetKey([self.name, noun])

    def asset_arguments(self, noun: str, *, kinds: set[str], uses_model: bool = False) -> dict:
        """What every asset of the experiment has in common, for `dg.asset`."""
        return {
            "key": self.key(noun),
            "deps": [self.key(name) for name in self.list_before(noun)],
            "group_name": self.name,
            "partitions_def": self.rounds,
            "kinds": kinds,
            "owners": self.settings.owners,
            "code_version": self.code_versions[noun],
            "pool": GPU_POOL if uses_model else None,
            "tags": {"recipe": self.settings.recipe},
        }

    def identity(self, noun: str) -> dict:
        """Everything beside its inputs that changes what an asset holds: settings, templates, library versions."""
        settings = self.settings
        parameters = settings.parameters.model_dump()
        own = {name: parameters[name] for name in self.recipe.SETTINGS_OF_STEP.get(noun, ())}
        sampling = {"prompts": hash_templates(settings.prompt_profile, settings.recipe), "rng_seed": settings.rng_seed}
        asking = sampling | {"engine": identify_engine(settings.engine), "roles": self._identify_roles()}
        judged_by = self.recipe.SETTINGS_OF_JUDGING if settings.parameters.judges_pairs else ()
        judging = asking | {name: parameters[name] for name in judged_by}
        seeds, evaluation = settings.seeds, settings.evaluation
        lm_eval = evaluation.lm_eval
        guarded = {
            "held_out": evaluation.small_world.per_rung if evaluation.small_world else None,
            "protected": self._hash_files(evaluation.protected_prompts),
            "protected_field": evaluation.protected_field,
            "ngram": evaluation.ngram,
            "max_similarity": evaluation.max_similarity,
            "guard_embedder": settings.embedder.model if evaluation.max_similarity is not None else None,
        } | ({"judge": self._identify_judge_prompts()} if evaluation.judge is not None else {})
        parts: dict[str, dict] = {
            "start_checkpoint": {
                "model": settings.model,
                "revision": settings.model_revision,
                "on_regression": settings.stop.on_regression,
            },
            "seed_set": {
                "seeds": seeds.model_dump(exclude={"path", "eft_path"}) | {"content": self._hash_files(seeds.path)},
                "rng_seed": settings.rng_seed,
            }
            | guarded,
            "raw_generations": asking | {"texts": self._identify_texts()} | self._identify_reading(),
            "label_checkpoint": settings.training.model_dump(exclude={*WHERE_TRAINING_RUNS, "dpo"}) | sampling,
            "cleaned_set": {
                "embedder": settings.embedder.model,
                "near_duplicates": settings.near_duplicates.model_dump(),
            }
            | guarded,
            "reviewed_set": asking,
            "sft_set": {"eft": self._hash_files(seeds.eft_path)},
            "preference_pairs": judging if settings.parameters.judges_pairs else {},
            "diversity_report": {"rng_seed": settings.rng_seed},
            "checkpoint": settings.training.model_dump(exclude=set(WHERE_TRAINING_RUNS)) | sampling,
            "eval_report": evaluation.model_dump(
                exclude={"protected_prompts", "protected_field", "ngram", "max_similarity", "judge"}
            )
            | ({"judge": self._identify_judge()} if evaluation.judge is not None else {})
            | {"task_files": self._hash_files(lm_eval.include_path if lm_eval else None)}
            | {"engine": identify_engine(settings.engine)}
            | sampling,
        }
        judges = noun == "preference_pairs" and settings.parameters.judges_pairs
        libraries = {name: version(name) for name in LIBRARIES["reviewed_set" if judges else noun]}
        return {"recipe": settings.recipe, "code": CODE_REVISION, "settings": own | parts[noun], "libraries": libraries}

    def fingerprint(self, noun: str) -> str:
        """A hash of an asset's own identity: what it holds is a function of this and of what it is made from."""
        text = json.dumps(self.identity(noun), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def code_versions(self) -> dict[str, str]:
        """Of each asset a hash of its identity and of those it is made from, as the files were when first asked.

        Dagster calls an asset unsynced when its own code version changed, not when one before it is unsynced; so a
        changed setting has to change the code version of everything after the asset that reads it.
        """
        versions: dict[str, str] = {}
        for noun in NOUNS:
            if noun != "label_checkpoint" or self.trains_label_model:
                before = [versions[name] for name in self.list_before(noun)]
                versions[noun] = hashlib.sha256(" ".join([self.fingerprint(noun), *before]).encode()).hexdigest()[:16]
        return versions

    def _identify_texts(self) -> dict[str, object] | None:
        """The texts without prompts, where the experiment has some."""
        texts = self.settings.texts
        if texts is None:
            return None
        return texts.model_dump(exclude={"path"}) | {"content": self._hash_files(texts.path)}

    def _identify_reading(self) -> dict[str, object]:
        """Where rows are cut, for a recipe that reads them with a model."""
        reads = getattr(self.recipe, "READS_STATES", False)
        return {"max_length": self.settings.training.sft.max_length} if reads else {}

    def _identify_roles(self) -> dict[str, object]:
        """The second models with their engines and, where they have a profile of their own, its templates."""
        return {
            name: {
                "model": role.model,
                "revision": role.model_revision,
                "engine": identify_engine(role.engine),
                "prompts": hash_templates(role.prompt_profile, self.settings.recipe) if role.prompt_profile else None,
            }
            for name, role in sorted(self.settings.roles.items())
        }

    def _identify_judge_prompts(self) -> dict[str, object]:
        """Which prompts a judge evaluates."""
        judge = self.settings.evaluation.judge
        assert judge is not None, "asked for where there is a judge"
        return {"content": self._hash_files(judge.path)[0][:16], "prompt_field": judge.prompt_field}

    def _identify_judge(self) -> dict[str, object]:
        """The judge with its engine, its templates, the prompts and how it is asked."""
        judge = self.settings.evaluation.judge
        assert judge is not None, "asked for where there is a judge"
        told = judge.model_dump(exclude={"path", "prompt_field", "engine", "prompt_profile", "max_unread_rate"})
        profile = judge.prompt_profile or self.settings.prompt_profile
        templates = f"{profile} {hash_templates(profile, JUDGE_TEMPLATES)[:8]}"
        return told | self._identify_judge_prompts() | {"engine": identify_engine(judge.engine), "templates": templates}

    def _hash_files(self, name: str | None) -> list[str]:
        """The content of a file, or of every file in a folder; a missing one is told apart from none."""
        if name is None:
            return []
        path = self.folder / Path(name).expanduser()
        # what Python compiles beside a task file is no part of it
        inside = (file for file in path.rglob("*") if "__pycache__" not in file.parts) if path.is_dir() else [path]
        files = sorted(file for file in inside if file.is_file())
        return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files] or ["missing"]
