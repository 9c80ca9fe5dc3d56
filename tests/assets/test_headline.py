"""What rounds are compared by, through Dagster: the harness's figures are scripted, everything after them is real."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl
import pytest

# As every integration does: there is no public way to serve a workspace.
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget
from dagster_webserver.webserver import DagsterWebserver
from starlette.testclient import TestClient

from lance_assets.assets.sensors import decide
from lance_assets.pictures.leaderboard import tabulate_experiments
from lance_assets.records import HARNESS_ITEMS
from lance_assets.rounds.finished.leaderboard import read_leaderboard
from lance_assets.rounds.headline import compare_with, find_headline
from lance_assets.rounds.identity.kept import read_identity, record_identity
from lance_assets.rounds.making import evaluating
from lance_assets.rounds.nouns import NOUNS
from lance_assets.rounds.round import make_noun
from lance_assets.rounds.world_evaluation import summarise_items
from resources.evaluation.evaluator import HarnessResult, HarnessRun
from resources.evaluation.harness_report import parse_lm_eval
from tests.assets.conftest import OpenWorld
from tests.assets.tiny_experiment import World, find_failures

NUM_ITEMS = 40
Found = Mapping[str, float]
"""By 'task metric,filter' the score of one model; accuracies are multiples of 1/40."""


@pytest.fixture
def open_harness(
    make_scripted_world: OpenWorld, scripted_rounds: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., World]:
    """Opens a world with r0000 and r0001, whose harness finds the given scores of each round's checkpoint."""

    def open_world(found: Mapping[str, Found], *, evaluation: dict | None = None, **changed: object) -> World:
        def run(model_path: Path, runs: list[HarnessRun], *, model_name: str, **_: object) -> list[HarnessResult]:
            of_round = next((key for key in found if key in str(model_path)), "backbone")
            return [script_harness(found.get(of_round, found["r0000"]), model_name) for _ in runs]

        monkeypatch.setattr(evaluating, "run_lm_eval", run)
        tasks = list(dict.fromkeys(name.split(" ")[0] for name in found["r0000"]))
        settings = {"lm_eval": {"tasks": tasks}} | (evaluation or {})
        return make_scripted_world(made_before=scripted_rounds, evaluation=settings, **changed)

    return open_world


def script_harness(scores: Found, model_name: str) -> HarnessResult:
    """A result file of the harness, in the order of the scores, and for each accuracy so many right of 40 items."""
    results: dict[str, dict[str, object]] = {}
    directions: dict[str, dict[str, bool]] = {}
    for name, score in scores.items():
        task, metric = name.split(" ")
        stderr = metric.replace(",", "_stderr,")
        results.setdefault(task, {}).update({metric: score, stderr: 0.05})
        directions.setdefault(task, {})[metric.split(",")[0]] = "perplexity" not in metric
    counts = {task: {"effective": NUM_ITEMS} for task in results}
    report = parse_lm_eval(
        {"results": results, "n-samples": counts, "higher_is_better": directions}, model_name=model_name
    )
    items = [
        {name: row[name] for name in ("model", "benchmark", "metric")}
        | {"item": f"{place}", "score": float(place < round(row["score"] * NUM_ITEMS))}
        for row in report.filter("higher_is_better").to_dicts()
        if 0 <= row["score"] <= 1
        for place in range(NUM_ITEMS)
    ]
    return HarnessResult(report, pl.DataFrame(items, schema=HARNESS_ITEMS))


def evaluate(world: World, key: str) -> dict[str, object]:
    result = world.materialize(key, "eval_report")
    assert result.success, find_failures(result)
    return world.metadata("eval_report", key)


def judge(world: World, key: str, *, succeeds: bool = True) -> dict[str, tuple[bool, str]]:
    """Evaluate a round: of each check whether it passed, with its description and severity."""
    result = world.materialize(key, "eval_report")
    assert result.success == succeeds, find_failures(result)
    return {
        check.check_name: (check.passed, f"{check.severity.value}: {check.description}")
        for check in result.get_asset_check_evaluations()
    }


B_TASK_FIRST = {"b_task acc,none": 0.5, "b_task acc_norm,none": 0.6, "a_task acc,none": 0.2}


