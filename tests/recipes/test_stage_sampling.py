"""How single stages of asking are sampled: the recipe's own, the paper's, and what an experiment's file says."""

from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from lance_assets.recipes.contract import find_recipe
from lance_assets.recipes.lance_settings import LanceSettings
from lance_assets.recipes.llm2llm import Llm2LlmSettings
from lance_assets.recipes.self_rewarding import SelfRewardingSettings
from lance_assets.records import SamplingSettings
from lance_assets.rounds.nouns import explain_identity
from lance_assets.rounds.plan import Plan
from lance_assets.settings.experiment import ExperimentSettings
from lance_assets.settings.file import read_attributes

FILE = """type: lance_assets.Experiment
attributes:
  recipe: lance
  model: small
  seeds: {path: seeds.jsonl}
  evaluation: {world: {name: "lance_assets.small_world:WORLD"}}
  parameters:
    stages:
"""


def test_a_stage_says_what_differs_and_nothing_else_changes() -> None:
    lance = find_recipe("lance")
    stages = {"completion": {"max_new_tokens": 2048}, "review": {"temperature": 0.0, "repetition_penalty": 1.1}}
    settings = LanceSettings.model_validate({"top_p": 0.8, "stages": stages})
    plain = SamplingSettings(0.7, 0.8, 512)
    assert lance.find_sampling("new_prompt", settings) == plain
    assert lance.find_sampling("completion", settings) == SamplingSettings(0.7, 0.8, 2048)
    review, seed_review = (lance.find_sampling(stage, settings) for stage in ("review", "seed_review"))
    assert (review.temperature, review.repetition_penalty, review.max_new_tokens) == (0.0, 1.1, 512)
    assert (seed_review.temperature, seed_review.repetition_penalty) == (0.7, 1.0)
    assert review.grammar == seed_review.grammar is not None


def test_a_numbered_family_is_sampled_alike_and_a_stage_of_its_own_kind_too() -> None:
    recipe = find_recipe("llm2llm")
    stages = {"lesson": {"temperature": 0.3}, "student_answer": {"repetition_penalty": 1.3}}
    settings = Llm2LlmSettings.model_validate({"stages": stages})
    assert {recipe.find_sampling(f"lesson{number}", settings).temperature for number in (1, 2, 30)} == {0.3}
    assert recipe.find_sampling("lesson_prompt1", settings).temperature == 1.0
    student = SamplingSettings(0.0, 1.0, 256, repetition_penalty=1.3)
    assert recipe.find_sampling("student_answer", settings) == student


def test_the_papers_sampling_of_a_stage_is_the_default_and_gives_way_field_by_field() -> None:
    recipe = find_recipe("self_rewarding")
    assert recipe.find_sampling("new_prompt", SelfRewardingSettings()) == SamplingSettings(0.6, 0.9, 512)
    assert recipe.find_sampling("completion", SelfRewardingSettings()) == SamplingSettings(0.7, 0.9, 512)
    longer = SelfRewardingSettings.model_validate({"stages": {"new_prompt": {"max_new_tokens": 64}}})
    assert recipe.find_sampling("new_prompt", longer) == SamplingSettings(0.6, 0.9, 64)
    hotter = SelfRewardingSettings.model_validate({"stages": {"new_prompt": {"temperature": 0.7}}})
    assert recipe.find_sampling("new_prompt", hotter) == SamplingSettings(0.7, 0.9, 512)
    # What is shown and kept of an experiment is what is used.
    assert longer.model_dump()["stages"]["new_prompt"]["temperature"] == 0.6


def test_a_mini_experiment_samples_as_it_did(project_root: Path) -> None:
    for name, expected in (("mini_self_rewarding", (0.7, 0.9, 160)), ("mini_kun", (0.5, 0.95, 160))):
        settings = read_attributes(project_root / f"lance_assets/experiments/{name}/defs.yaml")
        recipe = find_recipe(settings.recipe)
        sampled = [
            recipe.sample_stage(stage, settings.parameters)
            for stage in recipe.stages
            if not stage.name.endswith("_ending")
        ]
        assert {(one.temperature, one.top_p, one.max_new_tokens, one.repetition_penalty) for one in sampled} == {
            (*expected, 1.0)
        }


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "      completions: {max_new_tokens: 2048}",
            r"defs\.yaml:9: attributes\.parameters\.stages\.completions: .*recipe lance has no such stage of asking; "
            "it has: seed_review, seed_review_ending, new_prompt, completion, degraded_completion, review, "
            "review_ending, judge_pair",
        ),
        ("      completion: {max_new_tokens: 0}", r"defs\.yaml:9: .*stages\.completion\.max_new_tokens: got 0"),
        ("      completion: {max_tokens: 9}", r"defs\.yaml:9: .*stages\.completion\.max_tokens: no such field"),
    ],
)
def test_a_stage_that_there_is_not_is_told_with_its_line(tmp_path: Path, line: str, told: str) -> None:
    file = tmp_path / "defs.yaml"
    file.write_text(f"{FILE}{line}\n")
    with pytest.raises(ValueError, match=told):
        read_attributes(file)


def test_a_recipe_that_samples_nothing_has_no_stages() -> None:
    wrong = {"recipe": "diverse_evol", "parameters": {"stages": {"ask": {"temperature": 1.0}}}}
    with pytest.raises(ValidationError, match="stages"):
        ExperimentSettings.model_validate(
            {"model": "small", "seeds": {"path": "s.jsonl"}, "evaluation": {"world": {"name": "a:B"}}} | wrong
        )


@pytest.mark.parametrize(
    ("stage", "noun"),
    [("new_prompt", "raw_generations"), ("seed_review", "raw_generations"), ("review", "reviewed_set")],
)
def test_a_stage_is_part_of_what_asks_it_alone(tmp_path: Path, stage: str, noun: str) -> None:
    (tmp_path / "seeds.jsonl").write_text("{}")
    attributes = {
        **{"recipe": "lance", "model": "small", "seeds": {"path": "seeds.jsonl"}},
        "evaluation": {"world": {"name": "lance_assets.small_world:WORLD"}},
    }
    plain, changed = (
        Plan("mini", tmp_path, ExperimentSettings.model_validate(attributes | {"parameters": {"stages": stages}}))
        for stages in ({}, {stage: {"temperature": 0.1}})
    )
    nouns = ("raw_generations", "cleaned_set", "reviewed_set", "preference_pairs", "checkpoint")
    assert [each for each in nouns if explain_identity(plain, each) != explain_identity(changed, each)] == [noun]
    assert explain_identity(changed, noun)["settings"]["stages"][stage]["temperature"] == 0.1


def test_dg_check_yaml_knows_stages_and_rounds() -> None:
    """The schema of the file finds a slip in a section whose names are a recipe's or a round's."""
    validator = Draft202012Validator(ExperimentSettings.model_json_schema())
    attributes = yaml.safe_load(FILE)["attributes"]

    def find_errors(stages: dict, by_round: dict) -> list[str]:
        changed = {"parameters": {"stages": stages}, "training": {"by_round": by_round}}
        return [error.json_path for error in validator.iter_errors(attributes | changed)]

    assert find_errors({"completion": {"max_new_tokens": 9}}, {"r0003": {"dpo": {"beta": 5.0}}}) == []
    assert find_errors({"completion": {"max_tokens": 9}}, {})[0].startswith("$.parameters.stages.completion")
    assert find_errors({"completion": {"top_p": 0}}, {}) == ["$.parameters.stages.completion.top_p"]
    assert find_errors({}, {"r0003": {"dpo": {"beta": 0}}}) == ["$.training.by_round.r0003.dpo"]
