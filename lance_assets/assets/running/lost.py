"""Lost runs: those that Dagster takes for running and whose process is gone.

The default launcher has no look at a run's process, and nobody else looks at a run of the command `lance`. So a killed
run would stay started for ever and hold its slot of the pool. Every run holds a claim (`resources.machine.claims`) from
its begin to its end; a run whose claim nobody holds any more is ended here as failed, and its slots are freed.
"""

import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg
import psutil

# There is no public way to ask for the names of Dagster's own tags.
from dagster._core.storage.tags import MAX_RETRIES_TAG, RETRY_ON_ASSET_OR_OP_FAILURE_TAG

from resources.machine import claims as machine
from resources.machine.claims import LOOK_SECONDS, MAX_LOOKS, TOUCH_SECONDS, Claim, Claims

LOST_TAG = "lance/lost"
"""Of a run whose process, or that of one of its steps, was killed: the run's id, and what became of the process."""
REFUSED_TAG = "lance/refused"
"""Who worked on the round already when a run of it began, and was refused."""
TAKE_UP_TAG = "lance/takes_up"
"""A run with this tag takes what was finished before it as it is, where it would be made the same."""

WAITS_TAG = "lance/waits_for_people"
"""Of a run that ended because its round waits for people: what it waits for, in words."""

RUNNING = (
    *(dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING),
    *(dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING),
)
"""The states of a run that has a process, or should have; one that is queued has none yet."""

SILENT_SECONDS = 30.0
"""A run without a claim, of an older version or killed before it had one, is judged after so long without an event."""
MAX_LOST = 3
"""A round that was lost so often, one time after the other and with no step finished, is left to a person."""
KEEP_ATTEMPTS, KEEP_SECONDS = 5, 0.3
"""So often, and with such a pause, it is looked whether the tags of a run that was ended are still there."""
STEP_SECONDS = 10.0
"""A step whose run is gone ends by itself; after so long it is killed."""
JOB_SECONDS = 2 * machine.SILENT_SECONDS + MAX_LOOKS * LOOK_SECONDS + TOUCH_SECONDS
"""A step on another machine does so too. Where the disk shows no locks it sees the loss a minute later, and seems to
live for another one."""

Say = Callable[[str], None]
"""Takes a line that a person reads."""


def name_experiments(run: dg.DagsterRun) -> list[str]:
    """The experiments that a run makes assets of; none for any other run."""
    for suffix in ("_redo", "_round"):
        if run.job_name.endswith(suffix):
            return [run.job_name.removesuffix(suffix)]
    return sorted({key.path[0] for key in run.asset_selection or () if len(key.path) > 1})


def list_scopes(run: dg.DagsterRun) -> list[str]:
    """What no two runs may work on at once: each experiment's round."""
    partition = run.tags.get("dagster/partition")
    return [] if partition is None else [f"{name} {partition}" for name in name_experiments(run)]


def describe_run(run: dg.DagsterRun) -> str:
    """A run, for a person."""
    return f"run {run.run_id[:8]} of {', '.join(list_scopes(run)) or run.job_name}"


def explain_loss(run: dg.DagsterRun) -> str | None:
    """What became of the process of a run that was lost; None for any other run."""
    run_id, _, why = run.tags.get(LOST_TAG, "").partition(" ")
    # A run that is started again has the tags of the one before.
    return why if run_id == run.run_id else None


@dataclass(frozen=True)
class LostRun:
    """A run whose process is gone."""

    run: dg.DagsterRun
    """The run, as Dagster has it."""
    why: str
    """How that is known, in words."""


def find_lost_runs(instance: dg.DagsterInstance, claims: Claims) -> list[LostRun]:
    """The runs that Dagster takes for running and whose process is gone, the oldest first."""
    records = instance.get_run_records(dg.RunsFilter(statuses=list(RUNNING)), ascending=True)
    found = [(record.dagster_run, _explain_lost(instance, claims, record)) for record in records]
    return [LostRun(run, why) for run, why in found if why is not None]


def _explain_lost(instance: dg.DagsterInstance, claims: Claims, record: dg.RunRecord) -> str | None:
    run = record.dagster_run
    claim = claims.find(run.run_id)
    if claim is not None:
        return None if claims.is_alive(claim) else f"its {claim} is gone"
    # There is no public way to ask whether an instance is of this machine alone. Who loads definitions asks for no
    # database, and its library takes a third of all their imports.
    from dagster._core.storage.runs.sqlite import SqliteRunStorage

    # Dagster writes the number of a run's process into the run's log, and nothing of the machine.
    if not isinstance(instance.run_storage, SqliteRunStorage) or not name_experiments(run):
        return None
    if (
        time.time() - record.update_timestamp.timestamp() < SILENT_SECONDS
        or (noted := _read_pid(instance, run)) is None
    ):
        return None
    pid, noted_at = noted
    try:
        # A process that was made after the event has the number only now.
        is_gone = psutil.Process(pid).create_time() > noted_at + 1
    except psutil.NoSuchProcess:
        is_gone = True
    newest = instance.get_records_for_run(run.run_id, limit=1, ascending=False).records
    is_silent = not newest or time.time() - newest[0].timestamp > SILENT_SECONDS
    return f"its process {pid} is gone" if is_gone and is_silent else None


