"""What a round is made from: an experiment with its settings and method, and how each noun of a round is declared."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from lance_assets.prompts import PromptStep, Templates, name_own_folder
from lance_assets.prompts.own_words import Asked, guess_steps, pick_own_words, read_own_words
from lance_assets.recipes.contract import AnyRecipe, find_recipe
from lance_assets.rounds.report import Judged, Made, Report
from lance_assets.settings.engines import EngineSettings, GeneratorSettings, RoleSettings
from lance_assets.settings.experiment import ExperimentSettings
from lance_assets.worlds import World, find_world

JUDGE = "judge"
"""The role of the model that evaluates; no recipe has it."""


GENERATOR = "generator_"
"""What the role of a generator begins with, before the name that the experiment gives it; no recipe has such a role."""

JUDGE_TEMPLATES = "lance"
"""The recipe whose templates `review` and `judge_pair` the judge is asked with, whatever the experiment's recipe."""

JUDGE_STEPS = (
    PromptStep("review", ("eval_report",), ("prompt", "completion"), given={"lowest": "0", "highest": "10"}),
    PromptStep("judge_pair", ("eval_report",), ("prompt", "completion_a", "completion_b")),
)
"""The steps in which a judge is asked; its scale is LANCE's, whatever scale a recipe's reviewer has."""


class Scale(Protocol):
    """A rubric of a recipe, as far as whoever asks outside the recipe has to know it."""

    @property
    def step(self) -> str:
        """The prompt template, as lance/review."""
        ...

    @property
    def lowest(self) -> int:
        """The smallest score."""
        ...

    @property
    def highest(self) -> int:
        """The largest score."""
        ...


@dataclass(frozen=True, eq=False)
class Plan:
    """One experiment, ready for its rounds.

    Two plans are never equal: what is computed of a plan once, such as its identity, belongs to that plan alone.
    """

    name: str
    """The experiment's name: of its asset group, key prefix, partitions and folders."""
    folder: Path
    """The folder of its file; relative paths start there."""
    settings: ExperimentSettings
    """What its file says, with a round's overrides where there are any."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Of the settings those that are a round's own and not the file's, by path."""

    @property
    def recipe(self) -> AnyRecipe:
        """The method that the experiment names."""
        return find_recipe(self.settings.recipe)

    @cached_property
    def own_words(self) -> dict[str, str]:
        """The experiment's own prompt templates and lists by name, as the files were when first asked."""
        return read_own_words(self.folder)

    @cached_property
    def templates(self) -> Templates:
        """The words that the round's own model is asked with, and trained with."""
        return Templates(self.settings.prompt_profile, self.settings.recipe, self.own_words)

    @cached_property
    def role_templates(self) -> dict[str, Templates]:
        """Those of the roles whose model has a prompt profile of its own, by role."""
        profiles = {name: role.prompt_profile for name, role in self.settings.roles.items() if role.prompt_profile}
        return {name: replace(self.templates, profile=profile) for name, profile in profiles.items()}

    @property
    def rubric(self) -> Scale | None:
        """What the recipe's reviews of completions are asked with; None for a recipe without reviews."""
        found: Scale | None = getattr(self.settings.parameters, "rubric", None)
        return found

    @cached_property
    def judge_templates(self) -> Templates:
        """The words that the judge is asked with: without a system message, unless the experiment has one for it."""
        judge = self.settings.evaluation.judge
        profile = (judge.prompt_profile if judge is not None else None) or self.settings.prompt_profile
        own = pick_own_words(self.own_words, JUDGE, recipe=JUDGE_TEMPLATES)
        return Templates(profile, own=own)

    @property
    def prompt_steps(self) -> tuple[PromptStep, ...]:
        """Every step of the recipe that has a template."""
        declared = self.recipe.list_prompts
        return guess_steps(self.settings.recipe) if declared is None else declared(self.settings.parameters)

    def list_templates(self, noun: str) -> list[str]:
        """The steps that a noun is asked with, as `Templates.render` takes them.

        Of a recipe that declares none, all of its steps count.
        """
        declares = self.recipe.list_prompts is not None
        asked = [step for step in self.prompt_steps if not declares or (step.is_asked and noun in step.nouns)]
        return [f"{self.settings.recipe}/{step.name}" for step in asked]

    @property
    def asked(self) -> tuple[Asked, ...]:
        """What asks with templates: the recipe, then the judge where there is one."""
        own = (self.templates, *self.role_templates.values())
        recipe = Asked(name_own_folder(self.settings.recipe), self.settings.recipe, self.prompt_steps, own)
        judge = Asked(JUDGE, JUDGE_TEMPLATES, JUDGE_STEPS, (self.judge_templates,))
        return (recipe, judge) if self.settings.evaluation.judge is not None else (recipe,)

    @property
    def world(self) -> World | None:
        """The checkable task that checkpoints are evaluated on, where there is one."""
        named = self.settings.evaluation.world
        return find_world(named.name, self.folder) if named is not None else None

    @property
    def trains_label_model(self) -> bool:
        """Whether the experiment has a `label_checkpoint`: the recipe needs one and no role names it."""
        return self.recipe.trains_label_model and "label" not in self.settings.roles

    @property
    def label_model(self) -> str:
        """The name under which the label model's checkpoint is kept."""
        return f"{self.name}_label"

    @property
    def roles(self) -> dict[str, RoleSettings]:
        """Every second model by its role: those of the recipe, the generators, and the evaluation's judge."""
        judge = self.settings.evaluation.judge
        return {**self.settings.roles, **self.generators, **({JUDGE: judge} if judge is not None else {})}

    @property
    def generators(self) -> dict[str, GeneratorSettings]:
        """The models that write a share of the completions, each under a role of its own."""
        return {f"{GENERATOR}{name}": one for name, one in self.settings.generators.items()}


