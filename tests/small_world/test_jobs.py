import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.reviews.review_parsing import parse_review
from lance_assets.small_world.jobs import (
    JOB_SHARES,
    MAX_RUNG,
    PROMPT_POINTS,
    blur_prompt,
    complete_by_guess,
    complete_wrongly,
    corrupt_answer,
    draw_degraded,
    draw_example,
    draw_new_prompt,
    draw_review,
    draw_rung,
    review_completion,
    spoil_answer,
)
from lance_assets.small_world.tasks import (
    TASKS,
    Problem,
    complete,
    draw_problem,
    extract_answer,
    is_correct,
    parse_prompt,
    phrase_prompt,
)

rng_seeds = st.integers(0, 10**6)
problems = st.builds(
    lambda rng_seed, task, rung: draw_problem(random.Random(rng_seed), task=task, rung=rung, held_out=False),
    rng_seeds,
    st.sampled_from(TASKS),
    st.integers(1, MAX_RUNG),
)


def read_final(text: str) -> str:
    return text.partition("Final Answer: ")[2]


@pytest.mark.parametrize(
    ("completion", "shows_working", "review"),
    [
        (
            "Add one at a time: 3 + 1 = 4, 4 + 9 = 13. The answer is 13.",
            True,
            "Prompt: 1 of 5, easy. Work: 3 + 1 = 4, 4 + 9 = 13. So 13 against 13. Right, 5 of 5. score: 6",
        ),
        (
            "No idea how to do it, but with luck the answer is 13.",
            False,
            "Prompt: 1 of 5, easy. Work: 3 + 1 = 4, 4 + 9 = 13. So 13 against 13. Right, 3 of 5. score: 4",
        ),
        (
            "Add one at a time: 3 + 1 = 4, 4 + 9 = 14. The answer is 14.",
            True,
            "Prompt: 1 of 5, easy. Work: 3 + 1 = 4, 4 + 9 = 13. So 13 against 14. Wrong, 1 of 5. score: 2",
        ),
        (
            "Nothing.",
            False,
            "Prompt: 1 of 5, easy. Work: 3 + 1 = 4, 4 + 9 = 13. So 13 against none. Wrong, 0 of 5. score: 1",
        ),
    ],
)
def test_reviews_worked_by_hand(completion: str, shows_working: bool, review: str) -> None:
    assert review_completion(Problem("sum", (3, 1, 9)), completion, shows_working=shows_working) == review


def test_a_right_completion_of_a_hard_prompt_scores_ten_and_an_unclear_prompt_nothing() -> None:
    hard = Problem("reverse", (1, 2, 3, 4, 5, 6, 7, 8, 9))
    assert parse_review(review_completion(hard, complete(hard), shows_working=True)) == 10
    assert parse_review(review_completion(None, complete(hard), shows_working=True)) == 0


@given(problem=problems, rng_seed=rng_seeds, shows_working=st.booleans())
def test_a_review_tells_right_from_wrong_by_three_points(problem: Problem, rng_seed: int, shows_working: bool) -> None:
    rng = random.Random(rng_seed)
    wrong = complete_wrongly(problem, rng) if shows_working else complete_by_guess(corrupt_answer(problem, rng), rng)
    right = complete(problem) if shows_working else complete_by_guess(problem.answer, rng)
    prompt_points = PROMPT_POINTS.get(problem.rung, 5)
    right_score = parse_review(review_completion(problem, right, shows_working=shows_working))
    wrong_score = parse_review(review_completion(problem, wrong, shows_working=shows_working))
    assert isinstance(right_score, float)
    assert isinstance(wrong_score, float)
    assert right_score - prompt_points >= 3
    assert wrong_score - prompt_points <= 1


@given(problem=problems, rng_seed=rng_seeds)
def test_a_wrong_completion_names_a_wrong_answer(problem: Problem, rng_seed: int) -> None:
    completion = complete_wrongly(problem, random.Random(rng_seed))
    assert extract_answer(completion) is not None
    assert not is_correct(problem, completion)


