"""The one table of nouns: every asset of a round is declared here once.

Assets, jobs, checks, studies, hand-over between rounds and code versions are built from it. A further noun is one more
declaration in `NOUNS`, and a module with

* `make_<noun>(this_round) -> Made`, which returns the noun's table;
* `report_<noun>(this_round) -> Report`, optional: what a person sees of it, from the stored tables;
* a function for each of its checks, by the check's name, `(this_round) -> Judged`.

The module is named and not imported, so that loading the definitions imports neither torch nor LanceDB, and a step's
process imports only what makes its noun.
"""

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import polars as pl

from lance_assets import records
from lance_assets.rounds import identity
from lance_assets.rounds.identity import Identity
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.report import Judged, Made, Report

CODE_REVISION = 1
"""Raised by hand when a change of the code changes results."""


def _always(plan: Plan) -> bool:
    return True


def _never(plan: Plan) -> bool:
    return False


def _nothing(plan: Plan) -> Identity:
    return {}


@dataclass(frozen=True)
class Check:
    """A check of a noun."""

    name: str
    """The check's name in the UI, and that of its function in the noun's module."""
    description: str
    """What has to hold, in a sentence."""
    is_blocking: bool = False
    """Whether a failure keeps what depends on the noun from being made in the same run."""


@dataclass(frozen=True)
class Noun:
    """One asset of every round."""

    name: str
    """The name of the asset and of its table."""
    description: str
    """What it holds, in a sentence for the UI."""
    made_by: str
    """The module that makes it."""
    schema: pl.Schema
    """The schema of its table."""
    inputs: tuple[str, ...] = ()
    """The nouns of the same round that it is made from; those an experiment does not have are left out."""
    tables: Mapping[str, pl.Schema] = field(default_factory=dict)
    """Further tables that belong to it, by name."""
    exists: Callable[[Plan], bool] = _always
    """Whether an experiment has it."""
    is_handed_over: bool = False
    """Whether later rounds read it: it is then part of what a round starts from."""
    identify: Callable[[Plan], Identity] = _nothing
    """What changes it beside its inputs and the recipe's parameters."""
    libraries: tuple[str, ...] = ()
    """The packages whose version is part of its identity."""
    uses_model: Callable[[Plan], bool] = _never
    """Whether it holds a model in memory: such steps run one at a time on a machine."""
    kinds: Callable[[Plan], set[str]] = lambda plan: {"polars", "parquet"}
    """What the UI shows beside its name, at most three."""
    checks: tuple[Check, ...] = ()
    """What is checked once it is made."""

    def find_function(self, name: str) -> Callable[..., Any] | None:
        """A function of the noun's module; None where it has none of that name. The first use imports the module."""
        found: Callable[..., Any] | None = getattr(importlib.import_module(self.made_by), name, None)
        return found

    def make(self, this_round: object) -> Made:
        """Make the noun.

        Args:
            this_round: the `lance_assets.rounds.round.Round`.

        Raises:
            ValueError: its module has no function that makes it.
        """
        make = self.find_function(f"make_{self.name}")
        if make is None:
            raise ValueError(f"{self.made_by} has no function make_{self.name}, which would make the noun {self.name}")
        made: Made = make(this_round)
        return made

    def report(self, this_round: object) -> Report:
        """What a person sees of the noun once it is made; nothing where its module has no report."""
        report = self.find_function(f"report_{self.name}")
        return {} if report is None else report(this_round)

    def judge(self, check: Check, this_round: object) -> Judged:
        """What a check of the noun finds.

        Raises:
            ValueError: its module has no function of the check's name.
        """
        judge = self.find_function(check.name)
        if judge is None:
            raise ValueError(f"{self.made_by} has no function {check.name}, the check of {self.name}")
        judged: Judged = judge(this_round)
        return judged


MAKING = "lance_assets.rounds.making"
"""The room of the makers."""

ASKING = ("torch", "transformers")
TRAINING = ("torch", "transformers", "trl", "peft")


def _judges_pairs(plan: Plan) -> bool:
    return plan.settings.parameters.judges_pairs


def _reports_vendi(plan: Plan) -> bool:
    return plan.recipe.reports_vendi


