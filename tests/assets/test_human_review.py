"""A round that waits for people: how its run ends, what it holds, and who goes on with it."""

import threading

import dagster as dg
import pytest

from lance_assets.assets import run as running
from lance_assets.assets.names import find_key
from lance_assets.assets.running.lost import TAKE_UP_TAG, WAITS_TAG
from lance_assets.rounds.deciding.asked import explain_waiting, list_asked, list_waiting
from lance_assets.rounds.deciding.decisions import Ledger, decide, find_scale, keep_decisions, read_ledger
from lance_assets.rounds.finished.trace import trace_row
from lance_assets.rounds.nouns import list_nouns
from tests.assets.conftest import OpenWorld
from tests.assets.test_sensors import tick
from tests.assets.tiny_experiment import World, find_failures, find_stale

AFTER = ("decision_set", "sft_set", "preference_pairs", "diversity_report", "checkpoint", "eval_report")


def decide_all(world: World, key: str, *, reject: int = 0, who: str = "Ann") -> list[str]:
    """Accept what waits, the first `reject` rows aside; their ids."""
    one, root = world.round(key), world.platform.root
    rows = list_asked(one, read_ledger(root, "tiny")).open_rows.to_dicts()
    scale = find_scale(world.plan.settings.parameters)
    decisions = [
        decide(
            row["prompt"],
            row["completion"],
            "reject" if number < reject else "accept",
            who=who,
            scale=scale,
            note="wrong" if number < reject else "",
        )
        for number, row in enumerate(rows)
    ]
    keep_decisions(root, "tiny", decisions)
    return [row["row_id"] for row in rows]


def tick_decided(world: World) -> dg.SensorResult | dg.SkipReason:
    """One evaluation of the sensor that goes on."""
    return tick(world, "tiny_people_decided")


def go_on(world: World, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
    """Run what a sensor asks for."""
    job = world.definitions.resolve_job_def("tiny_round")
    return job.execute_in_process(
        partition_key=request.partition_key,
        instance=world.instance,
        raise_on_error=False,
        asset_selection=request.asset_selection,
        run_config=request.run_config,
        tags=request.tags,
    )


def is_made(world: World, noun: str, key: str) -> bool:
    return world.platform.tables.exists("tiny", key, noun)


def test_an_experiment_that_asks_nobody_has_no_trace_of_it(make_world: OpenWorld) -> None:
    world = make_world(in_memory=True)
    assert "decision_set" not in [noun.name for noun in list_nouns(world.plan)]
    keys = {key.path[-1] for key in world.definitions.resolve_all_asset_keys()}
    assert not keys & {"decision_set", "decisions"}
    names = {sensor.name for sensor in world.definitions.get_repository_def().sensor_defs}
    assert "tiny_people_decided" not in names


@pytest.mark.slow
def test_a_round_waits_and_goes_on_by_the_sensor(make_scripted_world: OpenWorld) -> None:
    """The run succeeds and holds nothing; once all is decided the rest is made, from the step that waited."""
    world = make_scripted_world(human_review="all", checks={"max_unscored_rate": 1.0, "min_pairs": 0})
    result = world.run("r0001")
    assert result.success, find_failures(result)
    assert is_made(world, "reviewed_set", "r0001")
    assert not any(is_made(world, noun, "r0001") for noun in AFTER)
    (run,) = world.instance.get_runs(limit=1)
    assert "tiny r0001 waits for people" in run.tags[WAITS_TAG]
    assert not world.instance.event_log_storage.get_concurrency_run_ids()
    assert not world.platform.claims.list_alive()
    assert list(list_waiting(world.platform.root, "tiny")) == ["r0001"]
    # Both sensors say what is waited for, and start nothing.
    assert "waits for people" in str(tick(world).skip_message)
    assert "rows have no decision yet" in str(tick_decided(world).skip_message)

    before = {noun: world.platform.tables.hash("tiny", "r0001", noun) for noun in ("raw_generations", "reviewed_set")}
    rejected = decide_all(world, "r0001", reject=3)[:3]
    assert explain_waiting(world.round("r0001")) is None
    (request,) = tick_decided(world).run_requests
    assert [key.path[-1] for key in request.asset_selection] == list(AFTER)
    assert request.tags[TAKE_UP_TAG] == run.run_id
    result = go_on(world, request)
    assert result.success, find_failures(result)
    assert all(is_made(world, noun, "r0001") for noun in AFTER)
    assert not list(list_waiting(world.platform.root, "tiny"))
    assert before == {noun: world.platform.tables.hash("tiny", "r0001", noun) for noun in before}
    assert tick_decided(world).skip_message == "no round waits for people"
    (following,) = tick(world).run_requests
    assert following.partition_key == "r0002"

    # What was rejected is in no set, no later seed, and its story says by whom.
    one = world.round("r0001")
    texts = dict(one.read("reviewed_set").select("row_id", "completion").iter_rows())
    trained = {*one.read("sft_set")["source_id"], *one.read("preference_pairs")["chosen_id"]}
    trained |= {*one.read("preference_pairs")["rejected_id"]}
    assert not trained & set(rejected)
    assert not {texts[row] for row in rejected} & set(one.read("sft_set")["completion"])
    tables = {("r0001", noun): one.read(noun) for noun in ("reviewed_set", "decision_set")}
    (entry,) = [each for each in trace_row(tables, rejected[0]).entries if each.table == "decision_set"]
    assert (entry.row["decision"], entry.row["decided_by"], entry.row["note"]) == ("reject", "Ann", "wrong")
    shown = world.metadata("decision_set", "r0001")
    assert shown["agreement/num_rows"] > 0
    assert "agreement/kappa" in shown
    checked = world.instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(find_key(world.plan, "decision_set"), "agrees_with_people"), limit=1
    )
    assert len(checked) == 1

    # Nothing is asked again of the next round's seeds; and a changed decision marks what follows as stale, no more.
    fresh = find_stale(world, "r0001")
    assert {fresh[noun] for noun in ("reviewed_set", "sft_set", "checkpoint")} == {"FRESH"}
    row = one.read("reviewed_set").filter(row_id=rejected[0]).row(0, named=True)
    again = decide(row["prompt"], row["completion"], "accept", who="Bo", scale=(0, 10))
    keep_decisions(world.platform.root, "tiny", [again])
    tick_decided(world)
    stale = find_stale(world, "r0001")
    assert {stale[noun] for noun in ("raw_generations", "reviewed_set")} == {"FRESH"}
    assert {stale[noun] for noun in ("sft_set", "checkpoint", "eval_report")} == {"STALE"}
    assert world.materialize("r0001", "decision_set", "sft_set").success
    decided = one.read("decision_set").filter(row_id=rejected[0]).row(0, named=True)
    assert decided["decided_by"] == "Bo"
    assert decided["earlier"][0].startswith("rejected by Ann")


