"""The assets and checks of an experiment, built from the table of nouns.

start_checkpoint has two additions that only Dagster can make: it waits for the round before in a backfill, and links to
its parent's page. A noun that later rounds read tells them when it has become another. A noun behind a gate is made
where the checks of all that it is made from have passed, or where the launch says why it is made all the same.
"""

import contextlib
import errno
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import dagster as dg

# There is no public name for what a check was evaluated of.
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

from lance_assets.algorithms.measures.progress import START_ROUND, format_round, parse_round
from lance_assets.assets.deploying.requests import check_requests, tag_step
from lance_assets.assets.names import find_key, find_rounds
from lance_assets.assets.past.lineage import (
    DECISIONS,
    HANDOVER,
    START,
    list_parents,
    list_read,
    observe_sources,
    report_decisions,
    report_version,
)
from lance_assets.assets.running.platform import PlatformResource
from lance_assets.assets.running.steps import takes_up, work_as_step
from lance_assets.assets.running.waiting import is_current, show_waiting
from lance_assets.assets.settings import build_launch_schema, read_launch, show_some_settings
from lance_assets.assets.showing import show_description, show_report
from lance_assets.assets.tables import describe_table, locate_table, read_tables
from lance_assets.home import name_browse_page
from lance_assets.rounds.deciding.asked import WaitingForPeopleError
from lance_assets.rounds.differences import compare_with_file, describe_differences, read_settings
from lance_assets.rounds.nouns import NOUNS, compute_code_versions, explain_identity, list_nouns
from lance_assets.rounds.past.gate import pass_gate, record_verdict
from lance_assets.rounds.past.taking_up import find_kept
from lance_assets.rounds.plan import Check, Noun, Plan
from lance_assets.rounds.report import SUMMARY, Judged, Made, Report
from lance_assets.rounds.round import Round, begin_round, make_noun
from resources.engines.contract import EngineError, EngineUnavailableError
from resources.evaluation.harness_report import EvaluationError
from resources.machine.handover import LeakedProcessError
from resources.remote.store import UnreachableStoreError
from resources.remote.write_through import bring_experiment, publish_finished, publish_left
from resources.stores.files import DiskFullError
from resources.stores.lance_tables import HistoryError
from resources.training.trainer import TrainingError, TrainingKilledError

POLL_SECONDS = 5


def wait_for_previous_round(context: dg.AssetExecutionContext) -> None:
    """In a backfill, wait until the round before has finished, so that rounds build on the redone ones in order.

    Raises:
        dagster.Failure: that round's run failed or was canceled.
    """
    backfill = context.run.tags.get("dagster/backfill")
    if backfill is None or context.partition_key == START_ROUND:
        return
    previous = format_round(parse_round(context.partition_key) - 1)
    # Dagster starts the partitions of a backfill in any order and side by side.
    wanted = dg.RunsFilter(tags={"dagster/backfill": backfill, "dagster/partition": previous})
    while True:
        records = context.instance.get_run_records(wanted, limit=1)
        # A backfill that does not hold the round before builds on what is stored of it.
        if not records or records[0].dagster_run.is_success:
            return
        run = records[0].dagster_run
        if run.is_finished:
            raise dg.Failure(
                description=f"round {previous} failed in this backfill (run {run.run_id}), so {context.partition_key} "
                f"would build on an old checkpoint; mend {previous}, then backfill from there",
                allow_retries=False,
            )
        context.log.info(f"waiting for {previous} (run {run.run_id})")
        time.sleep(POLL_SECONDS)


