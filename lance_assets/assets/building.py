"""The assets and checks of an experiment, built from the table of nouns.

start_checkpoint has two additions that only Dagster can make: it waits for the round before in a backfill, and links to
its parent's page.
"""

import errno
import time
from pathlib import Path
from typing import NoReturn

import dagster as dg

from lance_assets.algorithms.measures.progress import START_ROUND, format_round, parse_round
from lance_assets.assets.platform import PlatformResource, find_key, find_rounds, read_tables
from lance_assets.assets.showing import show_report
from lance_assets.assets.tables import describe_table, locate_table
from lance_assets.rounds.nouns import compute_code_versions, explain_identity, list_inputs, list_nouns
from lance_assets.rounds.plan import Check, Noun, Plan
from lance_assets.rounds.round import Round, make_noun
from resources.engines.contract import EngineError, EngineUnavailableError
from resources.evaluation.evaluator import EvaluationError
from resources.machine.handover import LeakedProcessError
from resources.stores.lance_tables import HistoryError
from resources.stores.tables import DiskFullError
from resources.training.trainer import TrainingError

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


GPU_POOL = "gpu"
"""The pool of every step that holds a model: one at a time on a machine."""


USER_ERRORS = (
    *(ValueError, OSError, EngineError, TrainingError),
    *(LeakedProcessError, EvaluationError, HistoryError),
)
"""What a person can mend: the message says how, so no stack is needed."""


RETRIES = dg.RetryPolicy(max_retries=3, delay=30, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
"""For what may pass by itself; a step gives its process, and with it the memory, back before it is tried again."""

MAY_PASS = (EngineUnavailableError, LeakedProcessError, MemoryError)
"""A server that does not answer, a process that still holds the memory, memory that others took."""


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
    if may_pass(error) and context.retry_number < RETRIES.max_retries:
        pause = RETRIES.calculate_delay(context.retry_number + 1)
        context.log.warning(f"{text}\ntrying again in {pause:.0f} seconds")
        raise dg.RetryRequested(max_retries=RETRIES.max_retries, seconds_to_wait=pause) from error
    raise dg.Failure(description=text, allow_retries=False) from error


def explain_error(error: Exception, root: Path) -> str:
    """What went wrong; for a full disk, which libraries report without place and remedy, also where and what to do."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and not isinstance(error, DiskFullError):
        return f"the disk of {root} is full: free some space and run the step again ({error})"
    return str(error)


def build_asset(plan: Plan, noun: Noun, code_version: str) -> dg.AssetsDefinition:
    """The asset of one noun."""
    checkpoint = find_key(plan, "checkpoint")

    @dg.asset(
        key=find_key(plan, noun.name),
        description=noun.description,
        # Makers read their tables from the store by name, so these edges say what follows from what and carry no data.
        deps=[find_key(plan, name) for name in list_inputs(plan, noun)],
        group_name=plan.name,
        partitions_def=find_rounds(plan),
        kinds=noun.kinds(plan),
        owners=plan.settings.owners,
        code_version=code_version,
        pool=GPU_POOL if noun.uses_model(plan) else None,
        tags={"recipe": plan.settings.recipe},
        metadata=describe_table(plan, noun),
        # It reads tables for whoever asks Dagster for one; what is made here was written before the step returns.
        io_manager_def=read_tables,
    )
    def make(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult:
        try:
            # start_checkpoint is the one noun that is made from nothing in its round.
            if not noun.inputs:
                wait_for_previous_round(context)
            this_round = Round(plan, platform, context.partition_key, context.log.info)
            made = make_noun(this_round, noun)
            # The report reads the stored tables, so it shows what later steps will read.
            report = noun.report(this_round)
        except (*USER_ERRORS, MemoryError, RuntimeError) as error:
            if not isinstance(error, USER_ERRORS) and not may_pass(error):
                raise
            text = f"{plan.name} {context.partition_key} {noun.name}: {explain_error(error, platform.root)}"
            end_step(context, error, text)
        links = {} if noun.inputs else link_parent(context, this_round, checkpoint)
        # By default Dagster gives each run a version of its own. With the hash of the content, a run that gives the
        # same bytes leaves what follows fresh.
        version = dg.DataVersion(made.version or "")
        file = platform.tables.path(plan.name, this_round.key, noun.name)
        of_table = locate_table(plan, noun, file=file, num_rows=made.table.height)
        shown = {**of_table, **show_report(report | made.facts)}
        return dg.MaterializeResult(data_version=version, metadata={**shown, **links})

    return make


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
        judged = noun.judge(check, this_round)
        return dg.AssetCheckResult(
            passed=judged.passed,
            severity=dg.AssetCheckSeverity.ERROR if judged.is_error else dg.AssetCheckSeverity.WARN,
            description=judged.description,
            metadata=show_report(judged.facts),
        )

    return judge


def build_assets(plan: Plan) -> list[dg.AssetsDefinition]:
    """The assets of an experiment, in the order in which they are made."""
    # The versions depend on each other, so they are computed together and once.
    versions = compute_code_versions(plan)
    for noun in list_nouns(plan):
        # What is kept beside a table must belong to the code version that the UI shows, whenever the step runs.
        explain_identity(plan, noun.name)
    return [build_asset(plan, noun, versions[noun.name]) for noun in list_nouns(plan)]


def build_checks(plan: Plan) -> list[dg.AssetChecksDefinition]:
    """Every check of an experiment."""
    return [build_check(plan, noun, check) for noun in list_nouns(plan) for check in noun.checks]
