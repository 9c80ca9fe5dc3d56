"""What every recipe has in common: what it declares, how it is found, and which step reads which setting."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest

from lance_assets.algorithms.verifying.verdict import RowVerifier, Verdict
from lance_assets.prompts import PROFILES, list_steps
from lance_assets.recipes.axes import SAMPLING, AxisSettings, RecipeSettings
from lance_assets.recipes.contract import ROUND_MODEL, AnyRecipe, RoundInputs, Stage, find_recipe, list_recipes
from lance_assets.records import Request, Sample, SamplingSettings, SeedPlaces
from lance_assets.rounds.nouns import NOUNS
from tests.recipes.scripted_round import EFT, NO_PAIRS, build_inputs, identify, seeds

NAMES = [
    *("clear", "cllm", "diverse_evol", "i_sheep", "kun", "lance", "llm2llm", "r_zero", "rft"),
    *("self_guide", "self_rewarding", "spin", "star", "trace"),
]
EVERY = pytest.mark.parametrize("recipe", list_recipes(), ids=[recipe.name for recipe in list_recipes()])
ROLES = {
    "self_guide": (),
    "clear": ("reviewer",),
    "trace": (),
    "r_zero": ("challenger",),
    "cllm": (),
    **{"diverse_evol": (), "i_sheep": (), "spin": (), "lance": ("reviewer",), "llm2llm": ("teacher",)},
    **{"kun": ("label", "reviewer"), "self_rewarding": ("prompter", "reviewer"), "rft": (), "star": ()},
}


def test_every_recipe_is_found_by_its_modules_name() -> None:
    assert [recipe.name for recipe in list_recipes()] == NAMES
    assert [find_recipe(name) for name in NAMES] == list(list_recipes())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("lanse", r"there is no recipe 'lanse'; choose one of clear, .*, trace, or name a module of your own"),
        ("axes", "there is no recipe 'axes'"),
        ("no_such.method", r"there is no module no_such.method \(no 'no_such' can be imported\)"),
        ("lance_assets.no_such", "there is no module lance_assets.no_such"),
        ("lance_assets.records", "the module lance_assets.records has no RECIPE; end it with RECIPE = Recipe"),
    ],
)
def test_a_recipe_that_there_is_not_is_told_with_those_there_are(name: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        find_recipe(name)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("RECIPE = 3", r"odd_methods.method.RECIPE must be a .*contract.Recipe, got 3"),
        (
            "from lance_assets.recipes.spin import RECIPE",
            "RECIPE must have the name 'method' of its module, got 'spin'",
        ),
    ],
)
def test_what_is_no_recipe_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, told: str) -> None:
    (tmp_path / "odd_methods").mkdir()
    (tmp_path / "odd_methods" / "method.py").write_text(line + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("odd_methods", "odd_methods.method"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ValueError, match=told):
        find_recipe("odd_methods.method")


def test_what_a_recipe_does_not_have_has_a_default() -> None:
    """SPIN has nothing but the steps; every optional capability is on in some recipe."""
    spin = find_recipe("spin")
    assert (spin.judge_pairs, spin.build_label_rows, spin.settings_of_judging) == (None, None, ())
    assert (spin.needs_texts, spin.reports_vendi, spin.trains_label_model) == (False,) * 3
    inputs, nothing = build_inputs(spin.settings()), pl.DataFrame()
    assert spin.describe_generations(inputs, nothing) == spin.describe_reviews(inputs, nothing) == {}
    planned = {recipe.name for recipe in list_recipes() if recipe.forecast is not None}
    assert planned >= {"diverse_evol", "i_sheep", "kun", "lance", "llm2llm", "self_rewarding", "spin"}
    assert planned >= {"clear", "self_guide", "trace"}
    assert {recipe.name for recipe in list_recipes() if recipe.trains_label_model or recipe.needs_texts} == {"kun"}
    assert {recipe.name for recipe in list_recipes() if recipe.needs_verifier} == {"rft", "star"}
    assert {recipe.name for recipe in list_recipes() if recipe.reports_vendi} == {"diverse_evol"}
    assert {recipe.name for recipe in list_recipes() if recipe.settings().reads_states} == {"diverse_evol"}
    assert find_recipe("kun").settings(max_text_perplexity=30.0).reads_states


def test_what_a_step_was_not_given_it_can_not_use() -> None:
    inputs = RoundInputs(identify(), AxisSettings())
    with pytest.raises(RuntimeError, match="this step asks no model, but its recipe asked the stage 'review'"):
        inputs.ask("review", [])
    with pytest.raises(RuntimeError, match="this step reads no states"):
        inputs.read_states(of_base=True)
    with pytest.raises(RuntimeError, match="nothing was given that recognises evaluation prompts"):
        inputs.is_evaluation_prompt("Sort 3 1 2.")
    assert inputs.texts.columns == ["row_id", "text"]
    assert inputs.texts.is_empty()


@EVERY
def test_every_setting_is_read_by_a_known_step(recipe: AnyRecipe) -> None:
    listed = {setting for settings in recipe.settings_of_step.values() for setting in settings}
    # The platform knows which step asks which stage.
    assert listed == set(recipe.settings.model_fields) - set(SAMPLING)
    assert set(recipe.settings_of_step) <= set(NOUNS)
    assert set(recipe.settings_of_judging) <= listed
    for step, settings in recipe.settings_of_step.items():
        assert len(set(settings)) == len(settings), f"{step} names a setting twice"


def test_a_recipe_says_how_it_samples_unless_it_asks_no_model() -> None:
    silent = [recipe.name for recipe in list_recipes() if not issubclass(recipe.settings, RecipeSettings)]
    assert silent == [recipe.name for recipe in list_recipes() if not recipe.stages] == ["diverse_evol", "trace"]
    with pytest.raises(ValueError, match="the stages ask have no sampling, and DiverseEvolSettings has none either"):
        replace(find_recipe("diverse_evol"), stages=(Stage("ask"),))
    greedy = replace(find_recipe("diverse_evol"), stages=(Stage("ask", sampling=lambda _: SamplingSettings(0, 1, 9)),))
    assert greedy.find_sampling("ask", greedy.settings()).max_new_tokens == 9


@EVERY
def test_stages_name_roles_that_an_experiment_may_give(recipe: AnyRecipe) -> None:
    assert recipe.roles == ROLES[recipe.name]
    for stage in recipe.stages:
        name = f"{stage.name}1" if stage.numbered else stage.name
        assert recipe.find_stage(name) is stage
        assert recipe.find_role(name) == stage.role
        assert isinstance(recipe.find_sampling(name, recipe.settings()), SamplingSettings)


@pytest.mark.parametrize("name", ["lesson", "lesson_1", "lesson1b", "lessons1", "lesson-1", "", "review"])
def test_a_stage_that_is_not_declared_is_named(name: str) -> None:
    """A family of stages has the names that end in a number, and no other."""
    declared = r"student_answer, lesson<number>, lesson_prompt<number>, lesson_completion<number>\. Add it"
    with pytest.raises(ValueError, match=f"recipe llm2llm declares no stage '{name}'; it declares: {declared}"):
        find_recipe("llm2llm").find_role(name)
    assert find_recipe("llm2llm").find_role("lesson51") == "teacher"
    assert find_recipe("lance").find_role("completion") == ROUND_MODEL


@EVERY
def test_defaults_can_be_had_and_every_setting_is_described(recipe: AnyRecipe) -> None:
    recipe.settings()
    own = {
        name: field for name, field in recipe.settings.model_fields.items() if name not in RecipeSettings.model_fields
    }
    assert not [name for name, field in own.items() if not field.description]


@pytest.mark.parametrize("profile", PROFILES)
def test_templates_belong_to_recipes(profile: str) -> None:
    asked = {name: list_steps(profile, name) for name in NAMES}
    assert [name for name, steps in asked.items() if not steps] == ["diverse_evol", "rft", "spin", "trace"], (
        "these ask no template"
    )


class Watch:
    """Which settings were read since it was last asked."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def take(self) -> set[str]:
        names, self.names = self.names, set()
        return names - set(SAMPLING)


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
    "input1": "Final Answer: Name one forest",
    "annotation": "Good x",
}
"""What models say in a stage; elsewhere a word each."""


