import pytest

from benchmarks.kun_model import KUN_MODEL, is_named, measure_kun_model
from lance_assets.small_world.tasks import Problem
from resources.engines.transformers.engine import TransformersEngine


@pytest.mark.slow
def test_kuns_model_judges_names_and_polishes() -> None:
    figures = measure_kun_model(TransformersEngine(KUN_MODEL), per_rung=1)
    assert figures["num_problems"] == 48
    assert figures["verdict_accuracy"] >= 0.95
    assert figures["named_rate"] >= 0.4
    assert figures["polished_rate"] >= figures["answered_rate"] + 0.1


def test_another_order_of_a_sorted_list_is_named_right_and_other_digits_are_not() -> None:
    problem = Problem("sort", (3, 1, 4))
    assert is_named(problem, "Sort the list 4 1 3.")
    assert not is_named(problem, "Sort the list 4 1 5.")
    assert not is_named(problem, "Reverse the list 4 3 1."), "the same answer to another task"
    assert not is_named(problem, "4 1 3")
