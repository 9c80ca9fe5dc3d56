"""When the past changes: what the UI shows of later rounds, one launch that makes them again, and what is refused."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from lance_assets.rounds.nouns import NOUNS as DECLARED
from lance_assets.rounds.nouns import list_inputs
from tests.assets.conftest import OpenWorld
from tests.assets.scripted_platform import SCRIPTED, without_drawing
from tests.assets.test_webserver import REPOSITORY, Ui, read_failure, serve
from tests.assets.tiny_experiment import NOUNS, World, find_failures, find_stale, open_world

ROUNDS = ("r0000", "r0001", "r0002")


@pytest.fixture(scope="module")
def three_rounds(scripted_rounds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a scripted world in which r0000, r0001 and r0002 stand."""
    root = tmp_path_factory.mktemp("three_rounds") / "world"
    with without_drawing(), open_world(root, made_before=scripted_rounds, **SCRIPTED) as world:
        result = world.run("r0002")
        assert result.success, find_failures(result)
        for key in ROUNDS:
            assert set(find_stale(world, key).values()) == {"FRESH"}, key
    return root


@pytest.fixture
def ui(
    make_scripted_world: OpenWorld, three_rounds: Path, monkeypatch: pytest.MonkeyPatch, project_root: Path
) -> Iterator[Ui]:
    """The webserver over a world with three rounds."""
    with serve(make_scripted_world(made_before=three_rounds), monkeypatch, project_root) as opened:
        yield opened


def launch(ui: Ui, key: str, *nouns: str, config: str = "{}", job: str = "__ASSET_JOB") -> dg.DagsterRun:
    """The dialog of a launch for a round, with its run config; the run once it has ended."""
    chosen = {"assetSelection": [{"path": ["tiny", noun]} for noun in nouns]} if nouns else {}
    started = ui.ask(
        """mutation Launch($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
             __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
             ... on RunConfigValidationInvalid { errors { message } } } }""",
        params={
            "mode": "default",
            "runConfigData": config,
            "selector": {**REPOSITORY, "pipelineName": job, **chosen},
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": key}]},
        },
    )["launchPipelineExecution"]
    assert started["__typename"] == "LaunchRunSuccess", started
    return ui.wait(started["run"]["runId"])


def read_unsynced(ui: Ui, key: str) -> set[str]:
    """The assets of a round that the UI calls unsynced."""
    keys = ", ".join(f'{{path: ["tiny", "{noun}"]}}' for noun in NOUNS)
    nodes = ui.ask(f'{{ assetNodes(assetKeys: [{keys}]) {{ assetKey {{ path }} staleStatus(partition: "{key}") }} }}')
    return {node["assetKey"]["path"][1] for node in nodes["assetNodes"] if node["staleStatus"] != "FRESH"}


def read_newest(ui: Ui) -> dict[str, list[str]]:
    """The rounds in which `is_newest` passed and failed, as the page of start_checkpoint shows them."""
    found = ui.ask(
        """{ assetNodeOrError(assetKey: {path: ["tiny", "start_checkpoint"]}) { ... on AssetNode {
             assetChecksOrError { ... on AssetChecks { checks { name partitionStatuses {
             ... on AssetCheckDefaultPartitionStatuses { succeededPartitions failedPartitions } } } } } } } }"""
    )["assetNodeOrError"]["assetChecksOrError"]["checks"]
    (check,) = [one["partitionStatuses"] for one in found if one["name"] == "is_newest"]
    return {"passed": sorted(check["succeededPartitions"]), "failed": sorted(check["failedPartitions"])}


def change_reviews(world: World, key: str) -> None:
    """Other reviews on the disk: the sets that are built of them are others too."""
    table = world.round(key).read("reviewed_set")
    world.round(key).write("reviewed_set", table.filter(pl.int_range(pl.len()) % 2 == 0))