def always(plan: Plan) -> bool:
    """For what holds in every experiment."""
    return True


def asks_people(plan: Plan) -> bool:
    """Whether people decide about rows of an experiment's rounds."""
    return plan.settings.human_review != "none"


def _never(plan: Plan) -> bool:
    return False


def _nothing(plan: Plan) -> dict[str, Any]:
    return {}


def _as_they_are(plan: Plan, round_key: str, settings: dict[str, Any]) -> dict[str, Any]:
    return settings


def _nobody(plan: Plan) -> Sequence[EngineSettings]:
    return ()


def _no_names(plan: Plan) -> tuple[str, ...]:
    return ()


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
    further_inputs: Callable[[Plan], tuple[str, ...]] = _no_names
    """Nouns that it is made from in some experiments alone."""
    tables: Mapping[str, pl.Schema] = field(default_factory=dict)
    """Further tables that belong to it, by name."""
    exists: Callable[[Plan], bool] = always
    """Whether an experiment has it."""
    is_handed_over: bool = False
    """Whether later rounds read it: it is then part of what a round starts from."""
    is_decided_by_people: bool = False
    """Whether people decide what it holds: its step may end without it, and another decision makes it another one. Its
    module then has `is_current_<noun>`, whether decisions are those that it was made of, and `find_decisions_version`,
    which says what the decisions of a round are known by."""
    is_gated: bool = False
    """Whether it is made only where every blocking check of all that it is made from has passed."""
    identify: Callable[[Plan], dict[str, Any]] = _nothing
    """What changes it beside its inputs and the recipe's parameters."""
    settle: Callable[[Plan, str, dict[str, Any]], dict[str, Any]] = _as_they_are
    """The settings of its identity as they are in one round, given all of them and the round's key."""
    recipe_steps: Callable[[Plan], tuple[str, ...]] = _no_names
    """The recipe's functions that its maker runs, where a recipe has them."""
    asks: Callable[[Plan], Sequence[EngineSettings]] = _nobody
    """The engines that its maker asks."""
    chosen_code: Callable[[Plan], Sequence[str]] = _no_names
    """Further code that its maker runs because the experiment's file names it, as `package.module:name`."""
    libraries: Callable[[Plan], tuple[str, ...]] = _no_names
    """The packages whose version is part of its identity, beside those of the engines."""
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

    def finish(self, this_round: object) -> Report:
        """Do what follows once the noun is stored, and say what was done; nothing where its module has no such thing.

        It is done again where a step that was broken off after its last write is taken up.
        """
        finish = self.find_function(f"finish_{self.name}")
        return {} if finish is None else finish(this_round)

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
