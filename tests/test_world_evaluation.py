"""Evaluation on a world's problems, by its rule."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from lance_assets.algorithms.measures.statistics import compute_wilson_interval
from lance_assets.records import EVAL_ITEMS, EVAL_REPORT, Request, Sample, SamplingSettings
from lance_assets.rounds.world_evaluation import evaluate_world, summarise_items
from lance_assets.settings.evaluation import WorldSettings
from lance_assets.small_world import WORLD
from lance_assets.small_world.tasks import complete, draw_rungs, parse_prompt
from lance_assets.worlds import draw_problems
from resources.engines.contract import ask_directly
from resources.engines.transformers.engine import TransformersEngine
from resources.evaluation.harness_report import EvaluationError


def answer_by_rule(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
    """Right when greedy, and of no use when sampled."""
    assert stage.endswith("greedy" if sampling.temperature == 0 else "sampled")
    right = [complete(parse_prompt(request.messages[-1]["content"])) for request in requests]
    texts = right if sampling.temperature == 0 else ["Hm."] * len(requests)
    return [Sample(request.row_id, text, "stop", 1, 1) for request, text in zip(requests, texts, strict=True)]


def fail_always(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
    return [Sample(request.row_id, "", "error", 1, 0, "no memory") for request in requests]


def test_items_and_report_of_a_perfect_and_a_useless_answerer() -> None:
    items = evaluate_world(answer_by_rule, WORLD, draw_rungs(2, (1, 3)), model_name="checkpoint")
    assert items.schema == EVAL_ITEMS
    assert items.height == 2 * 4 * 2 * 2
    report = summarise_items(items, benchmark="small_world")
    assert report.schema == EVAL_REPORT
    # Of each metric: one over all, four tasks, two rungs.
    assert report.height == 2 * (1 + 4 + 2)
    greedy = report.filter(metric="greedy")
    assert greedy["task"].to_list() == ["all", "reverse", "sort", "sum", "story", "all", "all"]
    assert greedy["stratum"].to_list() == [None, None, None, None, None, 1, 3]
    assert greedy["num_items"].to_list() == [16, 4, 4, 4, 4, 8, 8]
    assert greedy["score"].to_list() == [1.0] * 7
    assert (greedy["ci_low"][0], greedy["ci_high"][0]) == compute_wilson_interval(16, 16)
    assert report.filter(metric="sampled")["score"].to_list() == [0.0] * 7
    assert summarise_items(items.clear(), benchmark="small_world").schema == EVAL_REPORT


def test_nothing_is_sampled_where_no_temperature_is_given() -> None:
    drawn = draw_rungs(2, (1, 3))
    items = evaluate_world(answer_by_rule, WORLD, drawn, model_name="checkpoint", temperature=None)
    both = evaluate_world(answer_by_rule, WORLD, drawn, model_name="checkpoint")
    assert items.equals(both.filter(metric="greedy"))
    settings = {"name": "lance_assets.small_world:WORLD"}
    assert [WorldSettings(**settings, **given).metrics for given in ({}, {"sampled_temperature": None})] == [
        ("greedy", "sampled"),
        ("greedy",),
    ]


def test_a_real_model_gives_the_same_items_twice(small_model: Path) -> None:
    ask = ask_directly(TransformersEngine(small_model, device="cpu", num_threads=1))
    problems, options = draw_rungs(1, (1,)), {"model_name": "backbone", "max_new_tokens": 8}
    items = evaluate_world(ask, WORLD, problems, **options)
    assert items.equals(evaluate_world(ask, WORLD, problems, **options))
    assert items["completion"].str.len_chars().sum() > 0
    sampled = evaluate_world(ask, WORLD, problems, **options, temperature=4.0).filter(metric="sampled")
    assert sampled["completion"].to_list() != items.filter(metric="sampled")["completion"].to_list()


def test_an_engine_failure_is_no_wrong_answer() -> None:
    with pytest.raises(EvaluationError, match="no memory"):
        evaluate_world(fail_always, WORLD, draw_rungs(1, (1,)), model_name="checkpoint")


@pytest.mark.parametrize("empty", ["", " \n ", "<think>It is 3.</think>", "<think>It is 3."])
def test_an_empty_completion_is_wrong_and_counts(empty: str) -> None:
    """Of each task's two problems one is answered and the other gets nothing: 1/2 of all eight, and of each task.

    TRACE's released metrics leave empty completions out of the sum of some metrics and of the items of none.
    """

    def answer_first(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
        samples = answer_by_rule(stage, requests, sampling)
        return [
            sample if place % 2 == 0 else Sample(sample.row_id, empty, "stop", 1, 1)
            for place, sample in enumerate(samples)
        ]

    problems = sorted(draw_rungs(2, (1,)), key=lambda problem: problem.task)
    items = evaluate_world(answer_first, WORLD, problems, model_name="checkpoint", temperature=None)
    assert items["is_correct"].to_list() == [True, False] * 4
    report = summarise_items(items, benchmark="small_world").filter(pl.col("stratum").is_null())
    assert dict(report.select("task", "num_items").iter_rows()) == {"all": 8} | {one.task: 2 for one in problems}
    assert set(report["score"]) == {0.5}


def test_report_counts_by_hand() -> None:
    rows = [("sort", 1, True), ("sort", 2, False), ("sum", 1, True), ("sum", 2, True)]
    blank = dict.fromkeys(EVAL_ITEMS) | {"model": "checkpoint", "metric": "greedy"}
    items = pl.DataFrame(
        [blank | {"task": task, "stratum": stratum, "is_correct": right} for task, stratum, right in rows],
        schema=EVAL_ITEMS,
    )
    report = summarise_items(items, benchmark="small_world")
    names = report.select("task", "stratum", "score").rows()
    assert names == [("all", None, 0.75), ("sort", None, 0.5), ("sum", None, 1.0), ("all", 1, 1.0), ("all", 2, 0.5)]


def test_the_small_worlds_ids_seeds_and_problems_stay_the_same() -> None:
    """Every round of every experiment samples by them; the hash is of the list before worlds had a contract."""
    problems, asked = draw_problems(WORLD, 8), []

    def note(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
        metric = stage.removeprefix("checkpoint_")
        for problem, request in zip(problems, requests, strict=True):
            facts = (problem.prompt, problem.answer, problem.task, problem.stratum, problem.key)
            asked.append((*facts, metric, request.row_id, request.sampling_seed))
        return [Sample(request.row_id, "", "stop", 1, 1) for request in requests]

    evaluate_world(note, WORLD, problems, model_name="checkpoint")
    found = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    assert found == "eb991c7513c7c74b1290e919ca1d9d3c2956b670a94d09906f6b7987c2c991fd"
