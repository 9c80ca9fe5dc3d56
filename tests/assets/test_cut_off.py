"""Samples that reach their token limit are never trained on: how many they are is shown by kind, and has a bar."""

from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from lance_assets.assets.names import find_key
from lance_assets.records import RAW_GENERATIONS
from lance_assets.rounds.making.proposing import measure_cut_off, name_limit
from tests.assets.conftest import OpenWorld
from tests.assets.scripted_platform import SCRIPTED, without_drawing
from tests.assets.tiny_experiment import World, find_failures, open_world, plan_tiny, write_tiny_experiment


def read_check(world: World, key: str) -> dg.AssetCheckEvaluation:
    """The check after raw_generations was made."""
    for noun in ("start_checkpoint", "seed_set"):
        assert world.materialize(key, noun).success
    result = world.materialize(key, "raw_generations")
    assert result.success, find_failures(result)
    (found,) = [one for one in result.get_asset_check_evaluations() if one.check_name == "cut_off_rate"]
    assert found.asset_key == find_key(world.plan, "raw_generations")
    return found


def test_completions_that_are_cut_are_told_with_the_setting_to_raise(make_scripted_world: OpenWorld) -> None:
    world = make_scripted_world(machines={"cuts_completions": True}, stages={"completion": {"max_new_tokens": 64}})
    check = read_check(world, "r0001")
    assert not check.passed
    # Rows that are cut are left out all the same, so the round goes on and a person is told.
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert check.description == (
        "completion: 100.0% are cut; raise parameters.stages.completion.max_new_tokens (now 64)"
    )
    shown = world.metadata("raw_generations", "r0001")
    rates = {name.partition("/")[2]: rate for name, rate in shown.items() if name.startswith("cut_off_rate/")}
    assert rates["completion"] == 1.0
    assert rates["new_prompt"] == rates["seed_review"] == 0.0


@pytest.mark.slow
def test_a_round_within_the_bar_passes_and_the_bar_is_a_setting(make_scripted_world: OpenWorld) -> None:
    assert read_check(make_scripted_world(), "r0001").passed
    high = make_scripted_world(
        machines={"cuts_completions": True}, checks={"max_cut_off_rate": 1.0, "max_unscored_rate": 1.0, "min_pairs": 0}
    )
    check = read_check(high, "r0001")
    assert check.passed
    assert check.metadata["bar"].value == 1.0


def test_shares_are_of_each_kind() -> None:
    kinds = ["completion"] * 4 + ["new_prompt"] * 2
    ends = ["length", "stop", "error", "stop", "stop", "stop"]
    table = pl.DataFrame({"kind": kinds, "finish_reason": ends}, schema_overrides={"kind": pl.String})
    assert measure_cut_off(table) == {"completion": 0.25, "new_prompt": 0.0}
    assert measure_cut_off(pl.DataFrame(schema=RAW_GENERATIONS)) == {}


def test_the_setting_that_is_named_is_that_of_the_stages_of_a_kind(tmp_path: Path) -> None:
    folder = write_tiny_experiment(tmp_path)
    lesson = plan_tiny(folder, recipe="llm2llm", student_max_new_tokens=90)
    assert name_limit(lesson, "student_answer") == "parameters.stages.student_answer.max_new_tokens (now 90)"
    assert name_limit(lesson, "lesson_text") == (
        "parameters.stages.lesson.max_new_tokens (now 2149) or "
        "parameters.stages.lesson_prompt.max_new_tokens (now 2149)"
    )
    assert name_limit(lesson, "a_kind_of_ones_own") == "parameters.max_new_tokens"


@pytest.mark.slow
def test_rounds_go_on_where_r0000_trained_on_nothing(tmp_path: Path) -> None:
    """Without seeds and EFT rows the checkpoint of r0000 is the base model; r0001 trains on what it accepted."""
    seeds = {"path": "seeds.jsonl", "answer_field": "answer"}
    with (
        without_drawing(),
        open_world(tmp_path / "world", **{**SCRIPTED, "sft_on_seeds": False, "seeds": seeds}) as world,
    ):
        for key in ("r0000", "r0001"):
            result = world.run(key)
            assert result.success, find_failures(result)
        start, later = (world.round(key) for key in ("r0000", "r0001"))
        checkpoint = start.read("checkpoint").row(0, named=True)
        assert not checkpoint["is_trained"]
        assert checkpoint["content_hash"] == checkpoint["parent_hash"]
        assert start.read("sft_set").is_empty()
        assert set(later.read("sft_set")["source"]) == {"generated"}
        assert later.read("checkpoint")["is_trained"][0]
        assert "prompt" in start.read("seed_set").columns
        assert len(start.read("seed_set")) > 0
