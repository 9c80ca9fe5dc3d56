"""Which settings a launch may set for one round, and what a round begins with."""

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

# There is no public way to check a config without a run.
from dagster._config import validate_config
from dagster._config.post_process import resolve_defaults

from lance_assets.assets.names import find_key
from lance_assets.assets.settings import build_launch_schema, build_run_config, read_launch
from lance_assets.recipes.contract import list_recipes
from lance_assets.rounds.experiments import load_plans
from lance_assets.rounds.overrides import (
    Launch,
    Overrides,
    choose_overrides,
    find_overrides,
    plan_round,
    read_overrides,
    record_overrides,
)
from lance_assets.rounds.plan import Plan
from lance_assets.settings.experiment import ExperimentSettings
from lance_assets.settings.overrides import (
    Overridable,
    apply_overrides,
    list_overridable,
    parse_assignments,
    read_setting,
)
from resources.stores.tables import TableStore

ATTRIBUTES: dict = {
    "recipe": "lance",
    "model": "small",
    "seeds": {"path": "seeds.jsonl"},
    "evaluation": {"world": {"name": "lance_assets.small_world:WORLD"}},
}
SETTINGS = ExperimentSettings.model_validate(ATTRIBUTES)
KINDS = {bool: True, int: 7, float: 0.123, str: "words"}
"""A value of each kind that lies in most ranges."""


def choose_another(setting: Overridable) -> object:
    """Another value than the file's."""
    others = [choice for choice in setting.choices if choice != setting.value]
    if setting.choices:
        return others[0] if others else setting.value
    return not setting.value if setting.kind is bool else KINDS[setting.kind]


def resolve(plan: Plan, config: dict) -> dict:
    """What a step is given of a launch's config: checked by the schema, with its defaults."""
    given = validate_config(build_launch_schema(plan).config_type, config)
    assert given.success, given.errors
    resolved: dict = resolve_defaults(build_launch_schema(plan).config_type, config).value
    return resolved


def try_overrides(settings: ExperimentSettings, values: dict) -> ExperimentSettings | str:
    """The settings with others, or what is wrong with them."""
    try:
        return apply_overrides(settings, values)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("name", sorted(load_plans()))
def test_a_launch_can_set_each_number_word_and_switch_that_makes_no_round_incomparable(name: str) -> None:
    plan = load_plans()[name]
    assert isinstance(plan, Plan)
    known = list_overridable(plan.settings)
    parameters = plan.settings.parameters
    # A recipe fixes a setting of all recipes by a type of one value.
    fixed = {field for field, info in type(parameters).model_fields.items() if len(get_args(info.annotation)) == 1}
    scalars = {
        f"parameters.{field}"
        for field, value in parameters.model_dump().items()
        if isinstance(value, bool | int | float | str) and field not in fixed
    }
    assert scalars <= set(known)
    assert {"training.sft.learning_rate", "training.dpo.beta", "checks.min_pairs", "seeds.limit"} <= set(known)
    assert ("training.lora.r" in known) == (plan.settings.training.lora is not None)
    assert not {path.split(".")[0] for path in known} & {"evaluation", "rng_seed", "recipe", "model", "stop", "roles"}
    for path, setting in known.items():
        assert setting.description, path
        assert read_setting(apply_overrides(plan.settings, {path: setting.value}), path) == setting.value
        other = choose_another(setting)
        changed = try_overrides(plan.settings, {path: other})
        # a value may be outside the range, or need another setting
        if isinstance(changed, str):
            assert changed.startswith((f"{path}: got {other!r}; ", "parameters: ", "training.grpo"))
            continue
        # nothing else changes
        assert read_setting(changed, path) == other
        assert {each for each in known if read_setting(changed, each) != known[each].value} <= {path}