@pytest.mark.slow
def test_a_redone_past_shows_in_all_later_rounds_and_one_launch_redoes_them(ui: Ui) -> None:
    for sensor in ("redo_rounds", "source_files"):
        assert sensor in {state["name"] for state in list_sensors(ui) if state["status"] == "RUNNING"}, "on by default"
    assert "no round was made again" in ui.tick("redo_rounds")["skipReason"]
    assert read_newest(ui) == {"passed": list(ROUNDS), "failed": []}
    assert [read_unsynced(ui, key) for key in ROUNDS] == [set(), set(), set()]

    # a person makes one set of r0001 anew
    change_reviews(ui.world, "r0001")
    assert launch(ui, "r0001", "sft_set").is_success
    assert read_newest(ui) == {"passed": ["r0000", "r0001"], "failed": ["r0002"]}
    assert read_unsynced(ui, "r0002") == set(NOUNS)
    assert read_unsynced(ui, "r0000") == set()

    # one launch of the job, for the earliest round that is wrong
    first = launch(ui, "r0001", job="tiny_redo")
    assert first.is_success, read_failure(ui, first.run_id)
    ticked = ui.tick("redo_rounds")
    assert ticked["status"] == "SUCCESS", ticked
    (second,) = ticked["runIds"]
    run = ui.wait(second)
    assert run.is_success, read_failure(ui, second)
    assert (run.job_name, run.tags["dagster/partition"]) == ("tiny_redo", "r0002")
    assert ui.tick("redo_rounds")["runIds"] == [], "r0002 is the last round, and no run is started twice"
    assert read_newest(ui) == {"passed": list(ROUNDS), "failed": []}
    assert [read_unsynced(ui, key) for key in ROUNDS] == [set(), set(), set()]


def list_sensors(ui: Ui) -> list[dict]:
    """Every sensor with its switch."""
    found = ui.ask(
        """query Sensors($repository: RepositorySelector!) { sensorsOrError(repositorySelector: $repository) {
             ... on Sensors { results { name sensorState { status } } } } }""",
        repository=REPOSITORY,
    )["sensorsOrError"]["results"]
    return [{"name": one["name"], "status": one["sensorState"]["status"]} for one in found]


@pytest.mark.slow
def test_a_changed_file_shows_what_reads_it_as_unsynced(ui: Ui) -> None:
    ui.tick("source_files")
    assert [read_unsynced(ui, key) for key in ROUNDS] == [set(), set(), set()]
    with (ui.world.root / "tiny" / "seeds.jsonl").open("a") as file:
        file.write('{"prompt": "Say yes.", "completion": "It is: yes.", "answer": "yes"}\n')
    assert ui.tick("source_files")["skipReason"] == "another content: tiny/seeds_file"
    assert [read_unsynced(ui, key) for key in ROUNDS] == [{"seed_set"}] * 3
    told = ui.ask(
        """{ assetNodeOrError(assetKey: {path: ["tiny", "seed_set"]}) { ... on AssetNode {
             staleCauses(partition: "r0000") { reason key { path } } } } }"""
    )["assetNodeOrError"]["staleCauses"]
    assert told == [{"reason": "has a new data version", "key": {"path": ["tiny", "seeds_file"]}}]
    assert launch(ui, "r0000", "seed_set").is_success
    # The button "Reload": what an asset would be made with is known since the location was loaded.
    reload = 'mutation { reloadRepositoryLocation(repositoryLocationName: "tiny") { __typename } }'
    assert ui.ask(reload)["reloadRepositoryLocation"]["__typename"] == "WorkspaceLocationEntry"
    assert "seed_set" not in read_unsynced(ui, "r0000")
    assert "sft_set" in read_unsynced(ui, "r0000"), "what was made of the old seeds"


