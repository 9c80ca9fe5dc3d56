"""OP, BWT and their bar as a round's eval_report shows and checks them, worked by hand."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from lance_assets.algorithms.measures.retention import Continual
from lance_assets.records import EVAL_REPORT, HARNESS_ITEMS
from lance_assets.rounds.making.evaluating import no_forgetting
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from lance_assets.rounds.shown.continual import (
    find_continual,
    find_lost_transfer,
    require_tasks,
    say_interval,
    tabulate_continual,
)
from tests.assets.tiny_experiment import plan_tiny, write_tiny_experiment

RIGHT = {
    ("r0000", "backbone"): {"a": 12, "b": 20},
    ("r0000", "checkpoint"): {"a": 36, "b": 20},
    ("r0001", "checkpoint"): {"a": 20, "b": 38},
}
"""Right items of 40 by round and model: a is learned in r0000 and b in r0001, which forgets 16 items of a."""
BWT = "-0.400 [-0.535, -0.227]"
"""Sixteen of forty items fell.

The mean is -16/40. With half an item for each of the four ways in which two answers can be right and wrong the interval
has 42 items and its middle at -16/42 = -0.381; the spread is (16 + 1)/42 - 0.381^2 = 0.2596, and half its width 1.96 *
sqrt(0.2596/42) = 0.1541.
"""
Open = Callable[..., Round]


@pytest.fixture
def open_last(tmp_path: Path) -> Open:
    """The last of two evaluated rounds, of an experiment with some bars."""
    folder = write_tiny_experiment(tmp_path / "tiny")

    def prepare(*, order: tuple[str, ...] = ("a", "b"), key: str = "r0001", **bars: float | None) -> Round:
        evaluation = {"lm_eval": {"tasks": ["a", "b"]}, "task_order": list(order)}
        plan = plan_tiny(folder, evaluation=evaluation, checks={"max_forgetting": None, **bars})
        for number in ("r0000", "r0001"):
            this_round = Round(plan, Platform(data_root=str(tmp_path / "data")), number, lambda _: None)
            for noun, rows in zip(("eval_report", "harness_items"), report(number), strict=True):
                this_round.write(noun, rows)
        return this_round.at(key)

    return prepare


def report(number: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    scores, items = [], []
    for (key, model), right in RIGHT.items():
        for task, count in right.items() if key == number else ():
            names = {"model": model, "benchmark": task, "metric": "acc"}
            score = count / 40
            ends = {"score": score, "ci_low": score - 0.1, "ci_high": score + 0.1, "num_items": 40}
            scores.append(names | {"task": "all", "higher_is_better": True} | ends)
            items += [names | {"item": f"{place}", "score": float(place < count)} for place in range(40)]
    return pl.DataFrame(scores, schema=EVAL_REPORT), pl.DataFrame(items, schema=HARNESS_ITEMS)


def test_the_page_has_op_and_bwt_of_every_round_and_those_of_the_last_by_themselves(open_last: Open) -> None:
    """OP of r0000 is a's 0.9, and of r0001 (0.5 + 0.95) / 2 with half a width of sqrt(0.1^2 + 0.1^2) / 2 = 0.071."""
    shown = tabulate_continual(find_continual(open_last(), ["r0000", "r0001"]))
    first, second = shown["continual"].rows
    assert (first["round"], first["tasks"], first["OP"], first["BWT"]) == ("r0000", "1", "0.900 [0.800, 1.000]", "-")
    assert (second["tasks"], second["OP"], second["BWT"]) == ("2", "0.725 [0.654, 0.796]", BWT)
    # a went from 12 to 20 right items and b from 20 to 38: (8/40 + 18/40) / 2.
    assert second["since the backbone"].startswith("0.325 [")
    assert shown["continual/performance"] == second["OP"]
    assert shown["continual/transfer"] == BWT
    assert shown["continual/general"] == second["since the backbone"]


def test_the_page_leaves_out_what_a_round_does_not_have() -> None:
    """A perplexity has no OP, the first task no BWT, and a round without its backbone no change since it."""
    assert tabulate_continual([]) == {}
    shown = tabulate_continual([Continual("r0000", 1, None, None, None)])
    assert set(shown) == {"continual"}
    assert set(shown["continual"].rows[0].values()) == {"r0000", "1", "-"}
    assert say_interval((0.25, -0.5, 1.0)) == "0.250 [-0.500, 1.000]"


@pytest.mark.parametrize(("bar", "is_broken"), [(-0.2, True), (-0.23, False), (-0.5, False), (None, False)])
def test_backward_transfer_breaks_its_bar_where_the_whole_interval_lies_below(
    open_last: Open, bar: float | None, is_broken: bool
) -> None:
    """The upper end is -0.2268: beyond a bar of -0.2, and not beyond one of -0.23, though the mean of -0.4 is."""
    last = open_last(min_backward_transfer=bar)
    facts, told = find_lost_transfer(last)
    assert facts == {"backward_transfer": BWT} | ({} if bar is None else {"min_backward_transfer": bar})
    said = f"the backward transfer is {BWT}, below checks.min_backward_transfer={bar}"
    assert told == ([said] if is_broken else [])
    judged = no_forgetting(last)
    assert (judged.passed, judged.is_error, judged.description) == (not is_broken, False, said if is_broken else None)
    assert judged.facts["backward_transfer"] == BWT


def test_the_first_task_has_no_backward_transfer_to_break_a_bar(open_last: Open) -> None:
    first = open_last(key="r0000", min_backward_transfer=0.0)
    assert find_lost_transfer(first) == ({}, [])
    assert no_forgetting(first).passed


def test_without_an_order_the_transfer_is_of_all_tasks(open_last: Open) -> None:
    """a's change of -16 items and b's of +18 make 1/40, far within the noise of a bar of 0."""
    facts, told = find_lost_transfer(open_last(order=(), min_backward_transfer=0.0))
    assert str(facts["backward_transfer"]).startswith("0.025 [")
    assert told == []


@pytest.mark.parametrize("order", [(), ("a",), ("sort", "a"), ("b", "sort")])
def test_an_order_of_known_tasks_is_taken_by_task_or_benchmark(order: tuple[str, ...]) -> None:
    require_tasks(write_names(), order)


@pytest.mark.parametrize(("order", "first"), [(("a", "c"), "c"), (("d", "c"), "d"), (("all",), "all")])
def test_a_task_without_a_score_is_told_with_those_that_have_one(order: tuple[str, ...], first: str) -> None:
    """ "all" is the mean of a world's tasks, and none of them."""
    told = rf"evaluation.task_order names '{first}', and no score has that task; name some of a, b, sort, world$"
    with pytest.raises(ValueError, match=told):
        require_tasks(write_names(), order)


def write_names() -> pl.DataFrame:
    """A world with one task beside two tasks of the harness."""
    names = [("a", "all"), ("b", "all"), ("world", "all"), ("world", "sort")]
    return pl.DataFrame([{"benchmark": one, "task": task} for one, task in names], schema=EVAL_REPORT)
