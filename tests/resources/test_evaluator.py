import json
from pathlib import Path

import pytest

from lance_assets.records import EVAL_REPORT
from resources.evaluation.evaluator import (
    EvaluationError,
    parse_lm_eval,
    run_lm_eval,
)


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
    found = run_lm_eval(
        tiny_model,
        ["tiny_reverse"],
        model_name="checkpoint",
        include_path=tmp_path,
        limit=4,
        batch_size=2,
        log=lines.append,
    )
    report = found.report
    assert report.schema == EVAL_REPORT
    row = report.filter(metric="acc").row(0, named=True)
    assert (row["benchmark"], row["task"], row["num_items"]) == ("tiny_reverse", "all", 4)
    assert row["ci_low"] <= row["score"] <= row["ci_high"]
    assert lines


@pytest.mark.slow
def test_an_unknown_harness_task(tiny_model: Path) -> None:
    with pytest.raises(EvaluationError, match=r"(?s)no_such_task.*lm-eval ls tasks.*no_such_task"):
        run_lm_eval(tiny_model, ["no_such_task"], model_name="checkpoint", log=lambda _: None)
    with pytest.raises(ValueError, match="at least one"):
        run_lm_eval(tiny_model, [], model_name="checkpoint", log=lambda _: None)


def test_intervals_of_harness_scores() -> None:
    scores = {"acc,none": 0.0, "acc_stderr,none": 0.0, "loss,none": 2.5, "loss_stderr,none": "N/A"}
    report = parse_lm_eval({"results": {"t": scores}, "n-samples": {"t": {"effective": 50}}}, model_name="checkpoint")
    accuracy, loss = report.rows(named=True)
    assert (accuracy["ci_low"], accuracy["num_items"]) == (0.0, 50)
    assert accuracy["ci_high"] == pytest.approx(0.0713, abs=1e-3)  # Wilson: 1.96^2 / (50 + 1.96^2)
    assert (loss["ci_low"], loss["ci_high"]) == (None, None)
