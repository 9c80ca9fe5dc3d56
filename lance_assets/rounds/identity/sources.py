"""What an experiment begins with and no round makes: models and files, with what makes them other ones.

Each is a source that lineage begins with. What reads it is named here once.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from lance_assets.rounds.identity.installed import identify_model, read_versions
from lance_assets.rounds.identity.parts import hash_files, hash_world, identify_role
from lance_assets.rounds.plan import JUDGE, Plan

GUARDED = ("seed_set", "cleaned_set")
"""What keeps the prompts of the evaluation out, and therefore reads them."""


@dataclass(frozen=True)
class Source:
    """A model or files that rounds read."""

    name: str
    """Its name among the assets of the experiment."""
    description: str
    """What it is, in a sentence."""
    place: str
    """What the experiment's file calls it: a path, a hub id, a dotted name."""
    read_by: tuple[str, ...]
    """The nouns that read it."""
    identify: Callable[[], object]
    """What makes it another one, as JSON would hold it; read from the disk each time."""

    def compute_version(self) -> str:
        """A hash of its content as it is now, 16 hex digits."""
        text = json.dumps(self.identify(), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def list_sources(plan: Plan) -> list[Source]:
    """Every source of an experiment."""
    settings = plan.settings
    sources = [
        Source(
            "base_model",
            "The model that the first round begins with.",
            settings.model,
            ("start_checkpoint",),
            lambda: identify_model(settings.model, folder=plan.folder, revision=settings.model_revision),
        ),
        _list_file(plan, "seeds_file", "The prompts and completions of people.", settings.seeds.path, ("seed_set",)),
    ]
    if settings.seeds.eft_path is not None:
        sources.append(
            _list_file(
                plan, "eft_file", "Examples of reviewing that are trained on.", settings.seeds.eft_path, ("sft_set",)
            )
        )
    if settings.texts is not None:
        texts = "Texts without prompts."
        sources.append(_list_file(plan, "texts_file", texts, settings.texts.path, ("raw_generations",)))
    return sources + _list_roles(plan) + _list_evaluation(plan)


def _list_roles(plan: Plan) -> list[Source]:
    """The second models that are folders or of the hub; of a server's nothing is known."""
    return [
        Source(
            f"{name}_model",
            f"The second model that does the job of the role {name}.",
            role.model,
            ("eval_report",) if name == JUDGE else ("raw_generations", "reviewed_set"),
            partial(identify_role, plan, role),
        )
        for name, role in sorted(plan.roles.items())
        if role.model is not None
    ]


def _list_evaluation(plan: Plan) -> list[Source]:
    """What checkpoints are evaluated on, and what is kept out of the training for it."""
    evaluation = plan.settings.evaluation
    sources = []
    if evaluation.protected_prompts is not None:
        description = "Prompts that are kept out of the training."
        sources.append(_list_file(plan, "protected_prompts", description, evaluation.protected_prompts, GUARDED))
    if evaluation.judge is not None:
        description = "The prompts that a judge evaluates completions of."
        sources.append(_list_file(plan, "judge_prompts", description, evaluation.judge.path, (*GUARDED, "eval_report")))
    if (world := evaluation.world) is not None:
        sources.append(
            Source(
                "evaluation_world",
                "The checkable task that checkpoints are evaluated on.",
                world.name,
                (*GUARDED, "eval_report"),
                lambda: [world.name, hash_world(plan)],
            )
        )
    if (harness := evaluation.lm_eval) is not None:
        sources.append(
            Source(
                "evaluation_tasks",
                "The tasks of lm-evaluation-harness, with the files that define them.",
                ", ".join(harness.tasks),
                (*GUARDED, "eval_report"),
                lambda: [harness.tasks, hash_files(plan, harness.include_path), read_versions(("lm-eval",))],
            )
        )
    return sources


def _list_file(plan: Plan, name: str, description: str, path: str, read_by: tuple[str, ...]) -> Source:
    return Source(name, description, path, read_by, lambda: hash_files(plan, path))
