import random
from collections import Counter

import pytest

from benchmarks.__main__ import format_table, list_benchmarks
from benchmarks.small_model import build_reviews, draw_items, measure_degraded, measure_new_prompts, read_verdict
from lance_assets.records import Sample
from lance_assets.small_world.tasks import Problem, is_correct, parse_prompt


def say(*texts: str) -> list[Sample]:
    return [Sample(str(n), text, "stop", 1, 1) for n, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("reviews", "verdict"),
    [
        (("score: 6", "score: 6", "score: 2"), True),  # mean 4.67, of which 1 is the prompt's: 3.67 of 5
        (("score: 6", "score: 2", "score: 2"), False),
        (("score: 4", "no idea", "no idea"), True),
        (("no idea", "no idea", "no idea"), None),
    ],
)
def test_a_verdict_is_the_completions_part_of_the_mean_score(reviews: tuple[str, ...], verdict: bool | None) -> None:
    assert read_verdict(Problem("sum", (3, 1, 9)), say(*reviews)) is verdict


def test_reviews_are_one_right_and_one_wrong_a_problem_and_half_own_mistakes() -> None:
    items = draw_items(4)
    mistakes = {item.problem.key: "The answer is 99999." for item in items}
    reviews = build_reviews(items, mistakes, random.Random(0))
    assert Counter(review.origin for review in reviews) == {"right": 192, "own": 96, "by_rule": 96}
    assert all(is_correct(review.item.problem, review.completion) is review.is_right for review in reviews)


def test_copies_malformed_and_cut_samples_count_against_the_rate() -> None:
    item = draw_items(1)[0]  # reverse, rung 1
    assert item.problem.task == "reverse"
    copy = f"Final Answer: Read the digits {' '.join(map(str, item.problem.numbers))} from last to first."
    samples = say(
        "Final Answer: Reverse the list 1 2 3 4.", copy, "Final Answer: Reverse it.", "Reverse the list 1 2 3 4."
    )
    samples.append(Sample("4", "Final Answer: Reverse the list 1 2 3 4.", "length", 1, 1))
    outcomes, details = measure_new_prompts([item] * 5, lambda stage, prompts, sampling: samples)
    assert [outcome.is_good for outcome in outcomes] == [True, False, False, False, False]
    assert details["new_prompt_copy_rate"] == 0.2
    assert details["new_prompt_rung_changes"] == {"+1": 1.0}


def test_a_degraded_completion_counts_when_it_names_a_wrong_answer() -> None:
    item = draw_items(1)[0]
    right = f"Final Answer: the answer is {item.problem.answer}."
    samples = say("Final Answer: the answer is 99999.", right, "Final Answer: no idea.", "The answer is 99999.")
    outcomes = measure_degraded([item] * 4, lambda stage, prompts, sampling: samples)
    assert [outcome.is_good for outcome in outcomes] == [True, False, False, False]


def test_held_out_items_are_held_out() -> None:
    assert all((problem := parse_prompt(item.prompt)) and problem.is_held_out for item in draw_items(1))


def test_the_table_has_a_row_a_figure_and_says_what_failed() -> None:
    assert "small_model" in list_benchmarks()
    table = format_table({"a": {"speedup": 2.34567, "by_rung": {"1": 0.5}}, "b": None}, {"a": 3.2, "b": 1.0})
    assert table.splitlines()[2:] == ["| a | speedup | 2.346 |", "| a | (ran for) | 3 s |", "| b | FAILED | |"]