@pytest.mark.slow
def test_two_tasks_give_their_mean_in_whatever_order_they_are_written(open_harness: Callable[..., World]) -> None:
    """b_task's main metric 0.6 and a_task's 0.2 give 0.4; a_task falls by 0.1 and b_task rises by 0.3."""
    after = {"b_task acc,none": 0.5, "b_task acc_norm,none": 0.9, "a_task acc,none": 0.1}
    for before in (B_TASK_FIRST, dict(reversed(B_TASK_FIRST.items()))):
        world = open_harness({"r0000": before, "r0001": after})
        shown = evaluate(world, "r0000")
        assert shown["metric"] == "mean of 2 a_task acc, b_task acc_norm"
        assert shown["score"] == pytest.approx(0.4)
        shown = evaluate(world, "r0001")
        assert shown["score"] == pytest.approx(0.5)
        # 4 of 40 items of one task fell, and 12 of the other rose: paired over 40 items each.
        errors = [math.sqrt((share - share**2) * 40 / 39) / math.sqrt(40) for share in (0.1, 0.3)]
        half = 1.959964 * math.hypot(*errors) / 2
        assert compare_with(world.round("r0001"), "r0000") == pytest.approx((0.1, 0.1 - half, 0.1 + half), abs=1e-6)
        assert str(shown["against_best"]).startswith("r0000: +0.100 [")


def test_rounds_evaluated_with_other_limits_are_not_compared(open_harness: Callable[..., World]) -> None:
    """r0000 is said to have been scored on 20 items of each task, and as plain text."""
    world = open_harness({"r0000": B_TASK_FIRST, "r0001": B_TASK_FIRST})
    evaluate(world, "r0000")
    evaluate(world, "r0001")
    tables = world.round("r0000").platform.tables
    kept = read_identity(tables, "tiny", "r0000", "eval_report")
    assert compare_with(world.round("r0001"), "r0000")[0] == 0
    kept["settings"]["lm_eval"] |= {"limit": 20, "apply_chat_template": False}
    record_identity(tables, "tiny", "r0000", "eval_report", kept)
    told = (
        r"r0001 was evaluated otherwise than r0000 \(lm_eval.limit null in place of 20; "
        r"lm_eval.apply_chat_template null in place of false\).*materialize eval_report of both"
    )
    with pytest.raises(ValueError, match=told):
        compare_with(world.round("r0001"), "r0000")


def test_a_named_headline_needs_no_new_evaluation(open_harness: Callable[..., World]) -> None:
    """GSM8K's strict match beside its flexible one: the default takes the flexible one, and a name the strict one."""
    found = {"gsm8k exact_match,strict-match": 0.2, "gsm8k exact_match,flexible-extract": 0.775}
    world = open_harness({"r0000": found, "r0001": found})
    assert evaluate(world, "r0000")["score"] == pytest.approx(0.775)
    strict = {"benchmark": "gsm8k", "metric": "exact_match", "filter": "strict-match"}
    named = open_harness({"r0000": found, "r0001": found}, evaluation={"headline": [strict]})
    for name in ("eval_report", "harness_items", "judge_items", "eval_items"):
        named.round("r0000").write(name, world.round("r0000").read(name))
    headline = find_headline(named.round("r0000"))
    assert headline is not None
    assert (headline["score"], headline["metric"]) == (0.2, "exact_match (strict-match)")


@pytest.mark.slow
def test_forty_perplexity_does_not_beat_twelve(open_harness: Callable[..., World]) -> None:
    """r0001 is worse by 27.7 +- 0.14, so that it is a regression, is rolled back, and is second on the leaderboard."""
    found = {"r0000": {"words word_perplexity,none": 12.3}, "r0001": {"words word_perplexity,none": 40.0}}
    world = open_harness(found, stop={"max_rounds": 9, "on_regression": "rollback"})
    evaluate(world, "r0000")
    shown = evaluate(world, "r0001")
    assert (shown["is_regression"], shown["higher_is_better"]) == (True, False)
    assert str(shown["against_best"]).startswith("r0000: +27.700")
    make_noun(world.round("r0002"), NOUNS["start_checkpoint"])
    assert world.round("r0002").read("start_checkpoint")["parent_round"].to_list() == ["r0000"]
    rows, left_out = read_leaderboard([world.plan], world.platform)
    assert left_out == {}
    assert rows.select("round", "score", "higher_is_better").rows() == [("r0000", 12.3, False), ("r0001", 40.0, False)]
    table = tabulate_experiments(rows)
    assert "**words word_perplexity, 40 items, lower is better**" in table
    assert "| 1 | tiny | lance | r0000 of 2 |" in table
    stopping = open_harness(found, stop={"max_rounds": 9, "on_regression": "stop"})
    for key in found:
        evaluate(stopping, key)
    decision = decide(stopping.instance, stopping.plan, stopping.platform)
    assert decision.reason == "r0001 regressed against r0000 beyond the noise band"


