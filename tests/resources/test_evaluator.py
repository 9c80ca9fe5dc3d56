import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from lance_assets.algorithms.measures.statistics import compute_wilson_interval
from lance_assets.records import EVAL_ITEMS, EVAL_REPORT, Request, Sample, SamplingSettings
from lance_assets.small_world.tasks import complete, parse_prompt
from resources.engines.contract import ask_directly
from resources.engines.transformers.engine import TransformersEngine
from resources.evaluation.evaluator import (
    EvaluationError,
    evaluate_small_world,
    parse_lm_eval,
    run_lm_eval,
    summarise_items,
)


def answer_by_rule(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
    """Right when greedy, and of no use when sampled."""
    assert stage.endswith("greedy" if sampling.temperature == 0 else "sampled")
    right = [complete(parse_prompt(request.messages[-1]["content"])) for request in requests]
    texts = right if sampling.temperature == 0 else ["Hm."] * len(requests)
    return [Sample(request.row_id, text, "stop", 1, 1) for request, text in zip(requests, texts, strict=True)]


def fail_always(stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None) -> list[Sample]:
    return [Sample(request.row_id, "", "error", 1, 0, "no memory") for request in requests]


def test_items_and_report_of_a_perfect_and_a_useless_answerer() -> None:
    items = evaluate_small_world(answer_by_rule, model_name="checkpoint", per_rung=2, rungs=(1, 3))
    assert items.schema == EVAL_ITEMS
    assert items.height == 2 * 4 * 2 * 2
    report = summarise_items(items)
    assert report.schema == EVAL_REPORT
    # Of each metric: one over all, four tasks, two rungs.
    assert report.height == 2 * (1 + 4 + 2)
    greedy = report.filter(metric="greedy")
    assert greedy["task"].to_list() == ["all", "reverse", "sort", "sum", "story", "all", "all"]
    assert greedy["rung"].to_list() == [None, None, None, None, None, 1, 3]
    assert greedy["num_items"].to_list() == [16, 4, 4, 4, 4, 8, 8]
    assert greedy["score"].to_list() == [1.0] * 7
    assert (greedy["ci_low"][0], greedy["ci_high"][0]) == compute_wilson_interval(16, 16)
    assert report.filter(metric="sampled")["score"].to_list() == [0.0] * 7
    assert summarise_items(items.clear()).schema == EVAL_REPORT


def test_a_real_model_gives_the_same_items_twice(tiny_model: Path) -> None:
    ask = ask_directly(TransformersEngine(tiny_model, device="cpu", num_threads=1))
    options = {"model_name": "backbone", "per_rung": 1, "rungs": (1,), "max_new_tokens": 8}
    items = evaluate_small_world(ask, **options)
    assert items.equals(evaluate_small_world(ask, **options))
    assert items["completion"].str.len_chars().sum() > 0
    sampled = evaluate_small_world(ask, **options, temperature=1.3).filter(metric="sampled")
    assert sampled["completion"].to_list() != items.filter(metric="sampled")["completion"].to_list()


def test_an_engine_failure_is_no_wrong_answer() -> None:
    with pytest.raises(EvaluationError, match="no memory"):
        evaluate_small_world(fail_always, model_name="checkpoint", per_rung=1, rungs=(1,))


def test_harness_results_are_read() -> None:
    scores = {
        "alias": "gsm8k",
        "exact_match,strict-match": 0.5,
        "exact_match_stderr,strict-match": 0.1,
        "sample_len": 4,
    }
    scores |= {"bleu,none": 12.0, "bleu_stderr,none": "N/A"}
    report = parse_lm_eval(
        {"results": {"gsm8k": scores}, "n-samples": {"gsm8k": {"original": 9, "effective": 4}}}, model_name="checkpoint"
    )
    assert report["metric"].to_list() == ["exact_match (strict-match)", "bleu"]
    assert report["score"].to_list() == [0.5, 12.0]
    assert report["ci_low"].to_list() == [pytest.approx(0.304, abs=1e-4), None]
    assert report["num_items"].to_list() == [4, 4]
    with pytest.raises(EvaluationError, match="no score"):
        parse_lm_eval({"results": {"x": {"alias": "x"}}, "n-samples": {}}, model_name="checkpoint")


def test_a_local_harness_task(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"question": f"Reverse the list {i} 2.", "answer": f"2 {i}"} for i in range(3, 8)]
    data = tmp_path / "items.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "reverse.yaml").write_text(
        "task: tiny_reverse\ndataset_path: json\n"
        f"dataset_kwargs:\n  data_files:\n    test: {data}\n"
        "test_split: test\noutput_type: multiple_choice\n"
        "doc_to_text: '{{question}}'\ndoc_to_choice: ['{{answer}}', '9 9']\ndoc_to_target: 0\n"
        "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
    )
    lines: list[str] = []
    report = run_lm_eval(
        tiny_model,
        ["tiny_reverse"],
        model_name="checkpoint",
        include_path=tmp_path,
        limit=4,
        batch_size=2,
        log=lines.append,
    )
    assert report.schema == EVAL_REPORT
    row = report.filter(metric="acc").row(0, named=True)
    assert (row["benchmark"], row["task"], row["num_items"]) == ("tiny_reverse", "all", 4)
    assert row["ci_low"] <= row["score"] <= row["ci_high"]
    assert lines


def test_an_unknown_harness_task(tiny_model: Path) -> None:
    with pytest.raises(EvaluationError, match=r"(?s)no_such_task.*lm-eval ls tasks.*no_such_task"):
        run_lm_eval(tiny_model, ["no_such_task"], model_name="checkpoint", log=lambda _: None)
    with pytest.raises(ValueError, match="at least one"):
        run_lm_eval(tiny_model, [], model_name="checkpoint", log=lambda _: None)


def test_report_counts_by_hand() -> None:
    rows = [("sort", 1, True), ("sort", 2, False), ("sum", 1, True), ("sum", 2, True)]
    blank = dict.fromkeys(EVAL_ITEMS) | {"model": "checkpoint", "metric": "greedy"}
    items = pl.DataFrame(
        [blank | {"task": task, "rung": rung, "is_correct": right} for task, rung, right in rows], schema=EVAL_ITEMS
    )
    report = summarise_items(items)
    names = report.select("task", "rung", "score").rows()
    assert names == [("all", None, 0.75), ("sort", None, 0.5), ("sum", None, 1.0), ("all", 1, 1.0), ("all", 2, 0.5)]


def test_intervals_of_harness_scores() -> None:
    scores = {"acc,none": 0.0, "acc_stderr,none": 0.0, "loss,none": 2.5, "loss_stderr,none": "N/A"}
    report = parse_lm_eval({"results": {"t": scores}, "n-samples": {"t": {"effective": 50}}}, model_name="checkpoint")
    accuracy, loss = report.rows(named=True)
    assert (accuracy["ci_low"], accuracy["num_items"]) == (0.0, 50)
    assert accuracy["ci_high"] == pytest.approx(0.0713, abs=1e-3)  # Wilson: 1.96^2 / (50 + 1.96^2)
    assert (loss["ci_low"], loss["ci_high"]) == (None, None)
