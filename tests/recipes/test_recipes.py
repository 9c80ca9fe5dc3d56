"""What every recipe has in common: public names, how the platform calls them, and which step reads which setting."""

import inspect
from types import ModuleType
from typing import Any, ClassVar

import polars as pl
import pytest

from lance_assets.assets.plan import AFTER
from lance_assets.prompts import PROFILES, list_steps
from lance_assets.recipes import RECIPES, i_sheep, self_rewarding, spin
from lance_assets.recipes.asking import RoundIdentity
from lance_assets.recipes.axes import RecipeSettings
from lance_assets.records import PREFERENCE_PAIRS, SFT_SET, Request, Sample, SamplingSettings
from tests.recipes.test_lance_recipe import seeds

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
UNREAD = {"diverse_evol": {"temperature", "top_p", "max_new_tokens"}}
"""Settings that no step reads: DiverseEvol samples nothing."""
EVERY = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


@EVERY
def test_every_recipe_has_the_same_public_names(recipe: ModuleType) -> None:
    missing = {name for name in NAMES if not hasattr(recipe, name)}
    assert not missing
    assert issubclass(recipe.SETTINGS, RecipeSettings)
    for name, (num_tables, keywords) in CALLS.items():
        inspect.signature(getattr(recipe, name)).bind(*range(num_tables), **dict.fromkeys(keywords))


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_is_read_by_a_known_step(name: str) -> None:
    recipe = RECIPES[name]
    listed = {setting for settings in recipe.SETTINGS_OF_STEP.values() for setting in settings}
    assert listed == set(recipe.SETTINGS.model_fields) - UNREAD.get(name, set())
    assert set(recipe.SETTINGS_OF_STEP) <= {*AFTER, "label_checkpoint"}
    assert set(recipe.SETTINGS_OF_JUDGING) <= listed
    for step, settings in recipe.SETTINGS_OF_STEP.items():
        assert len(set(settings)) == len(settings), f"{step} names a setting twice"


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


def watch_settings(settings: type[RecipeSettings], watch: Watch) -> RecipeSettings:
    """The defaults of a recipe, telling which of them are read."""

    class Watched(settings):  # type: ignore[valid-type, misc]
        is_watched: ClassVar[bool] = True

        def __getattribute__(self, name: str) -> Any:
            if name in settings.model_fields:
                watch.names.add(name)
            return super().__getattribute__(name)

    watched = Watched()
    watch.take()  # what its own validation read
    return watched


@pytest.mark.parametrize(
    ("recipe", "unread"),
    [(recipe, {"preference_pairs": {"losses"}}) for recipe in (spin, self_rewarding, i_sheep)],
    ids=["spin", "self_rewarding", "i_sheep"],
)
def test_each_step_reads_the_settings_it_names(recipe: ModuleType, unread: dict[str, set[str]]) -> None:
    """One round with everything watched; these have one choice of losses each."""
    watch = Watch()
    settings = watch_settings(recipe.SETTINGS, watch)
    identity, table, read = RoundIdentity("mini", "r0001", 0, "compact"), seeds({"a": None, "b": None}), {}

    def ask(stage: str, requests: list[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
        assert isinstance(sampling or settings.sampling, SamplingSettings)
        said = {"new_prompt": "Final Answer: Name one forest", "review": "score: 4"}
        return [
            Sample(request.row_id, said.get(stage, f"word{place}"), "stop", 1, 1)
            for place, request in enumerate(requests)
        ]

    taken, _ = recipe.build_seed_set(table, {}, settings=settings, identity=identity)
    read["seed_set"] = watch.take()
    raw = recipe.generate(taken, settings=settings, identity=identity, ask=ask)
    read["raw_generations"] = watch.take()
    cleaned = recipe.clean(raw, taken, settings=settings, is_evaluation_prompt=lambda prompt: False)
    read["cleaned_set"] = watch.take()
    reviewed = recipe.review(cleaned, taken, raw, settings=settings, identity=identity, ask=ask)
    assert len(reviewed)
    read["reviewed_set"] = watch.take()
    sft = recipe.start_sft_set(table, pl.DataFrame(schema=SFT_SET), settings=settings, identity=identity)
    recipe.build_sft_set(reviewed, sft, settings=settings, round_key="r0001")
    read["sft_set"] = watch.take()
    recipe.build_pairs(reviewed, pl.DataFrame(schema=PREFERENCE_PAIRS), settings=settings, round_key="r0001")
    read["preference_pairs"] = watch.take()
    named = {step: set(names) - unread.get(step, set()) for step, names in recipe.SETTINGS_OF_STEP.items()}
    assert named.pop("checkpoint") == {"starts_from"}, "which the platform reads"
    assert {step: names for step, names in read.items() if names} == {step: own for step, own in named.items() if own}