def test_a_setting_turns_a_metric_round(open_harness: Callable[..., World]) -> None:
    """The harness says that a lower perplexity is better, and the file that a higher one is."""
    found = {"r0000": {"words word_perplexity,none": 12.3}, "r0001": {"words word_perplexity,none": 40.0}}
    world = open_harness(found, evaluation={"higher_is_better": {"word_perplexity": True}})
    evaluate(world, "r0000")
    assert evaluate(world, "r0001")["is_regression"] is False


@pytest.mark.parametrize(
    ("scores", "headline", "told"),
    [
        ({"words word_perplexity,none": math.nan}, [], "words word_perplexity, and it is nan"),
        ({"words word_perplexity,none": math.inf}, [], "words word_perplexity, and it is inf"),
        (
            {"a acc,none": 0.5},
            [{"benchmark": "a", "metric": "f1"}],
            "evaluation.headline: eval_report has no score 'a f1'",
        ),
        ({"a acc,none": 0.5, "words word_perplexity,none": 9.0}, [], "a acc higher, words word_perplexity lower"),
    ],
    ids=["nan", "inf", "missing", "mixed"],
)
def test_a_headline_that_is_none_is_an_error_with_words(
    open_harness: Callable[..., World], scores: Found, headline: list[dict], told: str
) -> None:
    world = open_harness({"r0000": scores}, evaluation={"headline": headline})
    before = world.round("r0000").read("eval_report")
    result = world.materialize("r0000", "eval_report")
    assert not result.success
    (message,) = find_failures(result).values()
    assert message.startswith("tiny r0000 eval_report: ")
    assert told in message
    assert world.round("r0000").read("eval_report").equals(before)


TASKS = {"a acc,none": 0.9, "b acc,none": 0.5}
TRADED = {"a acc,none": 0.5, "b acc,none": 0.95}


def test_a_floor_blocks_by_itself(open_harness: Callable[..., World]) -> None:
    """The mean rises, and a falls below its floor: the check is an error, and nothing is built on the round."""
    floors = [{"benchmark": "a", "metric": "acc", "worst": 0.6, "max_fall": 0.1}]
    world = open_harness(
        {"r0000": TASKS, "r0001": TRADED},
        evaluation={"floors": floors},
        stop={"max_rounds": 9, "on_regression": "continue"},
    )
    assert judge(world, "r0000")["floors"][0]
    checks = judge(world, "r0001", succeeds=False)
    assert checks["no_regression"][0]
    assert checks["floors"] == (
        False,
        "ERROR: a acc is 0.5, below the floor 0.6; "
        "a acc is 0.5, worse by 0.4 than 0.9 in r0000; the largest fall allowed is 0.1",
    )
    assert decide(world.instance, world.plan, world.platform).next_round == "r0002"
    make_noun(world.round("r0002"), NOUNS["start_checkpoint"])
    assert world.round("r0002").read("start_checkpoint")["parent_round"].to_list() == ["r0000"]


def test_a_fall_of_one_task_is_seen_though_the_mean_rises(open_harness: Callable[..., World]) -> None:
    world = open_harness({"r0000": TASKS, "r0001": TRADED})
    passed, told = judge(world, "r0000")["no_forgetting"]
    assert passed
    assert "0 of 2 scores fell" in told
    checks = judge(world, "r0001")
    passed, told = checks["no_forgetting"]
    assert not passed
    # The raw backbone was evaluated with r0000's scores, and is the first of equals.
    assert told.startswith("WARN: a acc fell from 0.9 in backbone to 0.5 in r0001 (worse by 0.4 [0.")
    assert "b acc" not in told
    assert checks["no_regression"][0]
    assert "nothing" not in str(world.metadata("eval_report", "r0001")["retention"])


@pytest.mark.slow
def test_a_bar_or_none_lets_a_fall_pass(open_harness: Callable[..., World]) -> None:
    for bar in (0.35, None):
        world = open_harness(
            {"r0000": TASKS, "r0001": TRADED},
            checks={"max_unscored_rate": 1.0, "min_pairs": 0, "max_forgetting": bar},
        )
        evaluate(world, "r0000")
        assert judge(world, "r0001")["no_forgetting"][0]


