"""What recipes beside LANCE forecast, counted by hand; and the plans of their mini experiments."""

from pathlib import Path

import pytest

from lance_assets.algorithms.forecast.round_forecast import Lengths, Pool, RoundForecast, StageForecast
from lance_assets.forecast.build import build_forecast
from lance_assets.recipes.axes import AxisSettings
from lance_assets.recipes.contract import find_recipe
from lance_assets.rounds.experiments import read_plan

STEPS = ("input", "annotate", "judge_pair", "review", "new_prompt")
TOKENS = {step: 20.0 for step in STEPS}
LENGTHS = Lengths(3.0, TOKENS, TOKENS, {step: 40.0 for step in STEPS}, prompt=10.0, completion=30.0)
POOL = Pool(50, num_eft=4, eft_tokens=100.0)


def forecast(name: str, settings: AxisSettings, *, at_most: bool = False) -> list[RoundForecast]:
    found = find_recipe(name).forecast
    assert found is not None
    return (found.at_most if at_most else found.expected)(settings, "full", LENGTHS, POOL, num_rounds=2)


def find(this: RoundForecast, name: str) -> StageForecast:
    return next(stage for stage in this.stages if stage.name == name)


def test_self_guide_counts_its_inputs_and_ten_annotations_of_each() -> None:
    """Forty waves of ten; a request shows 5.5 earlier inputs of ten tokens; at most every input is annotated."""
    settings = find_recipe("self_guide").settings()
    start, first, second = forecast("self_guide", settings)
    most = forecast("self_guide", settings, at_most=True)[1]
    assert (find(first, "inputs").rows, find(most, "inputs").rows) == (400, 400)
    assert find(first, "inputs").prompt_tokens == 400 * (20 + 55)
    assert find(first, "annotations").rows == pytest.approx(400 * 0.8 * 10)
    assert (find(most, "annotations").rows, most.num_sft) == (4000, 400 + 4)
    assert find(most, "annotations").completion_tokens == 4000 * 500
    assert (start.stages, start.num_sft) == ((), 4)
    assert second.num_sft == first.num_sft, "a round trains on its own rows alone"


def test_clear_counts_the_seeds_that_it_completes_and_compares() -> None:
    """50 seeds, one completion each; three verdicts in either order of each that differs, nine in ten."""
    settings = find_recipe("clear").settings()
    start, first, _ = forecast("clear", settings)
    most = forecast("clear", settings, at_most=True)[1]
    assert start.stages == ()
    assert find(first, "own completions").completion_tokens == 50 * 30
    assert find(first, "votes").rows == pytest.approx(50 * 0.9 * 6)
    assert find(first, "votes").prompt_tokens == pytest.approx(50 * 0.9 * 6 * (20 + 10 + 2 * 30))
    assert find(most, "votes").rows == 300
    assert first.num_sft == start.num_sft == 54


def test_a_teacher_of_prompts_alone_completes_nothing() -> None:
    """The same prompts are asked for as where each is completed, three times each, and no more than these."""
    labels = {"answer_kind": "label", "answer_mark": None, "labels": {"a": (), "b": ()}}
    asked = []
    for written in ({"teacher_writes": "prompt"}, {"teacher_writes": "prompt_then_completion", "num_votes": 3}):
        _, first, _ = forecast("llm2llm", find_recipe("llm2llm").settings(**labels, **written))
        asked.append({stage.name: stage.rows for stage in first.stages})
    alone, completed = asked
    assert completed == alone | {"the teacher's completions": 3 * alone["the teacher's prompts"]}


def test_r_zero_counts_questions_and_ten_answers_of_each() -> None:
    """50 seeds, four questions each, 3 in 10 of them at the edge; a pair of answers for each, and one of each seed's
    questions. With GRPO there are no pairs, and at most every question is at the edge."""
    settings = find_recipe("r_zero").settings(losses="sft_then_dpo")
    start, first, second = forecast("r_zero", settings)
    assert (start.stages, start.num_sft) == ((), 4)
    assert (find(first, "questions").rows, find(first, "answers").rows) == (200, 2000)
    assert find(first, "questions").completion_tokens == 200 * (10 + 60)
    assert find(first, "questions").role == "challenger"
    assert first.num_sft == second.num_sft == pytest.approx(60 + 4)
    assert first.num_pairs == pytest.approx(60 + 50)
    assert first.num_kept == pytest.approx(60 * 11)
    rewarded = find_recipe("r_zero").settings(max_questions=20)
    assert forecast("r_zero", rewarded)[1].num_pairs == 0
    assert [forecast("r_zero", rewarded, at_most=most)[1].num_sft for most in (False, True)] == pytest.approx([24, 24])
    alone = find_recipe("r_zero").settings(losses="dpo")
    assert forecast("r_zero", alone)[1].num_sft == 0


def test_trace_counts_each_task_and_the_replayed_share() -> None:
    """Tasks of 20, 10 and 20, and a tenth of those before: 20, 10 + 2, 20 + 3; and four EFT rows each."""
    settings = find_recipe("trace").settings(task_sizes=(20, 10, 20), replay_rate=0.1)
    rounds = forecast("trace", settings)
    assert [this.num_sft for this in rounds] == pytest.approx([24, 16, 27])
    assert rounds[1].sft_tokens == pytest.approx(12 * 43 + 100)
    assert all(this.stages == () for this in rounds)


@pytest.mark.slow
def test_the_mini_experiments_have_a_plan(project_root: Path, tmp_path: Path) -> None:
    """r0000 of mini_clear asks five own completions of each of its 160 seeds, and no question about them."""
    found = {}
    for name in ("mini_self_guide", "mini_clear", "mini_trace"):
        plan = read_plan(project_root / "lance_assets" / "experiments" / name / "defs.yaml")
        rounds = build_forecast(plan, machine=None, home=tmp_path).rounds
        found[name] = {key: {row.name: row.rows for row in rows} for key, rows in rounds.items()}
    assert found["mini_self_guide"]["r0001"]["inputs"] == 96
    assert found["mini_clear"]["r0000"]["confidence in seeds: own completions"] == 800
    assert not any("reflections" in name for name in found["mini_clear"]["r0000"])
    assert found["mini_clear"]["r0001"]["own completions"] == 160
    assert [found["mini_trace"][f"r000{number}"]["SFT"] for number in range(4)] == pytest.approx([40, 44, 48, 52])
