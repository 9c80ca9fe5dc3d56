"""What every recipe has in common: public names, how the platform calls them, and which step reads which setting."""

import inspect
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest

from lance_assets.prompts import PROFILES, list_steps
from lance_assets.recipes import RECIPES, diverse_evol, i_sheep, llm2llm, self_rewarding, spin
from lance_assets.recipes.axes import AxisSettings, RecipeSettings
from lance_assets.records import Request, Sample, SamplingSettings
from lance_assets.rounds.nouns import NOUNS
from tests.recipes.scripted_round import EFT, NO_PAIRS, identify, seeds

NAMES = {
    *("generate", "clean", "review", "build_sft_set", "build_pairs", "build_seed_set", "start_sft_set"),
    *("SETTINGS", "ROLES", "ROLE_OF_STAGE", "SETTINGS_OF_STEP", "SETTINGS_OF_JUDGING"),
}
CALLS: dict[str, tuple[int, set[str]]] = {
    "build_seed_set": (2, {"settings", "identity"}),
    "start_sft_set": (2, {"settings", "identity"}),
    "generate": (1, {"settings", "identity", "ask", "trained", "texts", "read_states"}),
    "clean": (2, {"settings", "is_evaluation_prompt"}),
    "review": (3, {"settings", "identity", "ask"}),
    "build_sft_set": (2, {"settings", "round_key"}),
    "build_pairs": (2, {"settings", "round_key"}),
}
"""How many tables the platform gives each function, and what by keyword."""
EVERY = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


@EVERY
def test_every_recipe_has_the_same_public_names(recipe: ModuleType) -> None:
    missing = {name for name in NAMES if not hasattr(recipe, name)}
    assert not missing
    assert issubclass(recipe.SETTINGS, AxisSettings)
    for name, (num_tables, keywords) in CALLS.items():
        inspect.signature(getattr(recipe, name)).bind(*range(num_tables), **dict.fromkeys(keywords))


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_is_read_by_a_known_step(name: str) -> None:
    recipe = RECIPES[name]
    listed = {setting for settings in recipe.SETTINGS_OF_STEP.values() for setting in settings}
    assert listed == set(recipe.SETTINGS.model_fields)
    assert set(recipe.SETTINGS_OF_STEP) <= set(NOUNS)
    assert set(recipe.SETTINGS_OF_JUDGING) <= listed
    for step, settings in recipe.SETTINGS_OF_STEP.items():
        assert len(set(settings)) == len(settings), f"{step} names a setting twice"


def test_a_recipe_says_how_it_samples_unless_it_asks_no_model() -> None:
    silent = [name for name, recipe in RECIPES.items() if not issubclass(recipe.SETTINGS, RecipeSettings)]
    assert silent == ["diverse_evol"]


@EVERY
def test_stages_name_roles_that_an_experiment_may_give(recipe: ModuleType) -> None:
    assert set(recipe.ROLE_OF_STAGE.values()) == set(recipe.ROLES)
    assert len(set(recipe.ROLES)) == len(recipe.ROLES)


@EVERY
def test_defaults_can_be_had_and_every_setting_is_described(recipe: ModuleType) -> None:
    recipe.SETTINGS()
    own = {
        name: field for name, field in recipe.SETTINGS.model_fields.items() if name not in RecipeSettings.model_fields
    }
    assert not [name for name, field in own.items() if not field.description]


@pytest.mark.parametrize("profile", PROFILES)
def test_templates_belong_to_recipes(profile: str) -> None:
    asked = {name: list_steps(profile, name) for name in RECIPES}
    assert [name for name, steps in asked.items() if not steps] == ["diverse_evol", "spin"], "these ask no template"


class Watch:
    """Which settings were read since it was last asked."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def take(self) -> set[str]:
        names, self.names = self.names, set()
        return names


def watch_settings(settings: type[AxisSettings], watch: Watch, **given: object) -> AxisSettings:
    """The settings of a recipe, telling which of them are read."""

    class Watched(settings):  # type: ignore[valid-type, misc]
        is_watched: ClassVar[bool] = True

        def __getattribute__(self, name: str) -> Any:
            if name in settings.model_fields:
                watch.names.add(name)
            return super().__getattribute__(name)

    watched = Watched(**given)
    watch.take()  # what its own validation read
    return watched


SAID = {
    "new_prompt": "Final Answer: Name one forest",
    "review": "score: 4",
    "lesson1": "1. Question: Name one forest\nAnswer: It is one.\n#### 1",
    "lesson_prompt1": "Final Answer: Name one forest",
    "lesson_completion1": "#### 1",
}
"""What models say in a stage; elsewhere a word each."""


class Reader:
    """Sees each row at its place."""

    def embed(self, rows: list) -> np.ndarray:
        return np.arange(len(rows), dtype=np.float32)[:, None]

    def close(self) -> None:
        pass


POOL_ROW = {"num_first": 1, "num_picks": 1}
IN_TURN = {"teacher_writes": "prompt_then_completion"}


@pytest.mark.parametrize(
    ("recipe", "given", "unread"),
    [
        *((recipe, {}, {}) for recipe in (spin, self_rewarding, i_sheep)),
        (diverse_evol, POOL_ROW, {}),
        (llm2llm, {}, {"raw_generations": {"num_votes", "min_agreement"}}),
        (llm2llm, IN_TURN, {"raw_generations": {"show_mistake"}}),
    ],
    ids=["spin", "self_rewarding", "i_sheep", "diverse_evol", "llm2llm", "llm2llm_in_turn"],
)
def test_each_step_reads_the_settings_it_names(
    recipe: ModuleType, given: dict[str, object], unread: dict[str, set[str]]
) -> None:
    """One round with everything watched; these have one choice of losses each."""
    watch = Watch()
    settings = watch_settings(recipe.SETTINGS, watch, **given)
    identity, table, read = identify(), seeds({"a": None, "b": None}), {}

    def ask(stage: str, requests: list[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
        assert isinstance(sampling or settings.sampling, SamplingSettings)
        return [
            Sample(request.row_id, SAID.get(stage, f"word{place}"), "stop", 1, 1)
            for place, request in enumerate(requests)
        ]

    trained = recipe.start_sft_set(table, EFT, settings=settings, identity=identify("r0000"))
    read["sft_set"] = watch.take()
    taken, _ = recipe.build_seed_set(table, {}, settings=settings, identity=identity)
    read["seed_set"] = watch.take()
    asking = {"ask": ask, "trained": trained, "read_states": lambda **_: Reader()}
    raw = recipe.generate(taken, settings=settings, identity=identity, **asking)
    read["raw_generations"] = watch.take()
    cleaned = recipe.clean(raw, taken, settings=settings, is_evaluation_prompt=lambda prompt: False)
    read["cleaned_set"] = watch.take()
    reviewed = recipe.review(cleaned, taken, raw, settings=settings, identity=identity, ask=ask)
    assert len(reviewed)
    read["reviewed_set"] = watch.take()
    recipe.build_sft_set(reviewed, trained, settings=settings, round_key="r0001")
    read["sft_set"] |= watch.take()
    recipe.build_pairs(reviewed, NO_PAIRS, settings=settings, round_key="r0001")
    read["preference_pairs"] = watch.take()
    never = {"preference_pairs": {"losses"}} | unread
    named = {step: set(names) - never.get(step, set()) for step, names in recipe.SETTINGS_OF_STEP.items()}
    assert named.pop("checkpoint") == {"starts_from"}, "which the platform reads"
    assert {step: names for step, names in read.items() if names} == {step: own for step, own in named.items() if own}
