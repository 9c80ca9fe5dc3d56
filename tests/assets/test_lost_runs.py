"""A run whose process is gone blocks nothing: it is ended, what it held is free, and the round goes on where it was."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
from dagster._core.events import EngineEventData, RunFailureReason
from dagster._core.execution.retries import RetryMode, auto_reexecution_should_retry_run
from dagster._core.storage.tags import MAX_RETRIES_TAG, RETRY_NUMBER_TAG, WILL_RETRY_TAG

from lance_assets.assets.building import MAX_KILLED, end_step
from lance_assets.assets.names import find_key
from lance_assets.assets.run import begins_as_before
from lance_assets.assets.running import lost as room
from lance_assets.assets.running.executor import KILLED, WatchedExecutor, hold_run
from lance_assets.assets.running.lost import (
    LOST_TAG,
    MAX_LOST,
    REFUSED_TAG,
    TAKE_UP_TAG,
    end_lost_runs,
    explain_waiting,
    list_scopes,
)
from lance_assets.assets.sensors import explain_wait, list_to_make
from lance_assets.rounds.nouns import NOUNS
from lance_assets.rounds.overrides import Launch
from lance_assets.rounds.past.taking_up import find_kept
from resources.machine.claims import ClaimedError, Claims
from resources.training.trainer import TrainingError, TrainingKilledError
from tests.assets.conftest import OpenWorld
from tests.assets.test_sensors import tick
from tests.assets.tiny_experiment import World, find_failures, open_instance
from tests.resources.test_claims import holding

POOL = "gpu"


@dg.op
def make() -> None:
    """One step."""


@dg.job
def tiny_round() -> None:
    """A job with the name of the experiment's own."""
    make()


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance on files, with one slot in the pool."""
    (tmp_path / "dagster").mkdir()
    with open_instance(tmp_path / "dagster") as instance:
        instance.event_log_storage.set_concurrency_slots(POOL, 1)
        yield instance


def begin(instance: dg.DagsterInstance, key: str, **tags: str) -> dg.DagsterRun:
    """A run of a round that Dagster takes for started."""
    run = instance.create_run_for_job(
        tiny_round, tags={"dagster/partition": key, **tags}, status=dg.DagsterRunStatus.STARTED
    )
    return run


@contextmanager
def killed(folder: Path, run: dg.DagsterRun) -> Iterator[int]:
    """A process that held the run's claim and was killed; its number."""
    with holding(folder, run.run_id, *list_scopes(run)) as process:
        process.kill()
        process.wait()
        yield process.pid


