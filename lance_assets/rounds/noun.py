"""What is declared of a noun, an asset of every round."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from lance_assets.rounds.plan import Plan
from lance_assets.rounds.report import Judged, Made, Report
from lance_assets.settings.engines import EngineSettings


def always(plan: Plan) -> bool:
    """For what holds in every experiment."""
    return True


def _never(plan: Plan) -> bool:
    return False


def _nothing(plan: Plan) -> dict[str, Any]:
    return {}


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
    tables: Mapping[str, pl.Schema] = field(default_factory=dict)
    """Further tables that belong to it, by name."""
    exists: Callable[[Plan], bool] = always
    """Whether an experiment has it."""
    is_handed_over: bool = False
    """Whether later rounds read it: it is then part of what a round starts from."""
    identify: Callable[[Plan], dict[str, Any]] = _nothing
    """What changes it beside its inputs and the recipe's parameters."""
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