@pytest.mark.slow
def test_the_ui_shows_the_headline_a_broken_floor_and_what_was_forgotten(
    open_harness: Callable[..., World], monkeypatch: pytest.MonkeyPatch, project_root: Path
) -> None:
    """The page of eval_report, by the webserver's GraphQL: metadata of r0001, and the red cells of its checks."""
    floors = [{"benchmark": "a", "metric": "acc", "worst": 0.6}]
    world = open_harness({"r0000": TASKS, "r0001": TRADED}, evaluation={"floors": floors})
    judge(world, "r0000")
    judge(world, "r0001", succeeds=False)
    monkeypatch.setenv("TINY_WORLD", str(world.root))
    target = PythonFileTarget(
        python_file=str(Path(__file__).parent / "scripted_workspace.py"),
        attribute=None,
        working_directory=str(project_root),
        location_name="tiny",
    )
    with WorkspaceProcessContext(world.instance, target) as workspace:
        client = TestClient(DagsterWebserver(workspace).create_asgi_app())
        reply = client.post(
            "/graphql",
            json={
                "query": """{ assetNodes(assetKeys: [{path: ["tiny", "eval_report"]}]) {
                    assetMaterializations(partitions: ["r0001"], limit: 1) { metadataEntries {
                        label ... on TextMetadataEntry { text } ... on FloatMetadataEntry { floatValue } } }
                    assetChecksOrError { ... on AssetChecks { checks { name blocking partitionStatuses {
                        ... on AssetCheckDefaultPartitionStatuses { succeededPartitions failedPartitions }
                    } } } } } }"""
            },
        ).json()
    assert "errors" not in reply, reply["errors"]
    (node,) = reply["data"]["assetNodes"]
    shown = {entry["label"]: entry for entry in node["assetMaterializations"][0]["metadataEntries"]}
    assert shown["metric"]["text"] == "mean of 2 a acc, b acc"
    assert shown["score"]["floatValue"] == pytest.approx((0.5 + 0.95) / 2)
    assert "retention" in shown
    checks = {check["name"]: check for check in node["assetChecksOrError"]["checks"]}
    assert [name for name, check in checks.items() if check["blocking"]] == ["floors"]
    for name, failed in (("floors", ["r0001"]), ("no_forgetting", ["r0001"]), ("no_regression", [])):
        statuses = checks[name]["partitionStatuses"]
        assert statuses["failedPartitions"] == failed, name
        assert "r0000" in statuses["succeededPartitions"], name


def reject(world: World, key: str) -> None:
    """Make every answer of a round wrong: it is worse than every round before it beyond the noise."""
    this_round = world.round(key)
    items = this_round.read("eval_items").with_columns(is_correct=pl.lit(False))
    this_round.write("eval_items", items)
    this_round.write("eval_report", summarise_items(items, benchmark="small_world"))


def list_data(world: World, key: str) -> dict[str, set[str]]:
    """The rounds whose rows are in each accumulated set of a round, and those whose texts it was compared with."""
    this_round = world.round(key)
    found = {noun: set(this_round.read(noun)["source_round"].drop_nulls()) for noun in ("sft_set", "preference_pairs")}
    found["seed_set"] = set(this_round.read("seed_set")["source_round"].drop_nulls())
    found["near_duplicates"] = set(this_round.read("near_duplicates")["other_round"])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["keep", "leave_out"])
def test_a_rejected_rounds_data_is_kept_or_left_out(
    make_scripted_world: OpenWorld, scripted_rounds: Path, rule: str
) -> None:
    """r0001 is rejected after the fact. r0002 and r0003 hold its rows with `keep`, and none with `leave_out`."""
    world = make_scripted_world(
        made_before=scripted_rounds,
        max_seeds=None,
        stop={"max_rounds": 9, "on_regression": "rollback", "rejected_data": rule},
    )
    assert all(world.round("r0001").read(noun).height for noun in ("sft_set", "preference_pairs"))
    reject(world, "r0001")
    for key in ("r0002", "r0003"):
        result = world.run(key)
        assert result.success, find_failures(result)
    start = world.round("r0002").read("start_checkpoint").row(0, named=True)
    assert start["parent_round"] == "r0000"
    assert start["left_out"] == ([] if rule == "keep" else ["r0001"])
    for key in ("r0002", "r0003"):
        for noun, rounds in list_data(world, key).items():
            assert ("r0001" in rounds) == (rule == "keep"), (key, noun)
            assert key == "r0002" or noun in ("seed_set", "near_duplicates") or {"r0002", "r0003"} <= rounds, (
                key,
                noun,
            )
    assert "r0000" in list_data(world, "r0003")["sft_set"]


def test_a_rejected_round_changes_what_the_next_begins_with(
    make_scripted_world: OpenWorld, scripted_rounds: Path
) -> None:
    """The data version of start_checkpoint covers what is left out, and its code version the setting."""
    versions = []
    for rule in ("keep", "leave_out"):
        world = make_scripted_world(made_before=scripted_rounds, stop={"max_rounds": 9, "rejected_data": rule})
        reject(world, "r0001")
        versions.append(make_noun(world.round("r0002"), NOUNS["start_checkpoint"]).version)
    assert versions[0] != versions[1]