NOUNS: dict[str, Noun] = {
    noun.name: noun
    for noun in (
        Noun(
            "start_checkpoint",
            "What the round begins with: the base model in r0000, afterwards the checkpoint of the round before.",
            f"{MAKING}.proposing",
            records.START_CHECKPOINT,
            identify=identity.identify_start,
            kinds=lambda plan: {"safetensors"},
            checks=(Check("is_newest", "The parent's checkpoint was not trained again since this round began."),),
        ),
        Noun(
            "seed_set",
            "The experiment's seeds and what earlier rounds added, sampled down to the round's size.",
            f"{MAKING}.proposing",
            records.SEED_SET,
            inputs=("start_checkpoint",),
            is_handed_over=True,
            identify=identity.identify_seeds,
        ),
        Noun(
            "label_checkpoint",
            "The base model after SFT on the seeds, completion to prompt.",
            f"{MAKING}.training",
            records.CHECKPOINT,
            inputs=("start_checkpoint", "seed_set"),
            tables={"label_set": records.SFT_SET},
            exists=lambda plan: plan.trains_label_model,
            is_handed_over=True,
            identify=identity.identify_label_training,
            libraries=TRAINING,
            uses_model=_always,
            kinds=lambda plan: {"pytorch", "huggingface"},
        ),
        Noun(
            "raw_generations",
            "Every sampled prompt and completion with its raw text, finish reason, token counts and sampling seed.",
            f"{MAKING}.proposing",
            records.RAW_GENERATIONS,
            inputs=("start_checkpoint", "seed_set", "label_checkpoint"),
            identify=identity.identify_generations,
            libraries=ASKING,
            uses_model=_always,
            kinds=lambda plan: {plan.settings.engine.kind, "parquet"},
        ),
        Noun(
            "cleaned_set",
            "Kept rows, and every dropped row with its reason; kept texts are embedded into LanceDB under this round.",
            f"{MAKING}.cleaning",
            records.CLEANED_SET,
            inputs=("start_checkpoint", "seed_set", "raw_generations"),
            tables={"near_duplicates": records.NEAR_DUPLICATES},
            is_handed_over=True,
            identify=identity.identify_cleaning,
            libraries=("rapidfuzz", "rensa", "sentence-transformers"),
            uses_model=_always,
            kinds=lambda plan: {"polars", "lancedb"},
            checks=(
                Check(
                    "near_duplicates",
                    "No kept text is a near-duplicate of another of this round or of any earlier one.",
                    is_blocking=True,
                ),
            ),
        ),
        Noun(
            "reviewed_set",
            "Each row with all raw reviews and their parsed scores, or unscored with a reason.",
            f"{MAKING}.reviewing",
            records.REVIEWED_SET,
            inputs=("start_checkpoint", "seed_set", "raw_generations", "cleaned_set"),
            is_handed_over=True,
            identify=identity.identify_asking,
            libraries=ASKING,
            uses_model=_always,
            kinds=lambda plan: {"transformers", "parquet"},
            checks=(
                Check(
                    "unscored_rate",
                    "The share of reviews that could not be read, and of rows without any score, is below the bar.",
                    is_blocking=True,
                ),
            ),
        ),
        Noun(
            "sft_set",
            "What SFT trains on: completions that were accepted, each pointing to the row it came from.",
            f"{MAKING}.training_sets",
            records.SFT_SET,
            inputs=("start_checkpoint", "seed_set", "reviewed_set"),
            is_handed_over=True,
            identify=identity.identify_sft_set,
            uses_model=_reports_vendi,
            checks=(
                Check(
                    "no_evaluation_overlap",
                    "No prompt belongs to the evaluation: by its task's own rule, by n-grams, by embedding.",
                    is_blocking=True,
                ),
            ),
        ),
        Noun(
            "preference_pairs",
            "Chosen and rejected completions of one prompt, with the reviewed rows and scores they come from.",
            f"{MAKING}.training_sets",
            records.PREFERENCE_PAIRS,
            inputs=("start_checkpoint", "reviewed_set"),
            tables={"pair_judgements": records.PAIR_JUDGEMENTS},
            is_handed_over=True,
            identify=identity.identify_pairs,
            uses_model=_judges_pairs,
            kinds=lambda plan: {"transformers" if _judges_pairs(plan) else "polars", "parquet"},
            checks=(
                Check(
                    "pairs_differ",
                    "No pair has equal texts or scores or an evaluation prompt, and the round brings enough pairs.",
                    is_blocking=True,
                ),
            ),
        ),
        Noun(
            "diversity_report",
            "Novelty, Vendi score, distinct words, evenness, lengths and the share of seeds, over all rounds so far.",
            f"{MAKING}.training_sets",
            records.DIVERSITY_REPORT,
            inputs=("start_checkpoint", "seed_set", "cleaned_set", "reviewed_set", "sft_set"),
            identify=identity.identify_diversity,
            libraries=("numpy", "scipy"),
            kinds=lambda plan: {"polars"},
            checks=(
                Check(
                    "no_collapse", "Every measure keeps the floor that the experiment sets for it.", is_blocking=True
                ),
            ),
        ),
        Noun(
            "checkpoint",
            "The model after SFT and DPO on the round's sets: weights, tokenizer and loss curves.",
            f"{MAKING}.training",
            records.CHECKPOINT,
            inputs=("start_checkpoint", "sft_set", "preference_pairs", "diversity_report"),
            identify=identity.identify_training,
            libraries=TRAINING,
            uses_model=_always,
            kinds=lambda plan: {"pytorch", "huggingface"},
            checks=(
                Check(
                    "loss_moved",
                    "Losses are finite and not constant, and the weights moved if anything was trained.",
                ),
            ),
        ),
        Noun(
            "eval_report",
            "Scores with 95% intervals, by rule or by a judge, against the round before, the best and the backbone.",
            f"{MAKING}.evaluating",
            records.EVAL_REPORT,
            inputs=("start_checkpoint", "checkpoint"),
            tables={"eval_items": records.EVAL_ITEMS, "judge_items": records.JUDGE_ITEMS},
            identify=identity.identify_evaluation,
            libraries=("torch", "transformers", "lm-eval"),
            uses_model=_always,
            kinds=lambda plan: {"parquet"},
            checks=(
                Check(
                    "no_regression",
                    "The 95% interval of the difference to the best earlier round does not lie wholly below zero.",
                ),
            ),
        ),
    )
}
"""Every noun, in the order in which they are made."""


