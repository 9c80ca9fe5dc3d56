"""A step that fails late costs itself: what was made before it is taken up, and what stopped a round is told."""

from pathlib import Path

import polars as pl
import pytest

from lance_assets.records import EVAL_REPORT, HARNESS_ITEMS
from lance_assets.rounds.finished.summary import describe_rounds
from lance_assets.rounds.making import evaluating
from lance_assets.rounds.making.evaluating import describe_no_news, run_harness
from lance_assets.rounds.making.reviewing import explain_unscored
from lance_assets.settings.evaluation import LmEvalSettings
from resources.evaluation.evaluator import HarnessResult, HarnessRun
from tests.assets.conftest import OpenWorld


def test_the_harness_is_not_asked_again_after_a_later_part_failed(
    make_scripted_world: OpenWorld, scripted_rounds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same scores and items; again where its settings are others, or once eval_report was written."""
    score = {"model": "checkpoint", "benchmark": "t", "metric": "acc", "task": "all", "score": 0.5, "ci_low": None}
    report = pl.DataFrame([score | {"num_items": 2, "higher_is_better": True}], schema=EVAL_REPORT)
    item = {"model": "checkpoint", "benchmark": "t", "metric": "acc", "item": "0-ab", "score": 1.0}
    asked: list[list[str]] = []

    def run(path: Path, runs: list[HarnessRun], **_: object) -> list[HarnessResult]:
        asked.append([task for run in runs for task in run.tasks])
        return [HarnessResult(report, pl.DataFrame([item], schema=HARNESS_ITEMS)) for _ in runs]

    monkeypatch.setattr(evaluating, "run_lm_eval", run)
    world = make_scripted_world(made_before=scripted_rounds)
    this_round = world.round("r0001")
    path, tasks = this_round.model_path("r0001"), LmEvalSettings(tasks=["t"])
    (first,), (again,) = (run_harness(this_round, "checkpoint", path, tasks) for _ in range(2))
    assert len(asked) == 1
    assert again.report.equals(first.report)
    assert again.items.equals(first.items)
    run_harness(this_round, "checkpoint", path, LmEvalSettings(tasks=["t"], limit=3))
    assert len(asked) == 2
    this_round.forget_stage("eval_report")
    run_harness(this_round, "checkpoint", path, tasks)
    assert len(asked) == 3
    # Two ways of asking are one process, which is asked for what is missing alone.
    found = run_harness(this_round, "checkpoint", path, LmEvalSettings(tasks=["t", "u"], by_task={"u": {"limit": 2}}))
    assert (len(found), asked[-1]) == (2, ["u"])
    found = run_harness(this_round, "checkpoint", path, LmEvalSettings(tasks=["v", "w"], by_task={"w": {"limit": 2}}))
    assert (len(found), asked[3:]) == (2, [["u"], ["v", "w"]])


def test_a_round_that_brought_nothing_says_so_first(make_scripted_world: OpenWorld, scripted_rounds: Path) -> None:
    world = make_scripted_world(made_before=scripted_rounds)
    this_round = world.round("r0001")
    assert describe_no_news(this_round) == {}
    this_round.write("preference_pairs", this_round.read("preference_pairs").clear())
    sft = this_round.read("sft_set")
    this_round.write("sft_set", sft.filter(pl.col("source_round") != "r0001"))
    said = describe_no_news(this_round)["nothing_new"]
    assert said.startswith("0 new rows: r0001 brought no SFT row and no preference pair")
    assert describe_rounds(world.plan, world.platform, ["r0000", "r0001"]).startswith(said)
    assert describe_no_news(world.round("r0000")) == {}


def test_what_stops_a_round_for_its_reviews_is_told() -> None:
    """Rates, reasons by their number, two different examples and remedies; a row that was not reviewed has neither."""
    long = "I like it. " * 60
    table = pl.DataFrame(
        {
            "reviews": [["I like it.", "score: 3"], [long, long], []],
            "unscored_reasons": [["no_score", None], ["cut_off", "cut_off"], []],
        },
        schema={"reviews": pl.List(pl.String), "unscored_reasons": pl.List(pl.String)},
    )
    said = explain_unscored(table, {"unscored_rate": 0.75, "unscored_row_rate": 0.5}, 0.2)
    assert "75% of the reviews and 50% of the rows have no score, more than the allowed 20%" in said
    assert "Reasons: cut_off 2, no_score 1." in said
    assert "'I like it.'; 'I like it. I like it." in said
    assert "What helps: another model as roles.reviewer" in said
    assert len(said) < 900
    cut = explain_unscored(table, {"unscored_rate": 0.75, "unscored_row_rate": 0.5}, 0.2, forces_endings=False)
    assert "What helps: force_ending: true, another model" in cut