def _read_pid(instance: dg.DagsterInstance, run: dg.DagsterRun) -> tuple[int, float] | None:
    """The number of a run's process and when it was noted, from the run's log; None where it is not there."""
    wanted = dg.DagsterEventType.ENGINE_EVENT
    for record in instance.get_records_for_run(run.run_id, of_type=wanted, ascending=False).records:
        event = record.event_log_entry.dagster_event
        pid = event.engine_event_data.metadata.get("pid") if event is not None else None
        # The engine events of steps tell the numbers of the steps.
        if pid is not None and event is not None and event.step_key is None:
            return int(str(pid.value)), record.timestamp
    return None


def end_lost_runs(
    instance: dg.DagsterInstance, claims: Claims, *, say: Say, own: Sequence[str] = (), waits: bool = True
) -> list[dg.DagsterRun]:
    """End every lost run as failed and free what it holds of pools, and free what runs that ended left behind.

    Args:
        instance: where the runs are kept.
        claims: of what works on the data.
        say: takes a line for each run that is ended.
        own: experiments whose rounds the caller goes on with itself; other runs are started again by the daemon, where
            there is one.
        waits: whether a run is waited for whose step on another machine still seems to live; otherwise it is left for
            a later call.

    Returns:
        The runs that were ended.
    """
    ended = []
    for lost in find_lost_runs(instance, claims):
        if not _end_steps(claims, lost.run.run_id, say, waits=waits):
            continue
        with claims.end(lost.run.run_id) as is_mine:
            run = instance.get_run_by_id(lost.run.run_id) if is_mine else None
            if run is None or run.is_finished:
                continue
            # The command `lance` goes on by itself, so its runs say from the start that nobody else shall.
            is_own = run.tags.get(MAX_RETRIES_TAG) == "0" or bool(own and {*name_experiments(run)} <= {*own})
            num_retries = 0 if is_own else count_retries(instance, run)
            tags = {LOST_TAG: f"{run.run_id} {lost.why}", MAX_RETRIES_TAG: str(num_retries)}
            instance.add_run_tags(run.run_id, tags)
            run = run.with_tags({**run.tags, **tags})
            slots = list_slots(instance, run.run_id)
            told = f"{describe_run(run)} is lost, {lost.why}: it is ended as failed" + (
                f", and {', '.join(slots)} is free again" if slots else ""
            )
            if run.status == dg.DagsterRunStatus.CANCELING:
                instance.report_run_canceled(run, told)
            else:
                instance.report_run_failed(run, told)
            _keep_tags(instance, run.run_id, tags)
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            say(told)
            ended.append(run)
    _note_killed(instance, claims, say, waits=waits)
    _free_left_slots(instance, claims, say)
    return ended


def _keep_tags(instance: dg.DagsterInstance, run_id: str, tags: Mapping[str, str]) -> None:
    """Write tags again that are gone: who ends a run at the same moment writes all tags as it had read them before."""
    for _ in range(KEEP_ATTEMPTS):
        time.sleep(KEEP_SECONDS)
        found = instance.get_run_by_id(run_id)
        if found is not None and tags.items() - found.tags.items():
            instance.add_run_tags(run_id, dict(tags))


def _note_killed(instance: dg.DagsterInstance, claims: Claims, say: Say, *, waits: bool) -> None:
    """Note on runs that Dagster itself ended as failed that their process was killed: its code server may see it first.

    A run that fails by itself ends its claim before, so only one that was killed has left it behind.
    """
    for claim in claims.list_left():
        # The claims of steps and of commands have a point in their names.
        run = None if "." in claim.name else instance.get_run_by_id(claim.name)
        if run is None or run.status != dg.DagsterRunStatus.FAILURE:
            continue
        if not _end_steps(claims, run.run_id, say, waits=waits):
            continue
        with claims.end(run.run_id) as is_mine:
            if is_mine and explain_loss(run) is None:
                instance.add_run_tags(run.run_id, {LOST_TAG: f"{run.run_id} its {claim} is gone"})
                say(f"{describe_run(run)} was lost, its {claim} is gone; Dagster had ended it as failed")


