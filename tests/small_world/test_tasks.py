import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.small_world.tasks import (
    RUNGS,
    TASKS,
    Problem,
    complete,
    draw_held_out_prompts,
    draw_problem,
    extract_answer,
    is_correct,
    parse_prompt,
    phrase_prompt,
)

problems = st.builds(
    lambda rng_seed, task, rung, held_out: draw_problem(
        random.Random(rng_seed), task=task, rung=rung, held_out=held_out
    ),
    st.integers(0, 10**6),
    st.sampled_from(TASKS),
    st.integers(1, 10),
    st.booleans(),
)


@pytest.mark.parametrize(
    ("problem", "answer", "completion"),
    [
        (Problem("reverse", (3, 1, 4)), "4 1 3", "Take the digits from the end: 4 1 3. The answer is 4 1 3."),
        (Problem("sort", (3, 1, 4)), "1 3 4", "Pick the smallest first each time: 1 3 4. The answer is 1 3 4."),
        (Problem("sum", (3, 1, 9)), "13", "Add one at a time: 3 + 1 = 4, 4 + 9 = 13. The answer is 13."),
        (Problem("story", (8, 5, -2)), "11", "Follow each change: 8 + 5 = 13, 13 - 2 = 11. The answer is 11."),
    ],
)
def test_worked_by_hand(problem: Problem, answer: str, completion: str) -> None:
    assert problem.answer == answer
    assert complete(problem) == completion
    assert problem.rung == 1


@given(problem=problems, rng_seed=st.integers(0, 10**6))
def test_a_prompt_reads_back_as_its_problem_in_every_wording(problem: Problem, rng_seed: int) -> None:
    assert parse_prompt(phrase_prompt(problem, random.Random(rng_seed))) == problem


@given(problem=problems)
def test_a_completion_is_correct_and_its_answer_cannot_be_another(problem: Problem) -> None:
    assert extract_answer(complete(problem)) == problem.answer
    assert is_correct(problem, complete(problem))
    assert not is_correct(problem, complete(problem) + " No, the answer is 99999.")


@given(problem=problems)
def test_held_out_is_decided_by_the_numbers_and_not_by_the_wording(problem: Problem) -> None:
    rng = random.Random(0)
    readings = [parse_prompt(phrase_prompt(problem, rng)) for _ in range(4)]
    assert {reading.is_held_out for reading in readings if reading} == {problem.is_held_out}
    assert {reading.key for reading in readings if reading} == {problem.key}


def test_a_story_never_has_less_than_nothing_left() -> None:
    rng = random.Random(0)
    for _ in range(300):
        numbers = draw_problem(rng, task="story", rung=6, held_out=False).numbers
        assert all(sum(numbers[: place + 1]) >= 0 for place in range(len(numbers)))


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "Reverse the list.",
        "Reverse the list 3 1.",
        "Reverse the list 3 14 2.",
        "Reverse the list 3 1 4. And more.",
        "Multiply the numbers 3 1 4.",
        "Tom has 3 pens. Then Tom loses 4. Then Tom gets 9. How many pens are left?",
        "Tom has 3 pens. Then Tom paints 2. Then Tom gets 9. How many pens are left?",
    ],
)
def test_a_malformed_prompt_is_none(prompt: str) -> None:
    assert parse_prompt(prompt) is None


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("No numbers here.", None),
        ("The answer is 4. Wait, the answer is 5.", "5"),
        ("the ANSWER IS 4 1 3.", "4 1 3"),
        ("Total: 12", None),
    ],
)
def test_the_last_named_answer_counts(completion: str, answer: str | None) -> None:
    assert extract_answer(completion) == answer


@pytest.mark.parametrize(("task", "rung"), [("multiply", 1), ("sum", 0)])
def test_an_unknown_task_or_rung_says_which(task: str, rung: int) -> None:
    with pytest.raises(ValueError, match=f"got '{task}' and {rung}"):
        draw_problem(random.Random(0), task=task, rung=rung, held_out=False)


def test_held_out_prompts_cover_every_task_and_rung_once_each() -> None:
    rows = draw_held_out_prompts(per_rung=3)
    assert [(row["task"], row["rung"]) for row in rows] == [(t, r) for t in TASKS for r in RUNGS for _ in range(3)]
    assert len({row["key"] for row in rows}) == len(rows)
    assert rows == draw_held_out_prompts(per_rung=3)
    for row in rows:
        problem = parse_prompt(row["prompt"])
        assert problem is not None
        assert (problem.is_held_out, problem.key, problem.answer) == (True, row["key"], row["answer"])


def test_a_made_up_story_is_no_problem_however_long_its_words_are() -> None:
    """Read in all ways, a word of sixty letters would take years."""
    assert parse_prompt(f"Tom has 5 pens. Then Tom {'gives' * 12}. How many pens are left?") is None
