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
from lance_assets.settings import ExperimentSettings

GPU_POOL = "gpu"
"""The pool of every step that holds a model: one at a time on a machine."""

LIBRARIES = {
    "raw_generations": ("torch", "transformers"),
    "reviewed_set": ("torch", "transformers"),
    "cleaned_set": ("rapidfuzz", "sentence-transformers"),
    "checkpoint": ("torch", "transformers", "trl", "peft"),
    "eval_report": ("torch", "transformers", "lm-eval"),
}
"""Whose version is part of an asset's identity."""

CODE_REVISION = 1
"""Raised by hand when a change of the code changes results."""


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
    def recipe(self) -> ModuleType:
        """The recipe's module."""
        return RECIPES[self.settings.recipe]

    @property
    def seeds_path(self) -> Path:
        """The seed file."""
        return self.folder / self.settings.seeds.path

    def key(self, noun: str) -> dg.AssetKey:
        """The asset key of a noun."""
        return dg.AssetKey([self.name, noun])

    def asset_arguments(self, noun: str, *, after: tuple[str, ...], kinds: set[str], uses_model: bool = False) -> dict:
        """What every asset of the experiment has in common, for `dg.asset`."""
        return {
            "key": self.key(noun),
            "deps": [self.key(name) for name in after],
            "group_name": self.name,
            "partitions_def": self.rounds,
            "kinds": kinds,
            "owners": self.settings.owners,
            "code_version": self.fingerprint(noun),
            "pool": GPU_POOL if uses_model else None,
            "tags": {"recipe": self.settings.recipe},
        }

    def identity(self, noun: str) -> dict:
        """Everything beside its inputs that changes what an asset holds: settings, templates, library versions."""
        settings = self.settings
        parameters = settings.parameters.model_dump()
        own = {name: parameters[name] for name in self.recipe.SETTINGS_OF_STEP.get(noun, ())}
        sampling = {"prompts": hash_templates(settings.prompt_profile), "rng_seed": settings.rng_seed}
        seeds = settings.seeds.model_dump() | {
            "content": self._hash_files(settings.seeds.path, settings.seeds.eft_path)
        }
        parts: dict[str, dict] = {
            "start_checkpoint": {
                "model": settings.model,
                "revision": settings.model_revision,
                "on_regression": settings.stop.on_regression,
            },
            "seed_set": {"seeds": seeds, "rng_seed": settings.rng_seed},
            "raw_generations": sampling,
            "cleaned_set": {
                "embedder": settings.embedder.model,
                "max_history_similarity": settings.checks.max_history_similarity,
                "evaluation": settings.evaluation.model_dump(),
            },
            "reviewed_set": sampling,
            "sft_set": {"eft": self._hash_files(settings.seeds.eft_path)},
            "preference_pairs": {},
            "checkpoint": settings.training.model_dump(exclude={"launcher"}) | sampling,
            "eval_report": settings.evaluation.model_dump() | sampling,
        }
        libraries = {name: version(name) for name in LIBRARIES.get(noun, ())}
        return {"recipe": settings.recipe, "code": CODE_REVISION, "settings": own | parts[noun], "libraries": libraries}

    def fingerprint(self, noun: str) -> str:
        """The code version of an asset: a hash of its identity."""
        text = json.dumps(self.identity(noun), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _hash_files(self, *names: str | None) -> list[str]:
        paths = [self.folder / name for name in names if name is not None]
        return [hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing" for path in paths]