def _end_steps(claims: Claims, run_id: str, say: Say, *, waits: bool = True) -> bool:
    """Wait until the steps of a run whose process is gone have ended too, so that nothing is written twice."""
    began, is_killed = time.monotonic(), False
    while left := claims.list_alive(f"{run_id}."):
        waited = time.monotonic() - began
        is_here = all(claim.host == socket.gethostname() for claim in left)
        if not is_here and not waits:
            return False
        if waited > (2 * STEP_SECONDS if is_here else JOB_SECONDS):
            say(f"run {run_id[:8]} is lost, and its step goes on in {left[0]}: end that process")
            return False
        if waited > STEP_SECONDS and not is_killed:
            claims.kill_steps(run_id)
            is_killed = True
        time.sleep(0.1)
    return True


def count_fruitless(instance: dg.DagsterInstance, runs: Sequence[dg.DagsterRun]) -> int:
    """How many runs of a round finished no step, one after the other up to the newest.

    Args:
        instance: where their events are.
        runs: the newest first.
    """
    wanted = dg.DagsterEventType.STEP_SUCCESS
    fruitless = 0
    for run in runs:
        if instance.get_records_for_run(run.run_id, of_type=wanted, limit=1).records:
            break
        fruitless += 1
    return fruitless


def count_retries(instance: dg.DagsterInstance, run: dg.DagsterRun) -> int:
    """How many retries Dagster may have made of a run's group, so that it makes one more of a run that is lost.

    0, so that it makes none, where the last `MAX_LOST` runs of the group were all lost before a step was finished.
    """
    group = instance.get_run_group(run.run_id)
    ids = [run.run_id] if group is None else [one.run_id for one in group[1]]
    runs = instance.get_runs(dg.RunsFilter(run_ids=ids))
    return 0 if count_fruitless(instance, runs) >= MAX_LOST else len(runs)


def allow_retry(instance: dg.DagsterInstance, run: dg.DagsterRun, why: str) -> None:
    """Let Dagster start a run again that fails because the process of one of its steps was killed.

    Args:
        instance: where the run is kept.
        run: a run of the daemon; one of the command `lance` goes on by itself.
        why: what became of the step's process.
    """
    tags = {LOST_TAG: f"{run.run_id} {why}"}
    if run.tags.get(MAX_RETRIES_TAG) != "0":
        tags |= {MAX_RETRIES_TAG: str(count_retries(instance, run)), RETRY_ON_ASSET_OR_OP_FAILURE_TAG: "true"}
    instance.add_run_tags(run.run_id, tags)


def list_slots(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    """The pools of which a run holds a slot."""
    storage = instance.event_log_storage
    pools = sorted(storage.get_concurrency_keys())
    return [
        f"the slot of pool {pool}"
        for pool in pools
        if any(slot.run_id == run_id for slot in storage.get_concurrency_info(pool).claimed_slots)
    ]


def _free_left_slots(instance: dg.DagsterInstance, claims: Claims, say: Say) -> None:
    """Free what runs that have ended, or were deleted, still hold; Dagster's daemon does so after minutes."""
    alive = {claim.name.partition(".")[0] for claim in claims.list_alive()}
    for run_id in instance.event_log_storage.get_concurrency_run_ids() - alive:
        run = instance.get_run_by_id(run_id)
        if run is None or (run.is_finished and name_experiments(run)):
            slots = list_slots(instance, run_id)
            instance.event_log_storage.free_concurrency_slots_for_run(run_id)
            if slots:
                named = describe_run(run) if run is not None else f"run {run_id[:8]}"
                say(f"{named} has ended and still held {', '.join(slots)}: it is free again")


def explain_waiting(instance: dg.DagsterInstance, claims: Claims, run_id: str) -> str:
    """Which slots of a pool a run waits for and who holds them; empty where it waits for none."""
    return "; ".join(_explain_pools(instance, claims, run_id))


def _explain_pools(instance: dg.DagsterInstance, claims: Claims, run_id: str) -> Iterator[str]:
    storage = instance.event_log_storage
    for pool in sorted(storage.get_concurrency_keys()):
        info = storage.get_concurrency_info(pool)
        if run_id not in info.pending_run_ids or any(slot.run_id == run_id for slot in info.claimed_slots):
            continue
        held = [f"{slot.step_key} of {_name_holder(instance, claims, slot.run_id)}" for slot in info.claimed_slots]
        yield f"waiting for a slot of pool {pool}, which {' and '.join(held) or 'nobody'} holds"


def _name_holder(instance: dg.DagsterInstance, claims: Claims, run_id: str) -> str:
    claim: Claim | None = claims.find(run_id)
    run = instance.get_run_by_id(run_id)
    named = describe_run(run) if run is not None else f"run {run_id[:8]}"
    return f"{named}, {claim}" if claim is not None else named