def link_parent(
    context: dg.AssetExecutionContext, this_round: Round, checkpoint: dg.AssetKey
) -> dict[str, dg.MetadataValue]:
    """Links to the parent checkpoint and the run that made it; the parent's page notes who started from it.

    Args:
        context: of the step that made start_checkpoint.
        this_round: the round it belongs to.
        checkpoint: the key of the experiment's checkpoint.
    """
    parent = this_round.read("start_checkpoint")["parent_round"][0]
    if parent is None:
        return {}
    links: dict[str, dg.MetadataValue] = {
        "parent_checkpoint": dg.MetadataValue.url(
            f"/assets/{'/'.join(checkpoint.path)}?partition={parent}&view=partitions"
        )
    }
    # The newest materialization is the one whose weights are in the folder.
    found = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=checkpoint, asset_partitions=[parent]), limit=1
    ).records
    if found:
        links["parent_run"] = dg.MetadataValue.dagster_run(found[0].run_id)
    started = {"started": f"start_checkpoint of {context.partition_key}"}
    context.log_event(dg.AssetObservation(checkpoint, partition=parent, metadata=started))
    return links


CHOOSES_PARENT = ("checkpoint", "eval_report")
"""The nouns beside those that are handed over which decide what later rounds start from."""


ACCEPT = "accept_failed_checks"
"""The field of a launch that lets a noun behind a gate through."""
GATE_CONFIG = {
    ACCEPT: dg.Field(
        str,
        default_value="",
        description="Why this may be made although blocking checks of what it is made from have not passed, in words "
        "that stay in the metadata. Empty: it may not.",
    )
}
"""What a launch may say of a noun behind a gate."""


def observe_inputs(instance: dg.DagsterInstance, this_round: Round, noun: Noun) -> list[str]:
    """Report what no step makes and a noun reads, where it is another than was last observed; the names of it.

    start_checkpoint, the first step of a round, reports every source, and what the round takes over.

    Raises:
        ValueError: the round before has no finished eval_report.
        OSError: an earlier round lacks a table.
    """
    plan = this_round.plan
    read = list_read(plan, noun)
    found = observe_sources(instance, plan, None if noun.name == START else read)
    changed = [name for name in found if name in {source.name for source in read}]
    if noun.is_decided_by_people and report_decisions(instance, this_round, noun):
        changed.append(DECISIONS)
    return changed + ([HANDOVER] if noun.name == START and report_handover(instance, this_round) else [])


def report_handover(instance: dg.DagsterInstance, this_round: Round) -> bool:
    """Report what a round would take over now, where it is another than was last observed; r0000 takes over nothing."""
    find_handover = NOUNS[START].find_function("find_handover")
    assert find_handover is not None, "the module of start_checkpoint has it"
    if this_round.is_start:
        return False
    key = find_key(this_round.plan, HANDOVER)
    return report_version(instance, key, find_handover(this_round).version, partition=this_round.key)


def tell_later_rounds(instance: dg.DagsterInstance, this_round: Round, noun: Noun) -> Iterator[dg.AssetCheckEvaluation]:
    """Report what later rounds would take over now that a noun was made.

    Yields:
        The check `is_newest` of each later round that takes over something else than before.
    """
    if not noun.is_handed_over and noun.name not in CHOOSES_PARENT:
        return
    plan, tables = this_round.plan, this_round.platform.tables
    (check,) = (one for one in NOUNS[START].checks if one.name == "is_newest")
    begun = [
        key for key in tables.list_rounds(plan.name) if key > this_round.key and tables.exists(plan.name, key, START)
    ]
    # The next round is told too if it has not begun, so that its first step finds its inputs as they are.
    following = format_round(parse_round(this_round.key) + 1)
    for key in dict.fromkeys([following, *begun]):
        later = this_round.at(key)
        try:
            is_changed = report_handover(instance, later)
        except USER_ERRORS:
            # A round between lacks a table; it tells the later ones once it has it.
            is_changed = True
        if is_changed and key in begun:
            # What the later round began with may be gone or damaged, which its own page and lance doctor say.
            with contextlib.suppress(*USER_ERRORS):
                yield evaluate_check(instance, later, NOUNS[START], check)


