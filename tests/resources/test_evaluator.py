import json
import math
import shutil
from pathlib import Path

import polars as pl
import pytest

from lance_assets.algorithms.measures.statistics import compute_wilson_interval
from lance_assets.records import EVAL_REPORT, HARNESS_ITEMS
from resources.evaluation import evaluator
from resources.evaluation.evaluator import HarnessRun, run_lm_eval
from resources.evaluation.harness_report import EvaluationError, parse_lm_eval, parse_samples


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


def write_harness_tasks(folder: Path) -> None:
    """Two tasks whose names are in the opposite order of their files' rows, and a perplexity."""
    rows = [{"question": f"Reverse the list {i} 2.", "answer": f"2 {i}"} for i in range(3, 8)]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {folder / 'items.jsonl'}\ntest_split: test\n"
    choices = "doc_to_choice: ['{{answer}}', '9 9']\ndoc_to_target: 0\n"
    metrics = "metric_list:\n" + "".join(
        f"  - metric: {metric}\n    aggregation: mean\n    higher_is_better: true\n" for metric in ("acc", "acc_norm")
    )
    for name in ("a_task", "b_task"):
        (folder / f"{name}.yaml").write_text(
            f"task: {name}\n{data}output_type: multiple_choice\ndoc_to_text: '{{{{question}}}}'\n{choices}{metrics}"
        )
    (folder / "words.yaml").write_text(
        f"task: words\n{data}output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{{{question}}}}'\n"
        "metric_list:\n  - metric: word_perplexity\n    aggregation: weighted_perplexity\n    higher_is_better: false\n"
    )


@pytest.mark.slow
def test_local_harness_tasks(tiny_model: Path, tmp_path: Path) -> None:
    """Of an accuracy each item is kept, and their mean is the score; of a perplexity none is, since it is no mean."""
    write_harness_tasks(tmp_path)
    lines: list[str] = []
    found, other = run_lm_eval(
        tiny_model,
        [HarnessRun(["b_task", "words", "a_task"], limit=4), HarnessRun(["a_task"], num_fewshot=1, limit=2)],
        model_name="checkpoint",
        include_path=tmp_path,
        batch_size=2,
        log=lines.append,
    )
    assert sum("Loading weights: 100%" in line for line in lines) == 1, "the model is loaded once for both"
    assert other.num_asked == {"a_task": 2}
    assert set(other.report["num_items"]) == {2}
    assert found.seconds > 0, "the model answered for some time, whatever the rest took"
    assert found.report.schema == EVAL_REPORT
    assert set(found.report["num_items"]) == {4}
    row = found.report.filter(benchmark="b_task", metric="acc").row(0, named=True)
    assert row["ci_low"] <= row["score"] <= row["ci_high"]
    directions = dict(found.report.select("metric", "higher_is_better").iter_rows())
    assert directions == {"acc": True, "acc_norm": True, "word_perplexity": False}
    assert found.items.schema == HARNESS_ITEMS
    for (benchmark, metric), items in found.items.group_by("benchmark", "metric"):
        score = found.report.filter(benchmark=benchmark, metric=metric).row(0, named=True)
        assert items["item"].n_unique() == score["num_items"] == 4
        assert items["score"].mean() == pytest.approx(score["score"])
    assert sorted(found.items.select("benchmark", "metric").unique().rows()) == [
        (task, metric) for task in ("a_task", "b_task") for metric in ("acc", "acc_norm")
    ]
    # The same documents have the same keys in every task and run.
    keys = [found.items.filter(benchmark=task, metric="acc")["item"].to_list() for task in ("a_task", "b_task")]
    assert keys[0] == keys[1]


def test_a_groups_subtasks_are_parts_of_it() -> None:
    """mmlu holds stem, which holds physics; mixed has no score, so mmlu holds what is in it."""
    accuracy = {"acc,none": 0.5, "acc_stderr,none": 0.1, "alias": "x"}
    report = {
        "results": {name: accuracy for name in ("mmlu", "stem", "physics", "other", "alone", "inner")} | {"mixed": {}},
        "group_subtasks": {"mmlu": ["stem", "mixed"], "stem": ["physics"], "mixed": ["inner"], "loose": ["other"]},
        "n-samples": {},
        "higher_is_better": {"mmlu": {"acc": None}, "alone": {"acc": False}},
    }
    found = parse_lm_eval(report, model_name="checkpoint")
    assert dict(found.select("benchmark", "part_of").iter_rows()) == {
        **{"mmlu": None, "stem": "mmlu", "physics": "stem", "other": None, "alone": None, "inner": "mmlu"}
    }
    assert found.filter(~pl.col("higher_is_better"))["benchmark"].to_list() == ["alone"]


def test_items_that_do_not_make_the_score_are_left_out() -> None:
    """A perplexity of 2 from log-likelihoods, a pair of numbers for each item, and an accuracy of 0.5."""
    scores = {"acc,none": 0.5, "ppl,none": 2.0, "f1,none": 0.5, "acc,strict": 1.0}
    report = parse_lm_eval({"results": {"t": scores}, "n-samples": {}}, model_name="checkpoint")
    samples = [
        {
            **{"doc_id": place, "doc_hash": "ab" * 32, "filter": "none", "metrics": ["acc", "ppl", "f1"]},
            **{"acc": place == 0, "ppl": -0.7, "f1": [1, 0]},
        }
        for place in range(2)
    ]
    samples += [sample | {"filter": "strict", "metrics": ["acc"], "acc": 1} for sample in samples]
    assert parse_samples({"t": samples}, report).rows() == [
        ("checkpoint", "t", "acc", f"0-{'ab' * 8}", 1.0),
        ("checkpoint", "t", "acc", f"1-{'ab' * 8}", 0.0),
        ("checkpoint", "t", "acc (strict)", f"0-{'ab' * 8}", 1.0),
        ("checkpoint", "t", "acc (strict)", f"1-{'ab' * 8}", 1.0),
    ]