@pytest.mark.slow
def test_a_round_that_is_made_again_asks_only_for_what_is_new(make_scripted_world: OpenWorld) -> None:
    world = make_scripted_world(human_review="all")
    assert world.run("r0001").success
    decide_all(world, "r0001")
    result = world.run("r0001")
    assert result.success, find_failures(result)
    assert is_made(world, "sft_set", "r0001")
    first = world.read_bytes("r0001")
    # The same decisions give the same bytes.
    assert world.run("r0001").success
    second = world.read_bytes("r0001")
    assert {name: first[name] for name in first if name.endswith("parquet")} == {
        name: second[name] for name in second if name.endswith("parquet")
    }
    # A text that nobody has decided about is asked about, and it alone.
    ledger, one = read_ledger(world.platform.root, "tiny"), world.round("r0001")
    assert list_asked(one, ledger).open_rows.is_empty()
    unknown = list_asked(one, Ledger(ledger.decisions[1:])).open_rows
    assert unknown["completion"].to_list() == [ledger.decisions[0].completion]


@pytest.mark.slow
def test_a_sample_is_drawn_over_scores_and_outcomes(make_scripted_world: OpenWorld) -> None:
    world = make_scripted_world(human_review="sample 4")
    assert world.run("r0001").success
    asked = list_asked(world.round("r0001"), read_ledger(world.platform.root, "tiny"))
    assert len(asked.rows) == len(asked.open_rows) == 4
    assert asked.rows["review_score"].n_unique() > 1
    again = list_asked(world.round("r0001"), read_ledger(world.platform.root, "tiny"))
    assert again.rows.equals(asked.rows)
    decide_all(world, "r0001", reject=4)
    (request,) = tick_decided(world).run_requests
    assert go_on(world, request).success
    decided = world.round("r0001").read("decision_set")
    assert set(decided["row_id"]) == set(asked.rows["row_id"])


@pytest.mark.slow
def test_lance_run_says_what_it_waits_for_and_goes_on(
    make_scripted_world: OpenWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread of the test decides while the command waits."""
    world = make_scripted_world(human_review="all")
    said: list[str] = []
    monkeypatch.setattr(running, "POLL_SECONDS", 0.05)

    def run_here(instance: dg.DagsterInstance, plan: object, key: str, *_: object, **how: object) -> list[str]:
        selection = how.get("selection")
        world.add(key)
        job = world.definitions.resolve_job_def("tiny_round")
        result = job.execute_in_process(
            partition_key=key,
            instance=instance,
            raise_on_error=False,
            asset_selection=sorted(selection) if selection else None,  # type: ignore[arg-type]
            tags={TAKE_UP_TAG: "lance run"} if how.get("takes_up") else {},
        )
        return [] if result.success else ["it failed"]

    monkeypatch.setattr(running, "run_round", run_here)
    arguments = (world.instance, world.plan, world.platform, "r0001", None)
    assert not running.go_on(*arguments, say=said.append, waits=False)
    assert "lance review tiny --out rows.jsonl" in said[-1]
    assert not is_made(world, "sft_set", "r0001")
    threading.Timer(0.3, decide_all, (world, "r0001")).start()
    assert running.go_on(*arguments, say=said.append)
    assert said.count("r0001: people have decided; the round goes on") == 1
    assert is_made(world, "eval_report", "r0001")
