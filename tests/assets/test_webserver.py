"""The webserver in this process, asked what the UI asks it; runs have processes of their own, as in real life."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

# As every integration does: there is no public way to serve a workspace or to tick the daemons.
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._daemon.sensor import execute_sensor_iteration
from dagster_webserver.webserver import DagsterWebserver
from starlette.testclient import TestClient

from lance_assets.assets import run as command_line
from lance_assets.assets.names import find_key
from tests.assets.conftest import OpenWorld
from tests.assets.tiny_experiment import CHECKS, NOUNS, World

pytestmark = pytest.mark.slow

REPOSITORY = {"repositoryLocationName": "tiny", "repositoryName": "__repository__"}
SECONDS = 120


class Ui:
    """What the UI does, by its own GraphQL."""

    def __init__(self, world: World, workspace: WorkspaceProcessContext, client: TestClient) -> None:
        self.world, self.workspace, self.client = world, workspace, client

    def ask(self, query: str, **variables: object) -> dict:
        reply = self.client.post("/graphql", json={"query": query, "variables": variables}).json()
        assert "errors" not in reply, reply["errors"]
        return reply["data"]

    def add_round(self, key: str) -> str:
        """The dialog's "add partition"."""
        added = self.ask(
            """mutation AddDynamicPartition($key: String!, $repository: RepositorySelector!) {
                 addDynamicPartition(
                   partitionKey: $key, partitionsDefName: "tiny_round", repositorySelector: $repository
                 ) { __typename }
               }""",
            key=key,
            repository=REPOSITORY,
        )
        return added["addDynamicPartition"]["__typename"]

    def materialize(self, key: str) -> str:
        """The button "Materialize" for all assets of a round; returns the run."""
        launched = self.launch(key, {})
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return launched["run"]["runId"]

    def launch(self, key: str, run_config: dict) -> dict:
        """The launchpad's button, for all assets of a round; returns what the UI is told."""
        selector = {
            **REPOSITORY,
            "pipelineName": "__ASSET_JOB",
            "assetSelection": [{"path": ["tiny", noun]} for noun in NOUNS],
            "assetCheckSelection": [{"assetKey": {"path": ["tiny", noun]}, "name": name} for noun, name in CHECKS],
        }
        launched = self.ask(
            """mutation LaunchAssets($params: ExecutionParams!) {
                 launchPipelineExecution(executionParams: $params) {
                   __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
                   ... on RunConfigValidationInvalid { errors { message } }
                 }
               }""",
            params={
                "mode": "default",
                "runConfigData": json.dumps(run_config),
                "selector": selector,
                "executionMetadata": {"tags": [{"key": "dagster/partition", "value": key}]},
            },
        )["launchPipelineExecution"]
        return launched

    def backfill(self, *keys: str) -> list[dg.DagsterRun]:
        """The dialog's backfill over rounds, with the daemon's work done here; returns its runs, by round."""
        launched = self.ask(
            """mutation LaunchBackfill($params: LaunchBackfillParams!) {
                 launchPartitionBackfill(backfillParams: $params) {
                   __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message }
                 }
               }""",
            params={
                "partitionNames": list(keys),
                "assetSelection": [{"path": ["tiny", noun]} for noun in NOUNS],
                "fromFailure": False,
                "tags": [],
            },
        )["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        until = time.monotonic() + SECONDS
        while True:
            errors = [e for e in execute_backfill_iteration(self.workspace, logging.getLogger("backfill")) if e]
            assert not errors
            backfill = self.world.instance.get_backfill(launched["backfillId"])
            if backfill.status not in (backfill.status.REQUESTED, backfill.status.FAILING):
                break
            assert time.monotonic() < until, f"{launched} has not ended after {SECONDS} s"
            time.sleep(0.5)
        runs = self.world.instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": launched["backfillId"]}))
        return sorted(runs, key=lambda run: run.tags["dagster/partition"])

    def switch_on(self, sensor: str) -> None:
        """The switch beside a sensor."""
        started = self.ask(
            """mutation StartSensor($selector: SensorSelector!) {
                 startSensor(sensorSelector: $selector) { __typename ... on PythonError { message } }
               }""",
            selector={**REPOSITORY, "sensorName": sensor},
        )["startSensor"]
        assert started["__typename"] == "Sensor", started

    def tick(self, sensor: str) -> dict:
        """What the sensor's page says of its newest tick, after the daemon looked at every sensor that is on."""
        # The daemon leaves a sensor alone that ticked less than its interval ago.
        for state in self.world.instance.all_instigator_state():
            data = state.instigator_data._replace(last_tick_timestamp=None, last_tick_start_timestamp=None)
            self.world.instance.update_instigator_state(state.with_data(data))
        for error in execute_sensor_iteration(self.workspace, logging.getLogger("sensors"), None, None):
            assert error is None, error
        return self.ask(
            """query Ticks($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) { ... on Sensor {
                 sensorState { ticks(limit: 1) { status skipReason runIds error { message }
                   dynamicPartitionsRequestResults { partitionKeys type } } } } } }""",
            selector={**REPOSITORY, "sensorName": sensor},
        )["sensorOrError"]["sensorState"]["ticks"][0]

    def wait(self, run_id: str) -> dg.DagsterRun:
        """Wait until a run has ended."""
        until = time.monotonic() + SECONDS
        while not (run := self.world.instance.get_run_by_id(run_id)).is_finished:
            assert time.monotonic() < until, f"run {run_id} has not ended after {SECONDS} s"
            time.sleep(0.3)
        return run


@pytest.fixture
def ui(make_scripted_world: OpenWorld, monkeypatch: pytest.MonkeyPatch, project_root: Path) -> Iterator[Ui]:
    """The webserver over a world in which r0000 stands."""
    with serve(make_scripted_world(), monkeypatch, project_root) as opened:
        yield opened


@pytest.fixture
def fresh_ui(make_scripted_world: OpenWorld, monkeypatch: pytest.MonkeyPatch, project_root: Path) -> Iterator[Ui]:
    """The webserver over a world in which nothing ever ran."""
    with serve(make_scripted_world(made_before=None), monkeypatch, project_root) as opened:
        yield opened


@contextmanager
def serve(world: World, monkeypatch: pytest.MonkeyPatch, project_root: Path) -> Iterator[Ui]:
    """The webserver over a world; its code location is called tiny."""
    monkeypatch.setenv("TINY_WORLD", str(world.root))
    target = PythonFileTarget(
        python_file=str(Path(__file__).parent / "scripted_workspace.py"),
        attribute=None,
        working_directory=str(project_root),
        location_name="tiny",
    )
    with WorkspaceProcessContext(world.instance, target) as workspace:
        app = DagsterWebserver(workspace).create_asgi_app()
        yield Ui(world, workspace, TestClient(app))


@pytest.mark.slow
def test_a_person_runs_redoes_and_inspects_rounds(ui: Ui):
    # lineage
    nodes = ui.ask(
        """{ assetNodes { assetKey { path } dependencyKeys { path } groupName description kinds isPartitioned
             owners { ... on TeamAssetOwner { team } } } }"""
    )
    by_noun = {node["assetKey"]["path"][1]: node for node in nodes["assetNodes"]}
    sources = {"base_model", "seeds_file", "eft_file", "evaluation_world", "handover"}
    assert set(by_noun) == {*NOUNS, *sources, "self_evolution"}
    before = {noun: {key["path"][1] for key in node["dependencyKeys"]} for noun, node in by_noun.items()}
    assert before["checkpoint"] == {"start_checkpoint", "sft_set", "preference_pairs", "diversity_report", "handover"}
    assert before["start_checkpoint"] == {"base_model", "handover"}
    assert before["self_evolution"] == {"eval_report"}
    assert {noun for noun, node in by_noun.items() if node["isPartitioned"]} == {*NOUNS, "handover"}
    for node in by_noun.values():
        assert (node["groupName"], node["owners"]) == ("tiny", [{"team": "lance"}])
        assert node["description"]
        assert node["kinds"]

    # a round is added and materialized
    assert ui.add_round("r0001") == "AddDynamicPartitionSuccess"
    assert ui.add_round("r0001") == "DuplicateDynamicPartitionError"
    run = ui.wait(ui.materialize("r0001"))
    assert run.is_success, [e.user_message for e in ui.world.instance.all_logs(run.run_id) if "fail" in e.user_message]
    assert read_partitions(ui) == {noun: {"materialized": ["r0000", "r0001"], "failed": []} for noun in NOUNS}
    assert read_checks(ui) == {check: ["r0000", "r0001"] for check in CHECKS}
    assert read_stale(ui) == {noun: ["FRESH", "FRESH"] for noun in NOUNS}

    # both rounds are redone, named in the wrong order
    first, second = ui.backfill("r0001", "r0000")
    assert (first.tags["dagster/partition"], second.tags["dagster/partition"]) == ("r0000", "r0001")
    assert first.is_success
    assert second.is_success
    assert ui.world.metadata("start_checkpoint", "r0001")["parent_run"] == first.run_id
    evaluated, started = (
        find_materialization(ui, *which) for which in (("eval_report", "r0000"), ("start_checkpoint", "r0001"))
    )
    assert evaluated.run_id == first.run_id
    assert started.run_id == second.run_id
    assert evaluated.timestamp < started.timestamp, "r0001 began after r0000 was redone"

    # r0000 breaks: r0001 does not build on what it left
    (ui.world.root / "tiny" / "seeds.jsonl").write_text('{"prompt": \n')
    kept = ui.world.read_bytes("r0001")
    first, second = ui.backfill("r0001", "r0000")
    assert (first.is_failure, second.is_failure) == (True, True)
    told = read_failure(ui, second.run_id)
    assert told == {
        "tiny__start_checkpoint": f"round r0000 failed in this backfill (run {first.run_id}), so r0001 would build on "
        "an old checkpoint; mend r0000, then backfill from there"
    }
    assert "seeds.jsonl" in read_failure(ui, first.run_id)["tiny__seed_set"]
    assert ui.world.read_bytes("r0001") == kept
    assert read_partitions(ui)["start_checkpoint"] == {"materialized": ["r0000"], "failed": ["r0001"]}


@pytest.mark.slow
def test_a_round_of_the_command_is_seen_and_run_again(ui: Ui, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As one that the UI launched: in the job's runs, in the timeline, and with the button "re-execute"."""
    monkeypatch.setattr(command_line, "JOB_MODULE", "tests.assets.scripted_workspace")
    # The folder that the UI is started in.
    monkeypatch.chdir(tmp_path)
    location = "load_from:\n  - python_module:\n      module_name: definitions\n      location_name: tiny\n"
    (tmp_path / "workspace.yaml").write_text(location)
    claims = ui.world.platform.claims
    assert not command_line.run_round(ui.world.instance, ui.world.plan, "r0001", claims=claims)
    command_line.show_all_rounds(ui.world.instance, ui.world.plan, ui.world.definitions, claims)

    found = ui.ask(
        """query Runs($job: PipelineSelector!, $label: String!) {
             pipelineOrError(params: $job) { ... on Pipeline { runs(limit: 9) { runId } } }
             timeline: runsOrError(filter: {tags: [{key: ".dagster/repository", value: $label}]}) { ... on Runs {
               results { runId pipelineName repositoryOrigin { repositoryName repositoryLocationName } status
                         tags { key value } } } } }""",
        job={**REPOSITORY, "pipelineName": "tiny_round"},
        label="__repository__@tiny",
    )
    overviews, made = found["timeline"]["results"]
    for run in (overviews, made):
        assert run["repositoryOrigin"] == REPOSITORY
        assert run["status"] == "SUCCESS"
    assert (overviews["pipelineName"], made["pipelineName"]) == ("__ASSET_JOB", "tiny_round")
    assert {"key": "dagster/partition", "value": "r0001"} in made["tags"]
    assert [run["runId"] for run in found["pipelineOrError"]["runs"]] == [made["runId"]]

    for parent in (made, overviews):
        again = ui.ask(
            """mutation Again($params: ReexecutionParams!) { launchRunReexecution(reexecutionParams: $params) {
                 __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }""",
            params={"parentRunId": parent["runId"], "strategy": "ALL_STEPS"},
        )["launchRunReexecution"]
        assert again["__typename"] == "LaunchRunSuccess", again
        assert ui.wait(again["run"]["runId"]).is_success
    assert find_materialization(ui, "eval_report", "r0001").run_id != made["runId"]


def test_a_fresh_instance_comes_to_its_first_round_by_one_switch(fresh_ui: Ui) -> None:
    ui = fresh_ui
    # The upkeep is on by default: it adds r0000, so that the dialog offers it.
    ticked = ui.tick("round_keys")
    assert ticked["skipReason"] == "tiny: added r0000"
    assert ticked["dynamicPartitionsRequestResults"] == [{"partitionKeys": ["r0000"], "type": "ADD_PARTITIONS"}]
    assert list_offered(ui) == ["r0000"]
    assert read_partitions(ui) == {noun: {"materialized": [], "failed": []} for noun in NOUNS}
    assert read_checks(ui) == {check: [] for check in CHECKS}
    assert read_progress(ui) == {noun: {"numPartitions": 1, "numMaterialized": 0, "numFailed": 0} for noun in NOUNS}

    # A key that is typed wrong fails with words, and goes.
    assert ui.add_round("round1") == "AddDynamicPartitionSuccess"
    run = ui.wait(ui.materialize("round1"))
    told = read_failure(ui, run.run_id)["tiny__start_checkpoint"]
    assert "a round's key is r and four digits, such as r0001; got 'round1'" in told
    assert read_partitions(ui)["start_checkpoint"]["failed"] == ["round1"]
    assert ui.tick("round_keys")["skipReason"] == (
        "tiny: removed the key round1: a round's key is r and four digits, such as r0001; got 'round1'"
    )
    assert list_offered(ui) == ["r0000"]
    assert read_partitions(ui)["start_checkpoint"]["failed"] == []
    assert ui.tick("round_keys")["skipReason"] == "r0000 of every experiment is there, and no key is wrong"

    # The loop begins with r0000.
    ui.switch_on("tiny_next_round")
    (first,) = ui.tick("tiny_next_round")["runIds"]
    waiting = ui.tick("tiny_next_round")
    if not ui.world.instance.get_run_by_id(first).is_finished:
        assert waiting["skipReason"].startswith(f"waiting for r0000: its run {first} is ")
    assert ui.wait(first).is_success
    assert ui.world.instance.get_run_by_id(first).tags["dagster/partition"] == "r0000"


def test_the_sensor_is_on_the_page_of_what_it_looks_at(ui: Ui) -> None:
    found = ui.ask(
        """query Sensor($selector: SensorSelector!) {
             sensorOrError(sensorSelector: $selector) { ... on Sensor {
               sensorType metadata { assetKeys { path } } targets { pipelineName } } }
             assetNodeOrError(assetKey: {path: ["tiny", "eval_report"]}) { ... on AssetNode {
               targetingInstigators { ... on Sensor { name } } } } }""",
        selector={**REPOSITORY, "sensorName": "tiny_next_round"},
    )
    assert found["sensorOrError"] == {
        "sensorType": "ASSET",
        "metadata": {"assetKeys": [{"path": ["tiny", "eval_report"]}]},
        "targets": [{"pipelineName": "tiny_round"}],
    }
    assert {"name": "tiny_next_round"} in found["assetNodeOrError"]["targetingInstigators"]


def test_the_state_decides_and_each_tick_says_why_it_waits(ui: Ui) -> None:
    """r0000 ended before the sensor was switched on, and a round that fails stays failed in words."""
    (ui.world.root / "tiny" / "seeds.jsonl").write_text('{"prompt": \n')
    ui.switch_on("tiny_next_round")
    (failed,) = ui.tick("tiny_next_round")["runIds"]
    assert ui.wait(failed).is_failure
    waits = ui.tick("tiny_next_round")
    assert waits["status"] == "SKIPPED"
    assert waits["skipReason"] == (
        f"r0001 was already started and failed (run {failed}); mend the cause and start it again by hand"
    )
    # The one failure sensor is on by default, and began with the first tick.
    ui.tick("failed_round")
    (noted,) = ui.world.instance.fetch_observations(find_key(ui.world.plan, "eval_report"), limit=5).records
    assert noted.asset_observation.metadata["failed_run"].value == failed


def list_offered(ui: Ui) -> list[str]:
    """The rounds that the dialog "Materialize" offers."""
    node = ui.ask(
        """{ assetNodeOrError(assetKey: {path: ["tiny", "seed_set"]}) { ... on AssetNode { partitionKeys } } }"""
    )
    return node["assetNodeOrError"]["partitionKeys"]


def read_progress(ui: Ui) -> dict[str, dict[str, int]]:
    """What the lineage graph counts: an asset without any rounds would be shown as all made."""
    nodes = ui.ask(
        f"{{ assetNodes({OF_A_ROUND})"
        "{ assetKey { path } partitionStats { numPartitions numMaterialized numFailed } } }"
    )
    return {node["assetKey"]["path"][1]: node["partitionStats"] for node in nodes["assetNodes"]}


def find_materialization(ui: Ui, noun: str, key: str) -> dg.EventLogRecord:
    """The newest materialization of an asset's round."""
    wanted = dg.AssetRecordsFilter(asset_key=find_key(ui.world.plan, noun), asset_partitions=[key])
    return ui.world.instance.fetch_materializations(wanted, limit=1).records[0]


OF_A_ROUND = "assetKeys: [" + ", ".join(f'{{path: ["tiny", "{noun}"]}}' for noun in NOUNS) + "]"
"""The assets with partitions, as GraphQL asks for them."""


def read_partitions(ui: Ui) -> dict[str, dict[str, list[str]]]:
    """The coloured bar of rounds on every asset's page."""
    nodes = ui.ask(
        f"{{ assetNodes({OF_A_ROUND})"
        """{ assetKey { path } assetPartitionStatuses {
             ... on DefaultPartitionStatuses { materializedPartitions failedPartitions } } } }"""
    )["assetNodes"]
    return {
        node["assetKey"]["path"][1]: {
            "materialized": sorted(node["assetPartitionStatuses"]["materializedPartitions"]),
            "failed": sorted(node["assetPartitionStatuses"]["failedPartitions"]),
        }
        for node in nodes
    }


def read_checks(ui: Ui) -> dict[tuple[str, str], list[str]]:
    """The rounds in which each check succeeded."""
    nodes = ui.ask(
        """{ assetNodes { assetKey { path } assetChecksOrError { ... on AssetChecks {
             checks { name partitionStatuses { ... on AssetCheckDefaultPartitionStatuses {
             succeededPartitions } } } } } } }"""
    )["assetNodes"]
    return {
        (node["assetKey"]["path"][1], check["name"]): sorted(check["partitionStatuses"]["succeededPartitions"])
        for node in nodes
        for check in node["assetChecksOrError"]["checks"]
    }


def read_stale(ui: Ui) -> dict[str, list[str]]:
    """Whether the UI calls each asset's rounds unsynced."""
    nodes = ui.ask(
        f"{{ assetNodes({OF_A_ROUND})"
        """{ assetKey { path } staleStatusByPartition(partitions: ["r0000", "r0001"]) } }"""
    )
    return {node["assetKey"]["path"][1]: node["staleStatusByPartition"] for node in nodes["assetNodes"]}


def read_failure(ui: Ui, run_id: str) -> dict[str, str]:
    """What the run's page says of each failed step."""
    events = ui.ask(
        """query RunLogs($run: ID!) { logsForRun(runId: $run, limit: 1000) { ... on EventConnection { events {
             ... on ExecutionStepFailureEvent { stepKey failureMetadata { description } error { message } } } } } }""",
        run=run_id,
    )["logsForRun"]["events"]
    return {
        event["stepKey"]: (event["failureMetadata"] or {}).get("description") or event["error"]["message"]
        for event in events
        if event
    }
