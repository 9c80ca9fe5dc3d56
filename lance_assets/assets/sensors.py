"""The loop: a sensor on eval_report that starts the next round until a stop rule says no."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Self

import dagster as dg

# There is no public name for the filter of a check's partitions, or for Dagster's own tags.
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.tags import WILL_RETRY_TAG

from lance_assets.algorithms.measures.progress import (
    START_ROUND,
    Decision,
    RoundOutcome,
    decide_next_round,
    format_round,
    parse_round,
)
from lance_assets.assets.names import find_key, find_rounds, name_rounds
from lance_assets.assets.past.lineage import report_decisions
from lance_assets.assets.past.redo import CHAIN_TAG, REDO_TAG, name_redo_job
from lance_assets.assets.running.lost import (
    MAX_LOST,
    REFUSED_TAG,
    TAKE_UP_TAG,
    WAITS_TAG,
    count_fruitless,
    explain_loss,
)
from lance_assets.assets.running.platform import PlatformResource
from lance_assets.assets.running.waiting import is_current
from lance_assets.rounds.deciding.asked import explain_waiting, list_waiting
from lance_assets.rounds.headline import read_outcomes
from lance_assets.rounds.nouns import NOUNS, list_nouns
from lance_assets.rounds.past.gate import has_passed
from lance_assets.rounds.past.taking_up import list_lost
from lance_assets.rounds.plan import Noun, Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round

SETTLED_NS = 2 * 10**9
"""A round that was written later than this is read again at the next tick."""


def stamp_round(root: str, experiment: str, round_key: str) -> tuple[int, ...]:
    """What changes whenever a table, a cost or an identity of a round is written: when its folders changed, in ns."""
    stamps = []
    for sort in ("tables", "costs", "identity"):
        try:
            # A file is written beside its place and renamed, which changes its folder.
            stamps.append(os.stat(f"{root}/{sort}/{experiment}/{round_key}").st_mtime_ns)
        except FileNotFoundError:
            stamps.append(0)
    return tuple(stamps)


@dataclass
class SeenOutcomes:
    """The outcomes that earlier ticks of a sensor read: a tick reads the rounds that were written since."""

    stamps: list[tuple[int, ...]] = field(default_factory=list)
    """Of each round that was seen, from r0000."""
    outcomes: list[RoundOutcome] = field(default_factory=list)
    """Of the same rounds."""

    def read(self, reader: Round, keys: Sequence[str]) -> list[RoundOutcome]:
        """The outcomes of finished rounds, from r0000 without a gap, as `read_outcomes`."""
        root = str(reader.platform.root)
        # A second write in the moment of the first might leave a folder's time as it is.
        newest = time.time_ns() - SETTLED_NS
        stamps = [stamp_round(root, reader.experiment.name, key) for key in keys]
        # A round is compared with those before it, so that after the first changed one all are read.
        num_known = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(stamps, self.stamps, strict=False)))
        outcomes = read_outcomes(reader, keys, known=self.outcomes[:num_known])
        num_settled = sum(1 for _ in takewhile(lambda stamp: max(stamp) < newest, stamps))
        if len(outcomes) == len(keys):
            self.stamps, self.outcomes = stamps[:num_settled], outcomes[:num_settled]
        return outcomes


JUDGED = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}
"""The states of a check that was evaluated."""


def find_finished_rounds(instance: dg.DagsterInstance, plan: Plan, platform: Platform) -> list[str]:
    """Rounds whose eval_report is materialized and on the disk, from r0000 without a gap."""
    rounds = sorted(instance.get_dynamic_partitions(name_rounds(plan)))
    statuses = instance.get_status_by_partition(find_key(plan, "eval_report"), rounds, find_rounds(plan)) or {}
    finished = (
        {key for key, status in statuses.items() if status == dg.AssetPartitionStatus.MATERIALIZED} if rounds else set()
    )
    # What the instance remembers may have been removed from the disk since.
    finished = {key for key in finished if platform.tables.exists(plan.name, key, "eval_report")}
    # A round after a gap was built on one that is missing now, so it does not count.
    in_order, number = [], 0
    while format_round(number) in finished:
        in_order.append(format_round(number))
        number += 1
    return in_order


def decide(instance: dg.DagsterInstance, plan: Plan, platform: Platform, seen: SeenOutcomes | None = None) -> Decision:
    """The next round by the experiment's stop rules, from what is finished.

    Args:
        instance: what remembers the rounds.
        plan: the experiment.
        platform: where the tables are.
        seen: what was read before; None: every report is read.
    """
    finished = find_finished_rounds(instance, plan, platform)
    stop = plan.settings.stop
    # Any round can read the others; the newest one is as good as another.
    reader = Round(plan, platform, finished[-1] if finished else START_ROUND, lambda _: None)
    return decide_next_round(
        (seen or SeenOutcomes()).read(reader, finished),
        max_rounds=stop.max_rounds,
        patience=stop.patience,
        max_tokens=stop.max_tokens,
        max_hours=stop.max_hours,
        on_regression=stop.on_regression,
    )


class StateSensor(dg.AssetSensorDefinition):
    """An asset sensor whose function is called at every tick, also when nothing of the asset is new.

    Dagster's own hands over the newest of the events since the last tick and none at all before the first one. A round
    whose event was passed over would never be followed, and a tick could not say what the loop waits for. The UI shows
    the asset among what this sensor monitors, as it does for any asset sensor.
    """

    def __init__(self, asset_key: dg.AssetKey, **arguments: Any) -> None:
        """Keep the asset; the other arguments are those of `dagster.SensorDefinition`."""
        # Past dagster.AssetSensorDefinition, whose own evaluation ends a tick without a new event.
        dg.SensorDefinition.__init__(self, **arguments)
        self._asset_key, self._arguments = asset_key, arguments

    def with_attributes(
        self,
        *,
        jobs: Sequence[Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Self:
        """A copy with other metadata: Dagster asks for one where a component is loaded. The job is known by name."""
        return type(self)(self._asset_key, **(self._arguments | ({} if metadata is None else {"metadata": metadata})))


def find_runs(instance: dg.DagsterInstance, plan: Plan, round_key: str) -> list[dg.DagsterRun]:
    """The runs of a round, the newest first: those of its job, and those that were started from the graph."""
    records = instance.get_run_records(dg.RunsFilter(tags={"dagster/partition": round_key}))
    runs = [record.dagster_run for record in records]
    # A run from the graph has a job of Dagster's own.
    return [
        run
        for run in runs
        if run.job_name in (f"{plan.name}_round", name_redo_job(plan))
        or any(key.path[0] == plan.name for key in run.asset_selection or ())
    ]


def explain_wait(instance: dg.DagsterInstance, round_key: str, runs: Sequence[dg.DagsterRun]) -> str | None:
    """Why a round that was started and has no eval_report is not started again; None where its run was lost.

    Args:
        instance: what remembers the runs.
        round_key: the round.
        runs: its runs, the newest first; at least one.
    """
    # A round that failed is not started again by itself: its cause is still there, and a round may cost hours. That its
    # process was killed is no cause that would still be there, unless it comes again and again.
    unfinished = [run for run in runs if not run.is_finished]
    if unfinished:
        run = unfinished[0]
        return f"waiting for {round_key}: its run {run.run_id} is {run.status.value.lower().replace('_', ' ')}"
    run = runs[0]
    if WAITS_TAG in run.tags:
        return f"{run.tags[WAITS_TAG]} (run {run.run_id})"
    if run.is_success:
        return (
            f"{round_key} was already started and has no eval_report (run {run.run_id} made a part of it); "
            "materialize the rest by hand"
        )
    if run.status == dg.DagsterRunStatus.FAILURE and (why := explain_loss(run)) is not None:
        if run.tags.get(WILL_RETRY_TAG) == "true":
            return f"waiting for {round_key}: Dagster starts its run {run.run_id} again, which was lost"
        if count_fruitless(instance, runs) < MAX_LOST:
            return None
        return (
            f"{round_key} was lost {MAX_LOST} times with no step finished between (run {run.run_id}: "
            f"{why}); mend the cause, such as too little memory, and start it again by hand"
        )
    ended = "was canceled" if run.status == dg.DagsterRunStatus.CANCELED else "failed"
    return f"{round_key} was already started and {ended} (run {run.run_id}); mend the cause and start it again by hand"


def explain_obstacle(instance: dg.DagsterInstance, plan: Plan, platform: Platform, round_key: str) -> str | None:
    """Why a round must not be made as things are, and what to do; None where nothing is lost by making it.

    Args:
        instance: what remembers the rounds.
        plan: the experiment.
        platform: where the tables are.
        round_key: the round that would be next.
    """
    redo = f"lance run {plan.name} --redo-from"
    wanted = dg.AssetRecordsFilter(asset_key=find_key(plan, "eval_report"), asset_partitions=[round_key])
    is_on_disk = platform.tables.exists(plan.name, round_key, "eval_report")
    if is_on_disk and not instance.fetch_materializations(wanted, limit=1).records:
        return (
            f"{round_key} is finished in {platform.root}, and the Dagster instance does not know it: "
            f"lance doctor {plan.name} --fix tells it, and {redo} {round_key} makes the round again"
        )
    if is_on_disk and round_key not in instance.get_dynamic_partitions(name_rounds(plan)):
        return (
            f"{round_key} is finished in {platform.root}, and its partition was deleted: lance doctor {plan.name} "
            f"--fix adds it again, and {redo} {round_key} makes the round again"
        )
    if round_key == START_ROUND:
        return None
    # The next round must not be built on one that is itself built on what is gone.
    before = Round(plan, platform, format_round(parse_round(round_key) - 1), lambda _: None)
    (check,) = (one for one in NOUNS["start_checkpoint"].checks if one.name == "is_newest")
    judged = NOUNS["start_checkpoint"].judge(check, before)
    return None if judged.passed else f"{before.key} is out of date: {judged.description}"


def explain_started(instance: dg.DagsterInstance, plan: Plan, platform: Platform, round_key: str) -> str | None:
    """Why a round that is next was started before and is left to a person; None where the sensor may start it."""
    # A run that was refused did nothing: the one that refused it says what became of the round.
    runs = [run for run in find_runs(instance, plan, round_key) if REFUSED_TAG not in run.tags]
    is_going = any(not run.is_finished for run in runs)
    # A person who deletes the partition of a round that did not finish wants it to begin anew.
    if not runs or (not is_going and round_key not in instance.get_dynamic_partitions(name_rounds(plan))):
        return None
    if any(run.is_success for run in runs) and not is_going and round_key not in platform.tables.list_rounds(plan.name):
        return (
            f"{round_key} was made before and its tables are gone from {platform.root}: bring the data back, or make "
            f"it again by hand: lance run {plan.name}"
        )
    return explain_wait(instance, round_key, runs)


def list_to_make(instance: dg.DagsterInstance, plan: Plan, platform: Platform, round_key: str) -> list[str]:
    """The nouns that are left to make of a round that was begun; all of them where nothing of it can be taken as it is.

    Those that are made from what is made again are among them: whether that becomes the same is found there. So are
    those that are there and were not judged, or that Dagster does not know.
    """
    this_round = Round(plan, platform, round_key, lambda _: None)
    start = NOUNS["start_checkpoint"]

    def begins_same(noun: Noun) -> bool:
        # Earlier rounds may have been made again since the round began, and people may have decided otherwise.
        if noun is not start:
            return is_current(this_round, noun)
        return all(start.judge(check, this_round).passed for check in start.checks)

    def passed(noun: Noun) -> bool:
        return has_passed(this_round.plan, platform, round_key, noun)

    def is_known(noun: Noun, version: str) -> bool:
        return is_reported(instance, plan, round_key, noun, version)

    lost = list_lost(
        this_round.plan, platform, round_key, begins_same=begins_same, has_passed=passed, is_known=is_known
    )
    return lost or [noun.name for noun in list_nouns(plan)]


def is_reported(instance: dg.DagsterInstance, plan: Plan, round_key: str, noun: Noun, version: str) -> bool:
    """Whether Dagster remembers a noun of a round in a version, and each of its checks after that."""
    key = find_key(plan, noun.name)
    wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[round_key])
    records = instance.fetch_materializations(wanted, limit=1).records
    made = records[0].asset_materialization if records else None
    if made is None or (made.tags or {}).get("dagster/data_version") != version:
        return False
    of_round, storage = PartitionKeyFilter(key=round_key), instance.event_log_storage
    for check in noun.checks:
        # A later run that was to judge it again, and did not come to it, does not count.
        judged = storage.get_asset_check_execution_history(
            dg.AssetCheckKey(key, check.name), limit=1, status=JUDGED, partition_filter=of_round
        )
        if not judged or (event := judged[0].event) is None or event.timestamp < records[0].timestamp:
            return False
    return True


def choose_assets(instance: dg.DagsterInstance, plan: Plan, platform: Platform, round_key: str) -> list[dg.AssetKey]:
    """The assets that a run has to make so that a round is finished; all of them where it has not begun."""
    return [find_key(plan, name) for name in list_to_make(instance, plan, platform, round_key)]


def name_run(instance: dg.DagsterInstance, plan: Plan, round_key: str) -> str:
    """The key under which the daemon starts a round once; a round whose partition was deleted has another one."""
    num_runs = len(find_runs(instance, plan, round_key))
    return f"{plan.name}/{round_key}" + (f"/{num_runs}" if num_runs else "")


def choose_config(run: dg.DagsterRun, selection: Sequence[dg.AssetKey]) -> dict[str, Any]:
    """What a launch set of the assets of a selection, for the run that goes on with it."""
    names = {key.to_python_identifier() for key in selection}
    given: Any = run.run_config
    ops = given["ops"] if "ops" in given else {}
    return {"ops": {name: config for name, config in ops.items() if name in names}}


def build_decisions_sensor(plan: Plan) -> dg.SensorDefinition:
    """Goes on with a round that waits for people once all is decided, and makes their decisions known.

    It runs by default: a round that waits was begun by somebody.
    """

    @dg.sensor(
        name=f"{plan.name}_people_decided",
        job_name=f"{plan.name}_round",
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Goes on with a round of {plan.name} that waits for people, once every row that they are asked "
        "about is decided. A tick that starts nothing says what it waits for.",
    )
    def people_decided(
        context: dg.SensorEvaluationContext, platform: PlatformResource
    ) -> list[dg.RunRequest] | dg.SkipReason:
        try:
            noun = NOUNS["decision_set"]
            for key in platform.tables.list_rounds(plan.name):
                if platform.tables.exists(plan.name, key, noun.name):
                    report_decisions(context.instance, Round(plan, platform, key, lambda _: None), noun)
            waiting = list_waiting(platform.root, plan.name)
            found = [go_on_waiting(context.instance, plan, platform, key) for key in waiting]
        except (ValueError, OSError) as error:
            return dg.SkipReason(f"decisions or tables cannot be read: {error}")
        requests = [one for one in found if isinstance(one, dg.RunRequest)]
        told = "; ".join(one for one in found if isinstance(one, str))
        return requests or dg.SkipReason(told or "no round waits for people")

    return people_decided


def go_on_waiting(instance: dg.DagsterInstance, plan: Plan, platform: Platform, round_key: str) -> dg.RunRequest | str:
    """The run that makes the rest of a round that waited for people, or why there is none, in words."""
    told = explain_waiting(Round(plan, platform, round_key, lambda _: None))
    if told is not None:
        return told
    # The command waits itself, and goes on as it was asked to.
    command = platform.claims.find(f"command.{plan.name}")
    if command is not None and platform.claims.is_alive(command):
        return f"{round_key} is decided, and {command} goes on with it"
    runs = find_runs(instance, plan, round_key)
    if not runs or WAITS_TAG not in runs[0].tags or not runs[0].is_finished:
        return f"{round_key} is decided, and its last run did not end waiting; materialize the rest by hand"
    selection = choose_assets(instance, plan, platform, round_key)
    kept = {name: value for name, value in runs[0].tags.items() if name in (REDO_TAG, CHAIN_TAG)}
    return dg.RunRequest(
        run_key=f"{name_run(instance, plan, round_key)}/decided",
        partition_key=round_key,
        asset_selection=selection,
        run_config=choose_config(runs[0], selection),
        tags={TAKE_UP_TAG: runs[0].run_id, **kept},
    )


def build_next_round_sensor(plan: Plan) -> dg.SensorDefinition:
    """Adds the next round's partition, r0000 at first, and starts it, once."""
    # Kept as long as the code location is loaded, and with it the settings that rounds are compared by.
    seen = SeenOutcomes()

    def next_round(context: dg.SensorEvaluationContext, platform: PlatformResource) -> dg.SensorResult | dg.SkipReason:
        try:
            return start_next(context, platform)
        except (ValueError, OSError) as error:
            # Tables that were wiped or damaged: the tick says what to do, and not where in the code it was noticed.
            return dg.SkipReason(f"the loop waits: {error}")

    def start_next(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult | dg.SkipReason:
        decision = decide(context.instance, plan, platform, seen)
        if decision.next_round is None:
            return dg.SkipReason(f"the loop has ended: {decision.reason}")
        # Tables are read for an obstacle, and runs alone for what was started: that is asked first.
        obstacle = explain_started(context.instance, plan, platform, decision.next_round)
        obstacle = obstacle or explain_obstacle(context.instance, plan, platform, decision.next_round)
        if obstacle is not None:
            return dg.SkipReason(obstacle)
        context.log.info(f"starting {decision.next_round}: {decision.reason}")
        began = find_runs(context.instance, plan, decision.next_round)
        is_known = decision.next_round in context.instance.get_dynamic_partitions(name_rounds(plan))
        # A round whose partition was deleted begins anew; one whose run was lost goes on where that was.
        selection = choose_assets(context.instance, plan, platform, decision.next_round) if began and is_known else None
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(
                    run_key=name_run(context.instance, plan, decision.next_round),
                    partition_key=decision.next_round,
                    asset_selection=selection,
                    run_config=None if selection is None else choose_config(began[0], selection),
                    tags={} if selection is None else {TAKE_UP_TAG: began[0].run_id},
                )
            ],
            # The partition has to exist before the run that is requested here begins.
            dynamic_partitions_requests=[find_rounds(plan).build_add_request([decision.next_round])],
        )

    return StateSensor(
        find_key(plan, "eval_report"),
        name=f"{plan.name}_next_round",
        job_name=f"{plan.name}_round",
        evaluation_fn=next_round,
        minimum_interval_seconds=30,
        description=f"Starts the next round of {plan.name}, r0000 at first, when the last one has its eval_report, "
        "until a stop rule says no. A tick that starts nothing says what it waits for.",
    )
