"""The plan of a round beside what the round took, and what `lance costs` prints of both."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from lance_assets.cli.costs import show_costs, tabulate_costs
from lance_assets.forecast.build import Forecast, build_forecast
from lance_assets.forecast.comparing import PlanError, compare_round, find_largest_error
from lance_assets.forecast.made import find_last_made
from lance_assets.forecast.stages import Row
from lance_assets.forecast.throughput import read_throughput
from lance_assets.rounds.asking import Cost
from lance_assets.rounds.experiments import find_plan
from lance_assets.rounds.nouns import list_schemas
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round

HOUR = 3600.0


def build(*rows: Row) -> Forecast:
    """A plan of one round."""
    machine = read_throughput().find_machine("cpu2")
    return Forecast(find_plan("mini_lance"), machine, {"r0001": list(rows)}, 0.0, 1.0, False, [], [])


def test_stages_of_one_step_are_added_up() -> None:
    """Two stages of 6 and 9 s against 20: a quarter too little; an unknown one makes its step's plan unknown."""
    forecast = build(
        Row("seed reviews", "raw_generations", completion_tokens=100.0, hours=6 / HOUR),
        Row("new prompts", "raw_generations", completion_tokens=50.0, hours=9 / HOUR),
        Row("SFT", "checkpoint", completion_tokens=0.0, hours=11 / HOUR),
        Row("judged pairs", "preference_pairs", completion_tokens=0.0, hours=0.0),
        Row("evaluation: lm_eval", "eval_report"),
    )
    costs = {
        "raw_generations": Cost(seconds=20.0),
        "checkpoint": Cost(seconds=10.0),
        "preference_pairs": Cost(seconds=0.1),
        "eval_report": Cost(seconds=60.0),
    }
    compared = {one.noun: one for one in compare_round(forecast, "r0001", costs)}
    assert list(compared) == ["raw_generations", "checkpoint", "eval_report"]
    assert compared["raw_generations"].error == pytest.approx(-0.25)
    assert compared["raw_generations"].planned_tokens == 150.0
    assert compared["checkpoint"].error == pytest.approx(0.1)
    assert (compared["eval_report"].planned, compared["eval_report"].error) == (None, None)
    found = find_largest_error(list(compared.values()))
    assert found.largest == pytest.approx(0.25)
    assert found.unknown == ("eval_report",), "a step that the plan does not know is no step without an error"
    assert find_largest_error([compared["eval_report"]]) == PlanError(None, ("eval_report",))
    with pytest.raises(ValueError, match=r"mini_lance ends with r0001 and has no r0002; raise stop.max_rounds"):
        compare_round(forecast, "r0002", costs)


def test_the_table_says_where_the_minutes_went() -> None:
    costs = {
        "checkpoint": Cost(seconds=30.0, model_seconds=12.0, ended=135.0),
        "raw_generations": Cost(seconds=20.0, model_seconds=15.0, completion_tokens=1200, ended=100.0),
    }
    forecast = build(Row("new prompts", "raw_generations", completion_tokens=1000.0, hours=15 / HOUR))
    lines = tabulate_costs(costs, compare_round(forecast, "r0001", costs)).split("\n")
    assert [line.split() for line in lines] == [
        ["step", "seconds", "models", "rest", "tokens", "planned", "s", "planned", "tokens", "off"],
        ["raw_generations", "20.0", "15.0", "5.0", "1,200", "15.0", "1,000", "-25%"],
        ["checkpoint", "30.0", "12.0", "18.0"],
        ["waited", "between", "steps", "5.0", "5.0"],
        ["round", "55.0", "27.0", "28.0"],
    ]


def test_costs_of_a_round_are_printed_and_missing_ones_named(tmp_path: Path) -> None:
    plan, platform, said = find_plan("mini_lance"), Platform(data_root=str(tmp_path)), []
    this_round = Round(plan, platform, "r0001", lambda _: None)
    this_round.cost.note_model_seconds(3.0)
    this_round.list_cost_files()
    (tmp_path / "costs" / "mini_lance" / "r0001").mkdir(parents=True)
    this_round.record_cost("checkpoint", started=0.0)
    show_costs(plan, platform, [], with_plan=False, say=said.append)
    assert said[0].startswith("mini_lance r0001: ")
    assert "checkpoint" in said[0]
    with pytest.raises(ValueError, match=r"mini_lance has no costs of r0007 in .*; run it first"):
        show_costs(plan, platform, ["r0001", "r0007"], with_plan=False, say=said.append)


def test_a_finished_round_is_what_the_later_ones_are_planned_by(tmp_path: Path) -> None:
    """It had half of the expected completion tokens, a row for SFT and a pair; r0000 stays as it was."""
    plan, platform = find_plan("mini_lance"), Platform(data_root=str(tmp_path / "data"))
    first = build_forecast(plan, machine="cpu2", home=tmp_path)
    assert find_last_made(plan, platform) is None
    this_round = Round(plan, platform, "r0001", lambda _: None)
    expected = [row for row in first.rounds["r0001"] if row.noun == "raw_generations"]
    written = sum(row.completion_tokens or 0.0 for row in expected) / 2
    num_samples = round(sum(row.rows or 0.0 for row in expected))
    folder = platform.root / "costs" / plan.name / "r0001"
    folder.mkdir(parents=True)
    schemas = list_schemas()
    for noun in ("raw_generations", "cleaned_set", "sft_set", "preference_pairs", "checkpoint", "eval_report"):
        asked = Cost(num_samples=num_samples, prompt_tokens=900, completion_tokens=round(written))
        mine = replace(this_round, cost=asked if noun == "raw_generations" else Cost())
        mine.record_cost(noun, started=0.0)
        row = pl.DataFrame([dict.fromkeys(schemas[noun])], schema=schemas[noun])
        table = row.with_columns(num_tokens=pl.lit(7000, pl.Int64)) if noun == "checkpoint" else row
        platform.tables.write(plan.name, "r0001", noun, table, schema=schemas[noun])
    made = find_last_made(plan, platform)
    assert made is not None
    assert (made.key, made.num_sft, made.num_pairs, made.trained_tokens) == ("r0001", 1, 1, 7000)
    assert find_last_made(plan, platform, before="r0001") is None
    again = build_forecast(plan, machine="cpu2", home=tmp_path, made=made)
    assert again.rounds["r0000"] == first.rounds["r0000"]
    raw = [row for row in again.rounds["r0001"] if row.noun == "raw_generations"]
    assert sum(row.completion_tokens or 0.0 for row in raw) == pytest.approx(round(written))
    assert sum(row.rows or 0.0 for row in raw) == pytest.approx(num_samples)
    trained = [row for row in again.rounds["r0001"] if row.noun == "checkpoint"]
    assert [row.rows for row in trained] == [1.0, 1.0]
    # It trains on a budget of tokens, whatever the rows.
    budget = plan.settings.training.token_budget
    assert sum(row.prompt_tokens or 0.0 for row in trained) == budget
    assert "as r0001 had them" in again.notes[-1]
    # A table of an older version is no reason to have no plan.
    other = pl.DataFrame({"another_column": [1]})
    platform.tables.write(plan.name, "r0001", "sft_set", other, schema=other.schema)
    assert find_last_made(plan, platform) is None
