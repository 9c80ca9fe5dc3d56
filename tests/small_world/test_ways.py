"""The task of classification in the small world: which way of working a prompt needs, in words."""

import random
from pathlib import Path

import pytest

from lance_assets.recipes.llm2llm_settings import Llm2LlmSettings
from lance_assets.rounds.experiments import read_plan
from lance_assets.small_world import WAYS_WORLD, WORLD
from lance_assets.small_world.jobs import complete_by_guess
from lance_assets.small_world.tasks import TASKS, complete, parse_prompt
from lance_assets.small_world.ways import WAYS, label_seeds
from lance_assets.worlds import draw_problems, find_world

EXPERIMENT = "lance_assets/experiments/mini_llm2llm_labels/defs.yaml"


def test_answers_are_words_and_the_prompts_those_of_the_small_world() -> None:
    problems, others = draw_problems(WAYS_WORLD, 2), draw_problems(WORLD, 2)
    assert [(one.key, one.prompt, one.stratum) for one in problems] == [(o.key, o.prompt, o.stratum) for o in others]
    assert {one.task: one.answer for one in problems} == WAYS
    assert not any(letter.isdigit() for way in WAYS.values() for letter in way)
    assert len(set(WAYS.values())) == len(TASKS) == 4
    assert find_world("lance_assets.small_world:WAYS_WORLD", Path()) is WAYS_WORLD


@pytest.mark.parametrize("name", ["reverse", "sort", "sum", "story"])
def test_a_worked_completion_names_its_way_and_a_guess_names_none(name: str) -> None:
    (problem, *_) = [one for one in draw_problems(WAYS_WORLD, 1) if one.task == name]
    worked = parse_prompt(problem.prompt)
    assert worked is not None
    assert WAYS_WORLD.is_right(problem, complete(worked))
    assert WAYS_WORLD.is_right(problem, f"{problem.answer}.")
    assert not WAYS_WORLD.is_right(problem, complete_by_guess(worked.answer, random.Random(0)))
    for other in set(WAYS.values()) - {problem.answer}:
        assert not WAYS_WORLD.is_right(problem, other)
        assert not WAYS_WORLD.is_right(problem, f"{problem.answer}? {other}.")


def test_the_experiment_knows_the_worlds_labels_and_its_seeds_give_their_own_answers(project_root: Path) -> None:
    plan = read_plan(project_root / EXPERIMENT)
    parameters = plan.settings.parameters
    assert isinstance(parameters, Llm2LlmSettings)
    assert set(parameters.labels) == set(WAYS.values())
    assert plan.world is WAYS_WORLD
    rule = parameters.answers
    seed = label_seeds([{"prompt": "Sort the list 3 1 2.", "completion": "1 2 3", "answer": "1 2 3"}])[0]
    assert seed["completion"] == seed["answer"] == "Pick the smallest first each time"
    assert rule.match(seed["answer"], rule.read(seed["completion"]))


def test_a_prompt_is_read_back_with_its_way() -> None:
    problem = WAYS_WORLD.read_prompt("Reverse the list 3 1 4.")
    assert problem is not None
    assert problem.answer == "Take the digits from the end"
    assert WAYS_WORLD.read_prompt("What is the sky?") is None
