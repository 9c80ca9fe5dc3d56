"""What Dagster makes of a round that waits for people, from tables that are written by hand."""

import dagster as dg
import polars as pl
import pytest

from lance_assets.assets.names import find_key
from lance_assets.assets.running.lost import WAITS_TAG
from lance_assets.records import START_CHECKPOINT
from lance_assets.rounds.deciding.asked import explain_waiting, list_asked, list_waiting
from lance_assets.rounds.deciding.decisions import keep_decisions, read_ledger
from tests.assets.conftest import OpenWorld
from tests.assets.scripted_platform import SCRIPTED
from tests.assets.test_human_review import is_made, tick_decided
from tests.assets.tiny_experiment import World, find_failures
from tests.rounds.decided_rows import review, say, table

ROWS = table(
    review("s", 9.0, "seed", of="s"),
    review("worse", 3.0, "degraded_completion", of="s"),
    review("good", 9.0),
    review("fair", 6.0),
)
SETS = ("decision_set", "sft_set", "preference_pairs")


@pytest.fixture
def world(make_world: OpenWorld) -> World:
    """A world whose r0001 is made up to its reviewed set."""
    world = make_world(**SCRIPTED, human_review="all", sft_threshold=8.0, score_gap=2.0)
    begun = {"parent_round": "r0000", "content_hash": "0" * 64, "handover_hash": "0" * 64, "left_out": []}
    tables = {"start_checkpoint": pl.DataFrame([begun], schema=START_CHECKPOINT), "reviewed_set": ROWS}
    for name, made in tables.items():
        world.round("r0001").write(name, made)
    world.round("r0001").write("seed_set", world.round("r0001").empty("seed_set"))
    for name in ("seed_set", "cleaned_set", "reviewed_set", "sft_set", "preference_pairs"):
        world.round("r0000").write(name, world.round("r0000").empty(name))
    return world


def test_the_run_of_a_round_that_waits_succeeds_and_makes_nothing_after_it(world: World) -> None:
    result = world.materialize("r0001", *SETS)
    assert result.success, find_failures(result)
    assert not [noun for noun in SETS if is_made(world, noun, "r0001")]
    skipped = {str(event.step_key) for event in result.filter_events(lambda event: event.is_step_skipped)}
    assert {"tiny__sft_set", "tiny__preference_pairs"} <= skipped
    (run,) = world.instance.get_runs()
    assert "tiny r0001 waits for people: 3 rows have no decision yet, of 3" in run.tags[WAITS_TAG]
    wanted = dg.AssetRecordsFilter(asset_key=find_key(world.plan, "decision_set"), asset_partitions=["r0001"])
    (seen,) = world.instance.fetch_observations(wanted, limit=1).records
    assert seen.asset_observation is not None
    assert list(list_waiting(world.platform.root, "tiny")) == ["r0001"]
    assert "3 rows have no decision yet" in str(tick_decided(world).skip_message)

    ledger = [say(ROWS, "good", "reject"), say(ROWS, "fair", "accept")]
    keep_decisions(world.platform.root, "tiny", ledger)
    assert "1 row has no decision yet, of 3" in str(explain_waiting(world.round("r0001")))
    keep_decisions(world.platform.root, "tiny", [say(ROWS, "worse", "accept")])
    asked = list_asked(world.round("r0001"), read_ledger(world.platform.root, "tiny"))
    assert (len(asked.rows), len(asked.open_rows)) == (3, 0)
    assert explain_waiting(world.round("r0001")) is None

    result = world.materialize("r0001", *SETS)
    assert result.success, find_failures(result)
    one = world.round("r0001")
    assert one.read("sft_set").filter(source_round="r0001")["source_id"].to_list() == ["fair"]
    assert one.read("preference_pairs").select("chosen_id", "rejected_id").rows() == [("s", "worse")]
    assert not list(list_waiting(world.platform.root, "tiny"))
    assert tick_decided(world).skip_message == "no round waits for people"
    shown = world.metadata("decision_set", "r0001")
    assert (shown["agreement/num_rows"], shown["agreement/rate"], shown["agreement/num_differing"]) == (2, 0.0, 2)
    versions = {noun: world.tags(noun, "r0001")["dagster/data_version"] for noun in SETS}

    # The same decisions give the same bytes; another one another set.
    assert world.materialize("r0001", *SETS).success
    assert versions == {noun: world.tags(noun, "r0001")["dagster/data_version"] for noun in SETS}
    keep_decisions(world.platform.root, "tiny", [say(ROWS, "good", "accept", who="Bo", minute=30)])
    assert world.materialize("r0001", *SETS).success
    now = {noun: world.tags(noun, "r0001")["dagster/data_version"] for noun in SETS}
    assert now["decision_set"] != versions["decision_set"]
    assert now["sft_set"] != versions["sft_set"]
    assert now["preference_pairs"] == versions["preference_pairs"]
