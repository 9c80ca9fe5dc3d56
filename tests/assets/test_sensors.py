"""The loop's sensors, ticked as the daemon does."""

import dagster as dg
import pytest

from lance_assets.assets.names import find_key
from tests.assets.conftest import OpenWorld
from tests.assets.tiny_experiment import World, find_failures


def tick(world: World, name: str = "tiny_next_round") -> dg.SensorResult | dg.SkipReason:
    """One evaluation of a sensor, by default of the one that starts the next round."""
    sensor = world.definitions.resolve_sensor_def(name)
    context = dg.build_sensor_context(
        instance=world.instance,
        instance_ref=world.instance.get_ref(),
        repository_def=world.definitions.get_repository_def(),
        resources={"platform": world.platform},
    )
    return sensor.evaluate_tick(context)


@pytest.mark.slow
def test_the_next_round_starts_once(make_scripted_world: OpenWorld):
    world = make_scripted_world()
    first = tick(world)
    (request,) = first.run_requests
    assert (request.partition_key, request.run_key) == ("r0001", "tiny/r0001")
    (added,) = first.dynamic_partitions_requests
    assert (added.partitions_def_name, list(added.partition_keys)) == ("tiny_round", ["r0001"])

    result = world.run("r0001")
    assert result.success, find_failures(result)
    (request,) = tick(world).run_requests
    assert request.partition_key == "r0002"
    job = world.definitions.resolve_job_def("tiny_round")
    world.add("r0002")
    run = world.instance.create_run_for_job(job, tags={"dagster/partition": "r0002"})
    second = tick(world)
    assert not second.run_requests
    assert second.skip_message == f"waiting for r0002: its run {run.run_id} is not started"
    world.instance.report_run_canceled(run)
    assert "r0002 was already started and was canceled" in tick(world).skip_message


def test_a_round_started_from_the_graph_is_not_started_again(make_scripted_world: OpenWorld):
    world = make_scripted_world()
    world.add("r0001")
    graph_job = world.definitions.resolve_implicit_global_asset_job_def()
    run = world.instance.create_run_for_job(
        graph_job, tags={"dagster/partition": "r0001"}, asset_selection=frozenset({dg.AssetKey(["tiny", "seed_set"])})
    )
    assert tick(world).skip_message == f"waiting for r0001: its run {run.run_id} is not started"
    assert world.materialize("r0001", "start_checkpoint").success
    world.instance.delete_run(run.run_id)
    assert "has no eval_report" in tick(world).skip_message


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        ({"max_rounds": 0}, "r0000 is the last of max_rounds=0"),
        ({"max_rounds": 4, "max_tokens": 1}, "tokens sampled, the budget is max_tokens=1"),
        ({"max_rounds": 4, "max_hours": 1e-6}, "hours spent, the budget is max_hours=1e-06"),
    ],
)
def test_a_stop_rule_is_told_as_the_reason_to_skip(make_scripted_world: OpenWorld, stop: dict, reason: str):
    ticked = tick(make_scripted_world(stop=stop))
    assert not ticked.run_requests
    assert reason in str(ticked.skip_message)


def test_the_loop_begins_with_the_first_round(make_world: OpenWorld):
    (request,) = tick(make_world()).run_requests
    assert request.partition_key == "r0000"


def keep(world: World) -> dict[str, str]:
    """One evaluation of the sensor that keeps the rounds' keys; what it asks for is done, and returned by key."""
    sensor = world.definitions.resolve_sensor_def("round_keys")
    context = dg.build_sensor_context(instance=world.instance)
    done = {}
    for request in sensor.evaluate_tick(context).dynamic_partitions_requests or []:
        for key in request.partition_keys:
            if isinstance(request, dg.AddDynamicPartitionsRequest):
                world.add(key)
                done[key] = "added"
            else:
                world.instance.delete_dynamic_partition("tiny_round", key)
                done[key] = "removed"
    return done


def test_only_keys_that_nothing_hangs_on_are_removed(make_scripted_world: OpenWorld):
    world = make_scripted_world()
    assert keep(world) == {}
    job = world.definitions.resolve_job_def("tiny_round")
    # A person may add r0002 before r0001; a gap is a mistake once a run ended on it.
    world.add("r0002", "1", "R0001")
    running = world.instance.create_run_for_job(job, tags={"dagster/partition": "R0001"})
    assert keep(world) == {"1": "removed"}
    world.instance.report_run_failed(running)
    assert not world.run("r0002").success
    assert keep(world) == {"R0001": "removed", "r0002": "removed"}
    # What was made stays, whatever its key is.
    world.add("r0002")
    world.instance.report_runless_asset_event(
        dg.AssetMaterialization(find_key(world.plan, "seed_set"), partition="r0002")
    )
    assert keep(world) == {}
    # r0000 comes back, so that the UI offers it.
    world.instance.delete_dynamic_partition("tiny_round", "r0000")
    assert keep(world) == {"r0000": "added"}


def test_a_failed_round_is_noted_on_its_eval_report(make_scripted_world: OpenWorld):
    world = make_scripted_world()
    (world.root / "tiny" / "seeds.jsonl").write_text('{"prompt": \n')
    result = world.run("r0000")
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_run_failure]
    sensor = world.definitions.resolve_sensor_def("failed_round")
    context = dg.build_run_status_sensor_context(
        sensor_name=sensor.name, dagster_instance=world.instance, dagster_run=result.dagster_run, dagster_event=failure
    ).for_run_failure()
    sensor(context)
    (noted,) = world.instance.fetch_observations(find_key(world.plan, "eval_report"), limit=5).records
    shown = noted.asset_observation.metadata
    assert noted.partition_key == "r0000"
    assert shown["failed_run"].value == result.run_id
    assert "tiny__seed_set" in shown["error"].value
    assert "seeds.jsonl" in shown["error"].value