def test_every_recipe_lets_the_sampling_be_set() -> None:
    for recipe in list_recipes():
        needs = {"texts": {"path": "texts.jsonl"}} if recipe.needs_texts else {}
        needs |= (
            {"verifier": {"kind": "rules", "rules": [{"kind": "punctuation:no_comma"}]}}
            if recipe.needs_verifier
            else {}
        )
        needs |= {"training": {"grpo": {"reward": "agreed"}}} if recipe.labels_by_vote else {}
        settings = ExperimentSettings.model_validate(ATTRIBUTES | {"recipe": recipe.name} | needs)
        if "temperature" in type(settings.parameters).model_fields:
            assert list_overridable(settings)["parameters.temperature"].allowed == ">= 0, <= 5"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {"parameters.temperature": 9.0},
            "parameters.temperature: got 9.0; input should be less than or equal to 5; it may be >= 0, <= 5 "
            "(Sampling temperature of every step.)",
        ),
        (
            {"parameters.losses": "spo"},
            "parameters.losses: got 'spo'; input should be 'sft', 'dpo', 'kto', 'orpo', 'simpo', 'grpo', "
            "'sft_then_dpo', 'sft_then_kto', 'sft_then_orpo', 'sft_then_simpo' or 'sft_then_grpo'; it may be one of "
            "sft, dpo, kto, orpo, simpo, grpo, sft_then_dpo, sft_then_kto, sft_then_orpo, sft_then_simpo, "
            "sft_then_grpo (The stages of a round's training; with 'sft' or GRPO no pairs are built. training has a "
            "section for each stage.)",
        ),
        (
            {"evaluation.world.per_stratum": 3},
            "evaluation.world.per_stratum is the same in every round: it is what rounds are compared by, and rounds "
            "with another one could not be compared; make a new experiment to change it",
        ),
        (
            {"rng_seed": 1},
            "rng_seed is the same in every round: the evaluation samples with it too, and rounds with another one "
            "could not be compared; make a new experiment to change it",
        ),
        (
            {"training.sft.learning_rat": 1.0},
            "training.sft.learning_rat is no setting that a launch can set; did you mean 'training.sft.learning_rate'? "
            "A launch can set training.sft.learning_rate, training.sft.num_epochs, training.sft.batch_size, "
            "training.sft.gradient_accumulation_steps, training.sft.max_length, training.sft.warmup_steps, "
            "training.sft.warmup_from_zero, training.sft.weight_decay, training.sft.schedule, "
            "training.sft.gradient_checkpointing, training.sft.order",
        ),
        (
            {"training.lora.r": 8},
            "training.lora.r is no setting that a launch can set; a launch can set checks, engine, near_duplicates, "
            "parameters, seeds, training, training.dpo, training.grpo, training.kto, training.orpo, training.sft, "
            "training.simpo",
        ),
    ],
)
def test_a_mistake_names_the_setting_its_value_and_what_it_may_be(values: dict, told: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        apply_overrides(SETTINGS, values)
    assert str(raised.value) == told


def test_every_mistake_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"checks\.min_pairs: got -1.*\n.*parameters\.top_p: got 2|top_p.*\n.*min_pairs"
    ):
        apply_overrides(SETTINGS, {"checks.min_pairs": -1, "parameters.top_p": 2})