def list_schemas() -> dict[str, pl.Schema]:
    """The schema of every table of a round by its name."""
    return {name: schema for noun in NOUNS.values() for name, schema in {noun.name: noun.schema, **noun.tables}.items()}


def list_nouns(plan: Plan) -> list[Noun]:
    """The nouns of an experiment, in the order in which they are made."""
    return [noun for noun in NOUNS.values() if noun.exists(plan)]


def list_inputs(plan: Plan, noun: Noun) -> list[str]:
    """What a noun is made from in this experiment, within the round."""
    return [name for name in noun.inputs if NOUNS[name].exists(plan)]


def list_handed_over(plan: Plan) -> list[str]:
    """What later rounds read of a round, beside its checkpoint."""
    return [noun.name for noun in list_nouns(plan) if noun.is_handed_over]


def identify(plan: Plan, name: str) -> Identity:
    """Everything beside its inputs that changes what a noun holds: settings, templates, library versions."""
    noun, parameters = NOUNS[name], plan.settings.parameters.model_dump()
    own = {setting: parameters[setting] for setting in plan.recipe.settings_of_step.get(name, ())}
    libraries = ASKING if name == "preference_pairs" and _judges_pairs(plan) else noun.libraries
    return {
        "recipe": plan.settings.recipe,
        "code": CODE_REVISION,
        "settings": own | noun.identify(plan),
        "libraries": {library: version(library) for library in libraries},
    }


def compute_fingerprint(plan: Plan, name: str) -> str:
    """A hash of a noun's own identity: what it holds is a function of this and of what it is made from."""
    text = json.dumps(identify(plan, name), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def compute_code_versions(plan: Plan) -> dict[str, str]:
    """Of each noun a hash of its identity and of those it is made from, as the files are now.

    Dagster calls an asset unsynced when its own code version changed, not when one before it is unsynced; so a
    changed setting has to change the code version of everything after the asset that reads it.
    """
    versions: dict[str, str] = {}
    for noun in list_nouns(plan):
        before = [versions[name] for name in list_inputs(plan, noun)]
        text = " ".join([compute_fingerprint(plan, noun.name), *before])
        versions[noun.name] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return versions