class Reader:
    """Sees each row at its place."""

    def embed(self, rows: list) -> np.ndarray:
        return np.arange(len(rows), dtype=np.float32)[:, None]

    def close(self) -> None:
        pass


POOL_ROW = {"num_first": 1, "num_picks": 1}
FEW = {"num_demos": 2, "num_waves": 1, "wave_size": 1, "num_annotations": 2, "filters_input_length": False}
WORDED_BY = {"instruction", "labels", "num_demos"}
UNSCALED = {"reviewed_set": {"lowest_score", "highest_score"}, "sft_set": {"trains_on"}}
WORDS = {"answer_kind": "text", "answer_mark": None}
VOTED = {"reviewed_set": {"num_examples", "proposals"}, "preference_pairs": {"trains_on"}}
"""Of R-Zero what only paired questions are asked with, and whose pairs are kept."""
IN_TURN = {"teacher_writes": "prompt_then_completion"}


@pytest.mark.parametrize(
    ("name", "given", "unread"),
    [
        *((name, {}, {}) for name in ("spin", "self_rewarding", "rft")),
        ("star", {"min_words": 1}, {}),
        ("r_zero", {"delta": 0.5}, VOTED),
        ("r_zero", {"delta": 0.5, "losses": "sft_then_dpo"}, {"preference_pairs": set()}),
        ("i_sheep", {}, {"sft_set": {"sft_on_seeds"}}),
        ("clear", {}, UNSCALED),
        ("self_guide", FEW, {"sft_set": {"sft_on_seeds"}, "eval_report": WORDED_BY}),
        ("trace", {"task_sizes": (1, 1)}, {"sft_set": {"trains_on", "sft_on_seeds"}}),
        ("diverse_evol", POOL_ROW, {"sft_set": {"sft_on_seeds"}}),
        ("llm2llm", WORDS, {"raw_generations": {"num_votes", "min_agreement"}, "sft_set": {"sft_on_seeds"}}),
        ("llm2llm", WORDS | IN_TURN, {"raw_generations": {"show_mistake"}, "sft_set": {"sft_on_seeds"}}),
    ],
    ids=[
        *(
            "spin",
            "self_rewarding",
            "rft",
            "star",
            "r_zero",
            "r_zero_pairs",
            "i_sheep",
            "clear",
            "self_guide",
            "trace",
            "diverse_evol",
        ),
        *("llm2llm", "llm2llm_in_turn"),
    ],
)
def test_each_step_reads_the_settings_it_names(
    name: str, given: dict[str, object], unread: dict[str, set[str]]
) -> None:
    """One round with everything watched; these have one choice of losses each, and some of `sft_on_seeds`."""
    watch, recipe = Watch(), find_recipe(name)
    settings = watch_settings(recipe.settings, watch, **given)
    # A seed's own completion gives its gold answer.
    table, read = seeds({"a": None, "b": None}).with_columns(answer=pl.col("completion")), {}

    def ask(stage: str, requests: list[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
        assert isinstance(sampling or recipe.find_sampling(stage, settings), SamplingSettings)
        return [
            Sample(request.row_id, SAID.get(stage, f"word{place}"), "stop", 1, 1)
            for place, request in enumerate(requests)
        ]

    places = SeedPlaces({row_id: place for place, row_id in enumerate(table["row_id"])}, len(table))
    start = build_inputs(settings, identify("r0000"), read_places=lambda: places)
    trained = recipe.start_sft_set(start, table, EFT)
    read["sft_set"] = watch.take()
    taken, _ = recipe.build_seed_set(build_inputs(settings, read_places=lambda: places), table, {})
    read["seed_set"] = watch.take()
    right = RowVerifier(lambda rows: [Verdict(1.0, "right") for _ in rows], 1.0) if recipe.needs_verifier else None
    inputs = build_inputs(settings, ask=ask, read_states=lambda **_: Reader(), verifier=right)
    raw = recipe.generate(inputs, taken, trained)
    read["raw_generations"] = watch.take()
    cleaned = recipe.clean(build_inputs(settings, is_evaluation_prompt=lambda prompt: False), raw, taken)
    read["cleaned_set"] = watch.take()
    reviewed = recipe.review(build_inputs(settings, ask=ask), cleaned, taken, raw)
    assert len(reviewed)
    read["reviewed_set"] = watch.take()
    recipe.build_sft_set(build_inputs(settings, seeds=taken), reviewed, trained)
    read["sft_set"] |= watch.take()
    recipe.build_pairs(build_inputs(settings), reviewed, NO_PAIRS)
    read["preference_pairs"] = watch.take()
    never = {"preference_pairs": {"losses"}} | unread
    named = {step: set(names) - never.get(step, set()) for step, names in recipe.settings_of_step.items()}
    assert named.pop("checkpoint") == {"starts_from"}, "which the platform reads"
    assert {step: names for step, names in read.items() if names} == {step: own for step, own in named.items() if own}