@pytest.mark.slow
def test_items_of_a_chat_have_the_system_message(tiny_model: Path, tmp_path: Path) -> None:
    """The model's chat template refuses every chat that does not begin with it."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    refusing = (
        "{% if messages[0].role != 'system' or messages[0].content != 'Be brief.\nBe kind.' %}"
        "{{ raise_exception('no system message') }}{% endif %}"
        "{% for message in messages %}{{ message.content }}{% endfor %}"
    )
    (model / "chat_template.jinja").write_text(refusing)
    write_harness_tasks(tmp_path)
    asked = {"model_name": "checkpoint", "include_path": tmp_path, "log": lambda _: None}
    (found,) = run_lm_eval(model, [HarnessRun(["b_task"], limit=2)], system_message="Be brief.\nBe kind.", **asked)
    assert len(found.report)
    with pytest.raises(EvaluationError, match="no system message"):
        run_lm_eval(model, [HarnessRun(["b_task"], limit=2)], **asked)


@pytest.mark.slow
def test_a_second_try_takes_up_what_the_first_one_finished(tiny_model: Path, tmp_path: Path) -> None:
    """Both models of the harness give the same scores, and what is kept is asked of no model again."""
    write_harness_tasks(tmp_path)
    asked = {"model_name": "checkpoint", "include_path": tmp_path, "batch_size": 2}
    reports = [run_lm_eval(tiny_model, [HarnessRun(["b_task"])], backend="hf", log=print, **asked)[0].report]
    lines: list[str] = []
    for _ in range(2):
        lines.clear()
        run = HarnessRun(["b_task"], kept=tmp_path / "kept")
        reports.append(run_lm_eval(tiny_model, [run], log=lines.append, **asked)[0].report)
    assert any("Requests remaining: 0" in line for line in lines)
    for report in reports[1:]:
        assert report.drop("score", "ci_low", "ci_high").equals(reports[0].drop("score", "ci_low", "ci_high"))
        assert report["score"].to_list() == pytest.approx(reports[0]["score"].to_list())


@pytest.mark.slow
def test_an_unknown_harness_task(tiny_model: Path) -> None:
    with pytest.raises(EvaluationError, match=r"(?s)no_such_task.*lm-eval ls tasks.*no_such_task"):
        run_lm_eval(tiny_model, [HarnessRun(["no_such_task"])], model_name="checkpoint", log=lambda _: None)
    with pytest.raises(ValueError, match="at least one"):
        run_lm_eval(tiny_model, [HarnessRun([])], model_name="checkpoint", log=lambda _: None)


@pytest.mark.parametrize("score", [1 / 40, 0.5, 1.0])
def test_items_that_are_right_or_wrong_have_wilsons_interval(score: float) -> None:
    """The harness's standard error of 1 of 40 would reach below 0; that of an F1 is another."""
    stderr = math.sqrt(score * (1 - score) / 39)
    for error, is_rate in ((stderr, True), (stderr + 0.01, False)):
        scores = {"acc,none": score, "acc_stderr,none": error}
        report = parse_lm_eval({"results": {"t": scores}, "n-samples": {"t": {"effective": 40}}}, model_name="m")
        found = report.select("ci_low", "ci_high").row(0)
        assert (found == pytest.approx(compute_wilson_interval(score * 40, 40))) == is_rate
        assert not is_rate or 0 <= found[0] <= score <= found[1] <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("has_template", "setting", "is_chat"), [(True, None, True), (False, None, False), (True, False, False)]
)
def test_a_model_with_a_chat_template_is_asked_as_a_chat(
    has_template: bool,
    setting: bool | None,
    is_chat: bool,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the harness is started with: the message and the turns belong to the chat."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    if not has_template:
        (model / "chat_template.jinja").unlink()
    started: list[list[str]] = []

    def stop(program: str, job: dict, *others: object) -> None:
        started.extend(run["arguments"] for run in job["runs"])
        raise EvaluationError("far enough")

    monkeypatch.setattr(evaluator, "_run_harness", stop)
    chosen = {} if setting is None else {"apply_chat_template": setting}
    with pytest.raises(EvaluationError, match="far enough"):
        run_lm_eval(model, [HarnessRun(["t"])], model_name="m", log=print, system_message="Be kind.", **chosen)
    (command,) = started
    chat = ["--apply_chat_template", "--fewshot_as_multiturn", "true", "--system_instruction", "Be kind."]
    place = command.index(chat[0]) if is_chat else 0
    assert command[place : place + len(chat)] == chat if is_chat else not set(chat) & set(command)


def test_intervals_of_harness_scores() -> None:
    scores = {"acc,none": 0.0, "acc_stderr,none": 0.0, "loss,none": 2.5, "loss_stderr,none": "N/A"}
    report = parse_lm_eval({"results": {"t": scores}, "n-samples": {"t": {"effective": 50}}}, model_name="checkpoint")
    accuracy, loss = report.rows(named=True)
    assert (accuracy["ci_low"], accuracy["num_items"]) == (0.0, 50)
    assert accuracy["ci_high"] == pytest.approx(0.0713, abs=1e-3)  # Wilson: 1.96^2 / (50 + 1.96^2)
    assert (loss["ci_low"], loss["ci_high"]) == (None, None)
