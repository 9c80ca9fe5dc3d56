"""OP and BWT worked by hand from the formulas of continual learning."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.measures.headline import ScoreRow
from lance_assets.algorithms.measures.retention import average_independent, measure_continual

UNTOUCHED = "backbone"


def row(task: str, score: float, *, higher_is_better: bool = True) -> ScoreRow:
    names = {"model": "checkpoint", "benchmark": "b", "metric": "m", "task": task, "stratum": None, "part_of": None}
    ends = {"ci_low": score - 0.1, "ci_high": score + 0.1}
    return names | {"score": score, "higher_is_better": higher_is_better, "num_items": 100} | ends


def tell(scores: dict[str, list[float]], **given_: object) -> dict[str, dict[str, ScoreRow]]:
    """The scores of rounds r0, r1, ... of which each task has a list."""
    number = len(next(iter(scores.values())))
    return {
        f"r{place}": {f"b m task {task}": row(task, values[place], **given_) for task, values in scores.items()}
        for place in range(number)
    }


def measure(rounds: dict[str, dict[str, ScoreRow]], order: tuple[str, ...] = ()) -> list:
    return measure_continual(rounds, lambda key, of: {}, order=order, untouched=UNTOUCHED)


MATRIX = {"x": [0.9, 0.6, 0.5], "y": [0.2, 0.8, 0.7], "z": [0.1, 0.1, 0.6]}
"""R[t, i]: x is learned in r0, y in r1, z in r2."""


def test_op_and_bwt_of_a_sequence() -> None:
    """OP: 0.9; (0.6 + 0.8) / 2; (0.5 + 0.7 + 0.6) / 3. BWT: none; 0.6 - 0.9; ((0.5 - 0.9) + (0.7 - 0.8)) / 2."""
    found = measure(tell(MATRIX), ("x", "y", "z"))
    assert [one.num_tasks for one in found] == [1, 2, 3]
    assert [one.performance[0] for one in found] == pytest.approx([0.9, 0.7, 0.6])
    assert found[0].transfer is None
    assert [one.transfer[0] for one in found[1:]] == pytest.approx([-0.3, -0.25])
    assert [one.general for one in found] == [None] * 3


def test_the_general_change_is_of_all_tasks_since_the_untouched_model() -> None:
    untouched = {f"b m task {task}": row(task, 0.4) for task in MATRIX}
    found = measure({UNTOUCHED: untouched, **tell(MATRIX)}, ("x", "y", "z"))
    assert [one.round_key for one in found] == ["r0", "r1", "r2"]
    assert found[-1].general[0] == pytest.approx((0.5 + 0.7 + 0.6) / 3 - 0.4)


def test_without_an_order_every_task_counts_and_is_held_against_its_best() -> None:
    """r2: x 0.5 - 0.9, y 0.7 - 0.8, z 0.6 - 0.1."""
    found = measure(tell(MATRIX))
    assert [one.num_tasks for one in found] == [3, 3, 3]
    assert found[2].transfer[0] == pytest.approx((-0.4 - 0.1 + 0.5) / 3)


def test_scores_of_which_a_lower_one_is_better_count_with_the_other_sign() -> None:
    found = measure(tell({"x": [20.0, 30.0]}, higher_is_better=False), ("x",))
    assert found[1].transfer[0] == pytest.approx(-10.0)
    assert found[1].performance is None


def test_items_that_both_rounds_kept_are_paired() -> None:
    """Four items, one of which fell: the interval is that of the same four."""
    kept = {"r0": {"1": 1.0, "2": 1.0, "3": 0.0, "4": 1.0}, "r1": {"1": 1.0, "2": 1.0, "3": 0.0, "4": 0.0}}
    rounds = tell({"x": [0.75, 0.5]})
    found = measure_continual(rounds, lambda key, of: kept[key], order=("x",), untouched=UNTOUCHED)
    mean, low, high = found[1].transfer
    assert mean == pytest.approx(-0.25)
    assert low < -0.25 < high


def test_a_task_that_no_score_has_is_told() -> None:
    with pytest.raises(ValueError, match="the order of the tasks names 'w', and no score has that task; there are: x"):
        measure(tell({"x": [0.5]}), ("w",))
    assert measure({}) == []


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 1)), min_size=1, max_size=6))
def test_independent_estimates_make_a_narrower_one(parts: list[tuple[float, float]]) -> None:
    mean, low, high = average_independent([(value, value - half, value + half) for value, half in parts])
    assert mean == pytest.approx(sum(value for value, _ in parts) / len(parts), abs=1e-9)
    assert low <= mean <= high
    assert high - low <= 2 * max(half for _, half in parts) + 1e-9