@given(problem=problems, rng_seed=rng_seeds)
def test_a_degraded_completion_is_wrong_and_shares_little_with_the_good_one(problem: Problem, rng_seed: int) -> None:
    worse = read_final(draw_degraded(random.Random(rng_seed), problem).completion)
    assert extract_answer(worse) is not None
    assert not is_correct(problem, worse)
    assert len(worse.split()) > 10


@given(problem=problems, rng_seed=rng_seeds)
def test_a_spoiled_answer_is_as_its_words_say(problem: Problem, rng_seed: int) -> None:
    wrong, error = spoil_answer(problem, random.Random(rng_seed))
    digits = problem.answer.split()
    if problem.task in ("reverse", "sort"):
        assert wrong.split() == {"the first digit lost": digits[1:], "the last digit lost": digits[:-1]}[error]
    else:
        assert error == f"the answer and {int(wrong) - int(problem.answer)} more"
        assert int(wrong) - int(problem.answer) in (1, 2, 10)


def test_hard_prompts_are_hurried_by_their_rates_and_always_wrong() -> None:
    """Short prompts are worked out; of rung 8 eight in ten are guessed at, of longer ones nine."""
    rng = random.Random(0)
    hurried: dict[int, list[bool]] = {2: [], 8: [], 11: []}
    while min(map(len, hurried.values())) < 150:
        example = draw_example(rng, shares={"answer": 1.0}, rung_decay={"answer": 1.0})
        if example.rung in hurried:
            problem = parse_prompt(example.prompt)
            hurried[example.rung].append(":" not in example.completion)
            assert is_correct(problem, example.completion) != hurried[example.rung][-1]
    rates = {rung: sum(flags) / len(flags) for rung, flags in hurried.items()}
    assert rates[2] == 0
    assert 0.7 < rates[8] < 0.9
    assert 0.82 < rates[11] < 0.97


def test_without_hurry_everything_is_worked_out() -> None:
    rng = random.Random(0)
    for _ in range(200):
        example = draw_example(rng, shares={"answer": 1.0}, rung_decay={"answer": 1.0}, is_hurried=False)
        assert is_correct(parse_prompt(example.prompt), example.completion)


@given(problem=problems, rng_seed=rng_seeds)
def test_a_new_prompt_is_well_formed_never_held_out_and_at_most_three_rungs_harder(
    problem: Problem, rng_seed: int
) -> None:
    new = parse_prompt(read_final(draw_new_prompt(random.Random(rng_seed), problem).completion))
    assert new is not None
    assert not new.is_held_out
    assert new.rung in [min(problem.rung + step, MAX_RUNG) for step in range(4)]


@given(problem=problems, rng_seed=rng_seeds)
def test_a_blurred_prompt_is_no_problem(problem: Problem, rng_seed: int) -> None:
    rng = random.Random(rng_seed)
    assert parse_prompt(blur_prompt(phrase_prompt(problem, rng), rng)) is None


def test_reviews_are_balanced() -> None:
    rng = random.Random(0)
    verdicts = Counter("Right" in draw_review(rng, Problem("sum", (3, 1, 9))).completion for _ in range(600))
    assert 0.42 < verdicts[True] / 600 < 0.56


def test_examples_come_by_their_shares_and_rungs_by_their_tail() -> None:
    rng = random.Random(0)
    jobs = Counter(draw_example(rng).job for _ in range(2000))
    assert {job: jobs[job] / 2000 for job in JOB_SHARES} == pytest.approx(JOB_SHARES, abs=0.04)
    rungs = Counter(draw_rung(rng, 0.5) for _ in range(4000))
    assert 0.45 < rungs[2] / rungs[1] < 0.56
    assert min(rungs) == 1
    assert max(rungs) <= MAX_RUNG