def evaluate_check(
    instance: dg.DagsterInstance, this_round: Round, noun: Noun, check: Check
) -> dg.AssetCheckEvaluation:
    """What a check finds of a noun as it is stored, said of the newest materialization.

    Raises:
        ValueError, OSError: what it reads is gone or damaged.
    """
    judged, key = noun.judge(check, this_round), find_key(this_round.plan, noun.name)
    made = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=key, asset_partitions=[this_round.key]), limit=1
    ).records
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=check.name,
        passed=judged.passed,
        metadata=show_report(judged.facts),
        severity=find_severity(judged),
        description=show_description(judged),
        partition=this_round.key,
        # Of which materialization it is said: otherwise the UI takes the check as not evaluated since.
        target_materialization_data=AssetCheckEvaluationTargetMaterializationData(
            storage_id=made[0].storage_id, run_id=made[0].run_id, timestamp=made[0].timestamp
        )
        if made
        else None,
    )


def find_severity(judged: Judged) -> dg.AssetCheckSeverity:
    """How bad a failure of a check is."""
    return dg.AssetCheckSeverity.ERROR if judged.is_error else dg.AssetCheckSeverity.WARN


def reach_gate(context: dg.AssetExecutionContext, this_round: Round, noun: Noun) -> Report:
    """Pass the gate of a noun, or be let through by the launch; what was let through is shown.

    Raises:
        GateError: a blocking check of what the noun is made from has not passed.
    """
    if not noun.is_gated:
        return {}
    accepted = context.op_execution_context.op_config[ACCEPT]
    failures = pass_gate(
        this_round.plan,
        this_round.platform,
        this_round.key,
        noun,
        lambda one, check: one.judge(check, this_round),
        accepted=accepted,
    )
    return {"accepted_failed_checks": failures, "accepted_because": accepted} if failures else {}


GPU_POOL = "gpu"
"""The pool of every step that holds a model: one at a time on a machine."""


USER_ERRORS = (
    *(ValueError, OSError, EngineError, TrainingError),
    *(LeakedProcessError, EvaluationError, HistoryError),
)
"""What a person can mend: the message says how, so no stack is needed."""