def test_a_lost_run_is_ended_and_its_slot_is_free_at_once(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    claims, storage = Claims(tmp_path / "running"), instance.event_log_storage
    lost, alive = begin(instance, "r0001"), begin(instance, "r0002")
    assert storage.claim_concurrency_slot(POOL, lost.run_id, "make").is_claimed
    assert not storage.claim_concurrency_slot(POOL, alive.run_id, "make").is_claimed
    said: list[str] = []
    with hold_run(claims, alive), holding(claims.folder, lost.run_id, "tiny r0001") as process:
        waiting = explain_waiting(instance, claims, alive.run_id)
        assert f"waiting for a slot of pool gpu, which make of run {lost.run_id[:8]} of tiny r0001, " in waiting
        assert f"process {process.pid} on " in waiting
        assert not end_lost_runs(instance, claims, say=said.append)
        process.kill()
        process.wait()
        (ended,) = end_lost_runs(instance, claims, say=said.append)
        assert ended.run_id == lost.run_id
        assert storage.claim_concurrency_slot(POOL, alive.run_id, "make").is_claimed
        assert not explain_waiting(instance, claims, alive.run_id)
        (line,) = said
        for told in (
            f"run {lost.run_id[:8]} of tiny r0001 is lost",
            f"process {process.pid}",
            "pool gpu is free again",
        ):
            assert told in line
        # Twice is not more than once, and a run that lives is left alone.
        assert not end_lost_runs(instance, claims, say=said.append)
    now = {run.run_id: run for run in instance.get_runs()}
    assert now[lost.run_id].status == dg.DagsterRunStatus.FAILURE
    assert now[alive.run_id].status == dg.DagsterRunStatus.STARTED
    assert str(process.pid) in now[lost.run_id].tags[LOST_TAG]
    assert claims.find(lost.run_id) is None


def test_a_lost_run_is_started_again_by_one_alone_and_not_for_ever(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """Dagster's daemon starts a run again as often as the tag allows; none of the command `lance`."""
    claims = Claims(tmp_path / "running")
    first = begin(instance, "r0001")
    group = {"dagster/root_run_id": first.run_id}
    runs = [first]
    for number in range(MAX_LOST):
        if number:
            again = instance.create_run_for_job(
                tiny_round,
                tags={"dagster/partition": "r0001", **group},
                root_run_id=first.run_id,
                parent_run_id=runs[-1].run_id,
                status=dg.DagsterRunStatus.STARTED,
            )
            runs.append(again)
        with killed(claims.folder, runs[-1]):
            (lost,) = end_lost_runs(instance, claims, say=lambda _: None)
        found = instance.get_run_by_id(lost.run_id)
        assert found is not None
        assert auto_reexecution_should_retry_run(instance, found, None) == (number < MAX_LOST - 1)
    ended = [instance.get_run_by_id(run.run_id) for run in runs]
    allowed = [run.tags[MAX_RETRIES_TAG] for run in ended if run is not None]
    assert allowed == ["1", "2", "0"]

    of_command, own = begin(instance, "r0002", **{MAX_RETRIES_TAG: "0"}), begin(instance, "r0003")
    with killed(claims.folder, of_command), killed(claims.folder, own):
        end_lost_runs(instance, claims, say=lambda _: None, own=["tiny"])
    for run in (of_command, own):
        found = instance.get_run_by_id(run.run_id)
        assert found is not None
        assert (found.is_failure, found.tags[MAX_RETRIES_TAG]) == (True, "0")


def test_a_killed_run_that_dagster_itself_ended_is_known_as_lost_and_the_loop_goes_on(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """Dagster's code server may see first that the process is gone, when an earlier loss has used up the retries."""
    claims, said = Claims(tmp_path / "running"), list[str]()
    first = begin(instance, "r0001")
    again = instance.create_run_for_job(
        tiny_round,
        tags={"dagster/partition": "r0001", MAX_RETRIES_TAG: "1", "dagster/root_run_id": first.run_id},
        root_run_id=first.run_id,
        parent_run_id=first.run_id,
        status=dg.DagsterRunStatus.STARTED,
    )
    failed = begin(instance, "r0002", **{MAX_RETRIES_TAG: "0"})
    for run in (first, failed):
        instance.report_run_failed(run)

    def wait(run: dg.DagsterRun) -> str | None:
        ended = instance.get_run_by_id(run.run_id)
        assert ended is not None
        return explain_wait(instance, "r0001", [ended])

    with killed(claims.folder, again) as pid:
        instance.report_run_failed(again)
        assert "start it again by hand" in str(wait(again))
        assert not end_lost_runs(instance, claims, say=said.append), "it has ended already"
        assert claims.find(again.run_id) is None
    assert wait(again) is None
    (line,) = said
    assert f"run {again.run_id[:8]} of tiny r0001 was lost" in line
    assert f"process {pid}" in line
    end_lost_runs(instance, claims, say=said.append)
    assert len(said) == 1
    assert "start it again by hand" in str(wait(failed)), "its cause is still there"


def test_a_lost_run_stays_known_as_lost_when_another_process_writes_its_old_tags(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster's code server may end a run at the same moment, and writes the tags that it had read before."""
    claims, run = Claims(tmp_path / "running"), begin(instance, "r0001", **{LOST_TAG: "another run's"})
    report = instance.report_run_failed

    def report_and_overwrite(*arguments: object) -> object:
        event = report(*arguments)  # type: ignore[arg-type]
        instance.add_run_tags(run.run_id, {LOST_TAG: "another run's", MAX_RETRIES_TAG: "1"})
        return event

    monkeypatch.setattr(instance, "report_run_failed", report_and_overwrite)
    with killed(claims.folder, run):
        end_lost_runs(instance, claims, say=lambda _: None)
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.tags[LOST_TAG].startswith(run.run_id)


def test_what_a_run_that_ended_still_holds_is_freed(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    claims, storage, said = Claims(tmp_path / "running"), instance.event_log_storage, list[str]()
    run = begin(instance, "r0001")
    assert storage.claim_concurrency_slot(POOL, run.run_id, "make").is_claimed
    instance.report_run_failed(run)
    # Its process may be about to end its steps: what it holds is freed once it is gone.
    with hold_run(claims, run):
        end_lost_runs(instance, claims, say=said.append)
        assert storage.get_concurrency_info(POOL).claimed_slots
    end_lost_runs(instance, claims, say=said.append)
    assert not storage.get_concurrency_info(POOL).claimed_slots
    (line,) = said
    assert "of tiny r0001 has ended and still held the slot of pool gpu" in line


def test_a_run_of_an_older_version_is_judged_by_the_process_in_its_log(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "SILENT_SECONDS", 0.0)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    gone, alive = begin(instance, "r0001"), begin(instance, "r0002")
    with subprocess.Popen(["sleep", "600"]) as living:
        for run, pid in ((gone, process.pid), (alive, living.pid)):
            instance.report_engine_event("Started process for run", run, EngineEventData.in_process(pid))
        (ended,) = end_lost_runs(instance, Claims(tmp_path / "running"), say=lambda _: None)
        living.kill()
    assert ended.run_id == gone.run_id


def break_off(world: World, key: str, *nouns: str) -> None:
    """What is left of a round when it is killed before some of its nouns are written."""
    for noun in nouns:
        world.platform.tables.path("tiny", key, noun).unlink()


@pytest.mark.slow
def test_a_round_goes_on_from_what_was_lost(make_scripted_world: OpenWorld, scripted_rounds: Path) -> None:
    """Not what would be made otherwise now, is another than was written, or is made from one of these."""
    world = make_scripted_world(made_before=scripted_rounds)
    instance, plan, platform = world.instance, world.plan, world.platform
    made = world.read_bytes("r0001")
    break_off(world, "r0001", "eval_report", "reviewed_set")
    after = ["reviewed_set", "sft_set", "preference_pairs", "diversity_report", "checkpoint", "eval_report"]
    assert list_to_make(instance, plan, platform, "r0001") == after
    assert begins_as_before(plan, platform, "r0001", None)
    assert not begins_as_before(plan, platform, "r0001", Launch({"parameters.max_seeds": 3}))
    # What was made by other settings, and all after it, is made again.
    other = make_scripted_world(made_before=scripted_rounds, near_duplicates={"embedding_threshold": 0.9})
    left = list_to_make(other.instance, other.plan, other.platform, "r0001")
    assert left[0] == "cleaned_set"
    assert not {"start_checkpoint", "seed_set", "raw_generations"} & {*left}
    # Weights that are not those that were recorded are trained again.
    (weights,) = (other.platform.checkpoints.folder("tiny", "r0000")).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert find_kept(other.plan, other.platform, "r0000", NOUNS["checkpoint"]) is None

    # The run that goes on takes what becomes the same, and gives the same bytes in the end.
    job = world.definitions.resolve_job_def("tiny_round")
    result = job.execute_in_process(
        partition_key="r0001",
        instance=instance,
        raise_on_error=False,
        asset_selection=[find_key(plan, noun) for noun in after],
        tags={TAKE_UP_TAG: "a test"},
    )
    assert result.success, find_failures(result)
    taken = {noun: world.metadata(noun, "r0001").get("taken_up") is not None for noun in after}
    assert taken == dict.fromkeys(after, True) | {"reviewed_set": False, "eval_report": False}
    assert world.read_bytes("r0001") == made
    assert all(find_kept(plan, platform, "r0001", NOUNS[noun]) is not None for noun in world.nouns)


def test_a_noun_whose_checks_or_event_were_lost_is_in_the_next_run(
    make_scripted_world: OpenWorld, scripted_rounds: Path
) -> None:
    """A run can be killed after a table is written and before Dagster knows of it, or before its checks have run."""
    world = make_scripted_world(made_before=scripted_rounds)
    break_off(world, "r0001", "eval_report")
    verdict = world.platform.root / "checks" / "tiny" / "r0001" / "sft_set.no_evaluation_overlap.json"
    verdict.unlink()
    left = list_to_make(world.instance, world.plan, world.platform, "r0001")
    assert left == ["sft_set", "eval_report"]
    # Dagster remembers another version of the table than the one that is there.
    world = make_scripted_world(made_before=scripted_rounds)
    break_off(world, "r0001", "eval_report")
    world.instance.report_runless_asset_event(
        dg.AssetMaterialization(find_key(world.plan, "preference_pairs"), partition="r0001")
    )
    left = list_to_make(world.instance, world.plan, world.platform, "r0001")
    assert left == ["preference_pairs", "eval_report"]


@pytest.mark.slow
def test_the_loop_goes_on_by_itself_after_a_loss(make_scripted_world: OpenWorld, scripted_rounds: Path) -> None:
    world = make_scripted_world(made_before=scripted_rounds)
    instance, job = world.instance, world.definitions.resolve_job_def("tiny_round")
    break_off(world, "r0001", "eval_report", "checkpoint")

    def lose(**tags: str) -> dg.DagsterRun:
        run = instance.create_run_for_job(job, tags={"dagster/partition": "r0001", **tags})
        if LOST_TAG in tags:
            instance.add_run_tags(run.run_id, {LOST_TAG: f"{run.run_id} {tags[LOST_TAG]}"})
        instance.report_run_failed(run)
        return run

    lost = lose(**{LOST_TAG: "its process 1 is gone"})
    (request,) = tick(world).run_requests
    assert [key.path[-1] for key in request.asset_selection] == ["checkpoint", "eval_report"]
    assert request.tags[TAKE_UP_TAG] == lost.run_id
    # A run that was refused did nothing, so the one before it decides.
    lose(**{REFUSED_TAG: "process 1"})
    assert tick(world).run_requests
    # Dagster's own retry goes first where it is allowed one.
    lose(**{LOST_TAG: "its process 1 is gone", WILL_RETRY_TAG: "true"})
    assert "Dagster starts its run" in str(tick(world).skip_message)
    lose(**{LOST_TAG: "its process 2 is gone", RETRY_NUMBER_TAG: "1"})
    assert f"was lost {MAX_LOST} times with no step finished between" in str(tick(world).skip_message)
    # A run that Dagster started again has the tags of the one before, and may fail for a reason that will not pass.
    of_another = instance.create_run_for_job(job, tags={"dagster/partition": "r0001", LOST_TAG: f"{lost.run_id} gone"})
    instance.report_run_failed(of_another)
    assert "was already started and failed" in str(tick(world).skip_message)


class Inner(dg.Executor):
    """Starts nothing; gives the events that it was made with."""

    retries = RetryMode.DISABLED

    def __init__(self, *events: object) -> None:
        self.events = events

    def execute(self, plan_context: object, execution_plan: object) -> Iterator[object]:  # type: ignore[override]
        yield from self.events


def execute(instance: dg.DagsterInstance, claims: Claims, run: dg.DagsterRun, *events: object) -> list[str]:
    """What a run says while its executor gives some events."""
    said: list[str] = []
    context = SimpleNamespace(instance=instance, dagster_run=run, log=SimpleNamespace(info=said.append))
    list(WatchedExecutor(Inner(*events), claims).execute(context, None))  # type: ignore[arg-type]
    return said


def test_a_second_run_of_a_round_is_refused_by_name(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    claims = Claims(tmp_path / "running")
    run, other = begin(instance, "r0001"), begin(instance, "r0002")
    with holding(claims.folder, "another", "tiny r0001") as process:
        with pytest.raises(ClaimedError, match=f"tiny r0001 is worked on by process {process.pid} on "):
            execute(instance, claims, run)
        execute(instance, claims, other)
    refused = instance.get_run_by_id(run.run_id)
    assert refused is not None
    assert (refused.tags[MAX_RETRIES_TAG], str(process.pid) in refused.tags[REFUSED_TAG]) == ("0", True)
    # The claim of one that was killed keeps nobody out, and its run is ended before the first step of the next one.
    with killed(claims.folder, other):
        (line,) = execute(instance, claims, run)
    assert f"run {other.run_id[:8]} of tiny r0002 is lost" in line


def test_a_run_whose_step_was_killed_is_started_again_by_the_daemon(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """A step that failed is not: its cause is still there."""

    def fail(error: str) -> object:
        data = SimpleNamespace(error=SimpleNamespace(cls_name=error, message=""))
        return SimpleNamespace(is_step_failure=True, step_failure_data=data, step_key="tiny__checkpoint")

    claims = Claims(tmp_path / "running")
    for tags, error, is_lost, is_retried in (
        ({}, KILLED, True, True),
        ({MAX_RETRIES_TAG: "0"}, KILLED, True, False),  # of the command `lance`, which goes on by itself
        ({}, "Failure", False, False),
    ):
        run = begin(instance, "r0001", **tags)
        execute(instance, claims, run, fail(error))
        instance.report_run_failed(run)
        ended = instance.get_run_by_id(run.run_id)
        assert ended is not None
        assert (LOST_TAG in ended.tags) == is_lost
        reason = RunFailureReason.STEP_FAILURE
        assert auto_reexecution_should_retry_run(instance, ended, reason) == is_retried


@pytest.mark.parametrize("number", range(MAX_KILLED + 1))
def test_a_training_that_was_killed_is_tried_again(number: int) -> None:
    context = SimpleNamespace(retry_number=number, log=SimpleNamespace(warning=lambda _: None))
    expected = dg.RetryRequested if number < MAX_KILLED else dg.Failure
    with pytest.raises(expected):
        end_step(context, TrainingKilledError("killed"), "killed")  # type: ignore[arg-type]
    with pytest.raises(dg.Failure):
        end_step(context, TrainingError("failed"), "failed")  # type: ignore[arg-type]