@pytest.mark.slow
def test_training_goes_past_no_check_that_failed_or_never_ran(ui: Ui) -> None:
    # twice the same text, by hand: no check ran on this table
    cleaned = ui.world.round("r0001").read("cleaned_set")
    twin = cleaned.filter(pl.col("drop_reason").is_null(), kind="new_prompt").head(1)
    twins = pl.concat([cleaned, twin.with_columns(row_id=pl.lit("f" * 16))])
    ui.world.round("r0001").write("cleaned_set", twins)
    before = ui.world.read_bytes("r0001")["model.safetensors"]

    refused = launch(ui, "r0001", "checkpoint")
    assert refused.is_failure
    told = read_failure(ui, refused.run_id)["tiny__checkpoint"]
    assert told.startswith("tiny r0001 checkpoint: 1 blocking checks of what checkpoint is made from have not passed: ")
    assert "near_duplicates of cleaned_set" in told
    assert "num_left: 1, " in told
    assert "accept_failed_checks" in told

    # the check is now recorded as failed, and refuses again
    assert launch(ui, "r0001", "checkpoint").is_failure
    config = '{ops: {tiny__checkpoint: {config: {accept_failed_checks: "a trial of the gate"}}}}'
    let_through = launch(ui, "r0001", "checkpoint", config=config)
    assert let_through.is_success, read_failure(ui, let_through.run_id)
    shown = ui.world.metadata("checkpoint", "r0001")
    assert shown["accepted_because"] == "a trial of the gate"
    (accepted,) = shown["accepted_failed_checks"]
    assert accepted.startswith("near_duplicates of cleaned_set: ")
    assert ui.world.read_bytes("r0001")["model.safetensors"] == before, "the same rows give the same weights"

    # mended: the check passes again, and so does training
    assert launch(ui, "r0001", "cleaned_set").is_success
    mended = launch(ui, "r0001", "checkpoint")
    assert mended.is_success, read_failure(ui, mended.run_id)
    assert "accepted_because" not in ui.world.metadata("checkpoint", "r0001")


def test_a_bar_that_was_raised_since_is_kept_too(make_scripted_world: OpenWorld, scripted_rounds: Path) -> None:
    """The verdict of the old bar is none of the new one."""
    checks = {"max_unscored_rate": 1.0, "min_pairs": 0, "min_distinct_2": 0.99}
    world = make_scripted_world(made_before=scripted_rounds, checks=checks)
    told = find_failures(world.materialize("r0001", "checkpoint"))["tiny__checkpoint"]
    assert "no_collapse of diversity_report: " in told
    assert "min_distinct_2: 0.99" in told


@pytest.mark.slow
@pytest.mark.parametrize("starts_from", ["base", "previous"])
def test_no_recipe_trains_on_rows_of_a_model_that_is_gone(make_scripted_world: OpenWorld, starts_from: str) -> None:
    world = make_scripted_world(starts_from=starts_from)
    assert world.run("r0001").success
    # r0000 was trained again, to other weights
    weights = world.round("r0000").model_path("r0000") / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 2
    weights.write_bytes(content)
    row = world.round("r0000").read("checkpoint")
    content_hash = world.platform.checkpoints.hash_checkpoint(weights.parent)
    world.round("r0000").write("checkpoint", row.with_columns(content_hash=pl.lit(content_hash)))

    told = find_failures(world.materialize("r0001", "checkpoint"))["tiny__checkpoint"]
    assert "started from a checkpoint of r0000 that was trained again since" in told
    assert "lance run tiny --redo-from r0001" in told

    # the start alone made anew: the rows are still those of the weights that are gone
    assert world.materialize("r0001", "start_checkpoint").success
    told = find_failures(world.materialize("r0001", "checkpoint"))["tiny__checkpoint"]
    assert "raw_generations of tiny r0001 was asked of a start checkpoint that is gone" in told
    result = world.run("r0001")
    assert result.success, find_failures(result)


def test_lineage_begins_with_files_and_the_handover(make_scripted_world: OpenWorld) -> None:
    world = make_scripted_world()
    graph = world.definitions.resolve_asset_graph()
    before = {
        key.path[1]: {parent.path[1] for parent in graph.get(key).parent_keys} for key in graph.get_all_asset_keys()
    }
    sources = {"base_model", "seeds_file", "eft_file", "evaluation_world", "handover"}
    assert {name for name, parents in before.items() if not parents} == sources
    assert before["start_checkpoint"] == {"base_model", "handover"}
    assert before["seed_set"] == {"start_checkpoint", "handover", "seeds_file", "evaluation_world"}
    for noun in NOUNS:
        assert before[noun] - sources == set(list_inputs(world.plan, DECLARED[noun]))
        assert "handover" in before[noun], "what may read an earlier round has an edge from what it hands over"