RETRIES = dg.RetryPolicy(max_retries=3, delay=30, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
"""For what may pass by itself; a step gives its process, and with it the memory, back before it is tried again."""

MAY_PASS = (EngineUnavailableError, LeakedProcessError, MemoryError, UnreachableStoreError)
"""A server or a store that does not answer, a process that still holds the memory, memory that others took."""


MAX_KILLED = 2
"""A step whose training was killed is tried again up to this number: somebody may have killed it, and the machine may
have run out of memory, which it would again."""


def may_pass(error: Exception) -> bool:
    """Whether the same step may succeed later although nobody changed anything."""
    if isinstance(error, MAY_PASS):
        return True
    # torch is not imported here, so its error is known by its words; a process of its own that ran out of memory did so
    # alone on the machine, and would again.
    words = ("out of memory", "can't allocate memory")
    return (
        isinstance(error, RuntimeError) and not isinstance(error, USER_ERRORS) and any(w in str(error) for w in words)
    )


def end_step(context: dg.AssetExecutionContext, error: Exception, text: str) -> NoReturn:
    """Raise what ends a step.

    Args:
        context: the step's.
        error: what went wrong.
        text: what a person reads of it.

    Raises:
        dagster.RetryRequested: it may pass, and `RETRIES` has tries left.
        dagster.Failure: a person has to mend it: the same mistake would come again.
    """
    if isinstance(error, TrainingKilledError) and context.retry_number < MAX_KILLED:
        context.log.warning(f"{text}\ntrying again at once")
        raise dg.RetryRequested(max_retries=RETRIES.max_retries) from error
    if may_pass(error) and context.retry_number < RETRIES.max_retries:
        pause = RETRIES.calculate_delay(context.retry_number + 1)
        context.log.warning(f"{text}\ntrying again in {pause:.0f} seconds")
        raise dg.RetryRequested(max_retries=RETRIES.max_retries, seconds_to_wait=pause) from error
    raise dg.Failure(description=text, allow_retries=False) from error


def explain_error(error: Exception, root: Path) -> str:
    """What went wrong; for a full disk, which libraries report without place and remedy, also where and what to do."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and not isinstance(error, DiskFullError):
        free = shutil.disk_usage(next(folder for folder in (root, *root.parents) if folder.exists())).free
        return f"the disk of {root} is full, {free} bytes free: free some space and run the step again ({error})"
    return str(error)


def build_asset(plan: Plan, noun: Noun, code_version: str) -> dg.AssetsDefinition:
    """The asset of one noun."""

    def make(context: dg.AssetExecutionContext, platform: PlatformResource) -> Iterator[dg.MaterializeResult]:
        with work_as_step(platform.claims, context.run, noun.name):
            made = materialize(plan, noun, context, platform)
        # Without a result the step has succeeded, and what is made from the noun is skipped.
        if made is not None:
            yield made

    # What a launch sets, start_checkpoint takes: it is the one noun that is made from nothing in its round.
    begins = None if noun.inputs else build_launch_schema(plan)
    build = dg.asset(
        key=find_key(plan, noun.name),
        description=noun.description,
        # Makers read their tables from the store by name, so these edges say what follows from what and carry no data.
        deps=list_parents(plan, noun),
        group_name=plan.name,
        partitions_def=find_rounds(plan),
        kinds=noun.kinds(plan),
        owners=plan.settings.owners,
        code_version=code_version,
        pool=GPU_POOL if noun.uses_model(plan) else None,
        op_tags=tag_step(plan, noun),
        tags={"recipe": plan.settings.recipe},
        metadata={**describe_table(plan, noun), **show_some_settings(plan, read_settings(plan, noun.name))},
        # It reads tables for whoever asks Dagster for one; what is made here was written before the step returns.
        io_manager_def=read_tables,
        config_schema=GATE_CONFIG if noun.is_gated else begins,
        output_required=not noun.is_decided_by_people,
    )
    return build(make)


def materialize(
    plan: Plan,
    noun: Noun,
    context: dg.AssetExecutionContext,
    platform: PlatformResource,
) -> dg.MaterializeResult | None:
    """Make a noun of a round, and show it; None where the round waits for people.

    Args:
        plan: the experiment as its file has it.
        noun: the noun.
        context: of the step.
        platform: the machines.

    Raises:
        dagster.Failure: a user's mistake, or a round before that failed.
    """
    try:
        bring_experiment(platform.root, plan.name, say=context.log.info)
        publish_left(platform.root, plan.name, say=context.log.info)
        # start_checkpoint is the one noun that is made from nothing in its round.
        if not noun.inputs:
            wait_for_previous_round(context)
        this_round = Round(plan, platform, context.partition_key, context.log.info)
        if not noun.inputs:
            this_round = begin_round(this_round, read_launch(plan, context.op_execution_context.op_config))
        changed = observe_inputs(context.instance, this_round, noun)
        # Dagster noted the versions of the inputs before the step began; it begins again, to note those of now.
        if changed and context.retry_number == 0:
            context.log.info(f"{', '.join(changed)}: another version than was last observed; the step begins again")
            raise dg.RetryRequested(max_retries=1)
        let_through = reach_gate(context, this_round, noun)
        made = take_up(context, this_round, noun) or make_noun(this_round, noun)
        # The report reads the stored tables, so it shows what later steps will read.
        report = {**report_overrides(this_round, noun), **noun.report(this_round)}
        report |= noun.finish(this_round)
        # A store that is away fails the next step, which has made nothing: this one would make its noun again.
        publish_finished(platform.root, plan.name, say=context.log.info, warn=context.log.warning)
    except WaitingForPeopleError as waiting:
        show_waiting(context, find_key(plan, noun.name), str(waiting))
        return None
    except (*USER_ERRORS, MemoryError, RuntimeError) as error:
        if not isinstance(error, USER_ERRORS) and not may_pass(error):
            raise
        text = f"{plan.name} {context.partition_key} {noun.name}: {explain_error(error, platform.root)}"
        end_step(context, error, text)
    for evaluation in tell_later_rounds(context.instance, this_round, noun):
        context.log_event(evaluation)
    links = {} if noun.inputs else link_parent(context, this_round, find_key(plan, "checkpoint"))
    links["browse"] = dg.MetadataValue.url(name_browse_page(plan.name, this_round.key, noun.name))
    # By default Dagster gives each run a version of its own. With the hash of the content, a run that gives the
    # same bytes leaves what follows fresh.
    version = dg.DataVersion(made.version or "")
    file = platform.tables.path(plan.name, this_round.key, noun.name)
    of_table = locate_table(plan, noun, file=file, num_rows=made.table.height)
    said = {SUMMARY: report[SUMMARY]} if SUMMARY in report else {}
    shown = {**show_report(said), **of_table, **show_report(report | made.facts | let_through)}
    return dg.MaterializeResult(data_version=version, metadata={**shown, **links})


def take_up(context: dg.AssetExecutionContext, this_round: Round, noun: Noun) -> Made | None:
    """What an earlier run made of a noun and this one would make the same; None where it has to be made.

    A run that does not go on with an earlier one makes everything that it was started for.
    """
    # What a round begins with, and the settings that its launch sets, are written down anew by each run.
    if not takes_up(context.run) or not noun.inputs:
        return None
    kept = find_kept(this_round.plan, this_round.platform, this_round.key, noun)
    if kept is None or not is_current(this_round, noun):
        return None
    context.log.info(f"{noun.name} was made before, from the same and in the same way: it is taken as it is")
    # A run that was killed after its last write left what it had finished before.
    this_round.forget_stage(noun.name)
    return Made(this_round.read(noun.name), version=kept.version, facts={"taken_up": "made by an earlier run"})


def report_overrides(this_round: Round, noun: Noun) -> Report:
    """The fact that names which of the settings a noun reads are the round's own; none where they are the file's."""
    if this_round.plan is this_round.experiment:
        return {}
    found = describe_differences(compare_with_file(this_round.experiment, this_round.plan, noun.name))
    return {"overrides": found} if found else {}


def build_check(plan: Plan, noun: Noun, check: Check) -> dg.AssetChecksDefinition:
    """One check of a noun."""

    @dg.asset_check(
        asset=find_key(plan, noun.name),
        name=check.name,
        description=check.description,
        blocking=check.is_blocking,
        partitions_def=find_rounds(plan),
    )
    def judge(context: dg.AssetCheckExecutionContext, platform: PlatformResource) -> dg.AssetCheckResult:
        this_round = Round(plan, platform, context.partition_key, context.log.info)
        with work_as_step(platform.claims, context.run, f"{noun.name}.{check.name}"):
            try:
                judged = noun.judge(check, this_round)
                if check.is_blocking:
                    record_verdict(this_round.plan, platform, this_round.key, noun, check, judged)
                    publish_finished(platform.root, plan.name, say=context.log.info, warn=context.log.warning)
            except USER_ERRORS as error:
                # What a check reads may have been wiped or damaged since it was made.
                text = f"{plan.name} {this_round.key} {check.name}: {explain_error(error, platform.root)}"
                raise dg.Failure(description=text, allow_retries=False) from error
        return dg.AssetCheckResult(
            passed=judged.passed,
            severity=find_severity(judged),
            description=show_description(judged),
            metadata=show_report(judged.facts),
        )

    return judge


def build_assets(plan: Plan) -> list[dg.AssetsDefinition]:
    """The assets of an experiment, in the order in which they are made.

    Raises:
        dagster.DagsterInvalidDefinitionError: its `requests` name an asset that it does not have.
    """
    # The versions depend on each other, so they are computed together and once.
    versions = compute_code_versions(plan)
    check_requests(plan, list_nouns(plan))
    for noun in list_nouns(plan):
        # What is kept beside a table must belong to the code version that the UI shows, whenever the step runs.
        explain_identity(plan, noun.name)
    return [build_asset(plan, noun, versions[noun.name]) for noun in list_nouns(plan)]


def build_checks(plan: Plan) -> list[dg.AssetChecksDefinition]:
    """Every check of an experiment."""
    return [build_check(plan, noun, check) for noun in list_nouns(plan) for check in noun.checks]