@pytest.mark.parametrize(
    ("assignments", "told"),
    [
        (["temperature"], "a setting is given as PATH=VALUE"),
        (["=3"], "a setting is given as PATH=VALUE"),
        (["parameters.top_p="], "a setting is given as PATH=VALUE"),
        (["seeds.limit=3", "seeds.limit=4"], "seeds.limit is set twice"),
        (["seeds.limit={"], "is no value as in an experiment's file"),
    ],
)
def test_an_assignment_that_is_none_is_refused(assignments: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_assignments(assignments)


def test_assignments_have_values_as_in_the_file() -> None:
    assert parse_assignments(["a.b=1e-4", "c=true", "d=~", "e=low", "f= 3"]) == {
        **{"a.b": 1e-4, "c": True, "d": None},
        **{"e": "low", "f": 3},
    }


def test_settings_are_inherited_only_where_they_are_kept(tmp_path: Path) -> None:
    plan, tables = Plan("mini", tmp_path, SETTINGS), TableStore(tmp_path)
    begun: dict[str, Overrides] = {}
    for key, launch in (
        ("r0000", Launch({"parameters.temperature": 1})),
        ("r0001", Launch({"parameters.temperature": 0.9}, is_kept=True)),
        ("r0002", Launch({"parameters.temperature": 0.5, "parameters.max_seeds": 3})),
        ("r0003", Launch({"parameters.top_p": 0.8}, is_kept=True)),
        ("r0004", Launch()),
        ("r0005", Launch({"parameters.top_p": 0.7}, drops_kept=True)),
        ("r0006", Launch()),
    ):
        begun[key] = choose_overrides(plan, tables, key, launch)
        record_overrides(tables, "mini", key, begun[key])
    assert {key: dict(overrides.values) for key, overrides in begun.items()} == {
        "r0000": {"parameters.temperature": 1.0},
        "r0001": {"parameters.temperature": 0.9},
        "r0002": {"parameters.temperature": 0.5, "parameters.max_seeds": 3},
        "r0003": {"parameters.temperature": 0.9, "parameters.top_p": 0.8},
        "r0004": {"parameters.temperature": 0.9, "parameters.top_p": 0.8},
        "r0005": {"parameters.top_p": 0.7},
        "r0006": {},
    }
    assert {key: read_overrides(tables, "mini", key) for key in begun} == begun
    assert not find_overrides(tables, "mini", "r0006").exists()
    # begun again without a launch, a round has what was kept before it, or the file's settings
    record_overrides(tables, "mini", "r0000", choose_overrides(plan, tables, "r0000", Launch()))
    assert plan_round(plan, "r0000", read_overrides(tables, "mini", "r0000")) is plan


def test_the_plan_of_a_round_is_one_object_and_an_override_equal_to_the_file_is_none(tmp_path: Path) -> None:
    plan = Plan("mini", tmp_path, SETTINGS)
    changed = Overrides(own={"parameters.temperature": 0.9, "parameters.top_p": 0.9})
    one = plan_round(plan, "r0001", changed)
    assert one is plan_round(plan, "r0002", changed)
    assert one.overrides == {"parameters.temperature": 0.9}
    assert plan_round(plan, "r0001", Overrides(own={"parameters.top_p": 0.9})) is plan


def test_what_is_kept_and_does_not_suit_the_file_any_more_says_how_to_go_on(tmp_path: Path) -> None:
    tables = TableStore(tmp_path)
    record_overrides(tables, "mini", "r0000", Overrides(kept={"parameters.branch_threshold": 5.0}))
    spin = Plan("mini", tmp_path, ExperimentSettings.model_validate(ATTRIBUTES | {"recipe": "spin"}))
    with pytest.raises(
        ValueError, match=r"branch_threshold is no setting.*r0000 keeps this.*begin r0001 with drop_kept"
    ):
        choose_overrides(spin, tables, "r0001", Launch())
    assert choose_overrides(spin, tables, "r0001", Launch(drops_kept=True)) == Overrides()


def test_the_example_of_the_page_can_be_launched(project_root: Path) -> None:
    page = (project_root / "docs" / "one-round.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    ((op, given),) = yaml.safe_load(block)["ops"].items()
    plan = load_plans()["mini_lance"]
    assert isinstance(plan, Plan)
    assert op == find_key(plan, "start_checkpoint").to_python_identifier()
    from_page = read_launch(plan, resolve(plan, given["config"]))
    (command,) = re.findall(r"```\n(lance run .*?)\n```", page, flags=re.DOTALL)
    assignments = [word for word in command.split() if "=" in word]
    assert from_page == Launch(parse_assignments(assignments))
    settings = choose_overrides(plan, TableStore(project_root), "r0000", from_page).values
    assert settings == {"parameters.temperature": 0.9, "training.sft.learning_rate": 1e-4}
    # what the command sends is what the launchpad writes
    sent = build_run_config(op, from_page)["ops"][op]["config"]
    assert read_launch(plan, resolve(plan, sent)) == from_page


def test_what_the_schedule_of_the_file_sets_is_refused(tmp_path: Path) -> None:
    """The file's value for the round would win without a word."""
    training = {"by_round": {"r0001": {"dpo": {"learning_rate": 1e-7}}}}
    plan = Plan("mini", tmp_path, ExperimentSettings.model_validate(ATTRIBUTES | {"training": training}))
    launch, tables = Launch({"training.dpo.learning_rate": 1e-6}), TableStore(tmp_path)
    with pytest.raises(
        ValueError, match=r"training\.dpo\.learning_rate: training\.by_round sets dpo\.learning_rate of r0001"
    ):
        choose_overrides(plan, tables, "r0001", launch)
    assert choose_overrides(plan, tables, "r0002", launch).own == {"training.dpo.learning_rate": 1e-6}
    assert choose_overrides(plan, tables, "r0001", Launch({"training.dpo.beta": 0.2})).own
