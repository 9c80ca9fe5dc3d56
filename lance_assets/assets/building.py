"""The assets and checks of an experiment, built from the table of nouns."""

import errno
from pathlib import Path

import dagster as dg

from lance_assets.assets.platform import PlatformResource
from lance_assets.assets.showing import show_report
from lance_assets.assets.start_edge import link_parent, wait_for_previous_round
from lance_assets.rounds.nouns import Check, Noun, compute_code_versions, list_inputs, list_nouns
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.report import Judged, Report
from lance_assets.rounds.round import Round, make_noun
from resources.engines.contract import EngineError
from resources.evaluation.evaluator import EvaluationError
from resources.machine.handover import LeakedProcessError
from resources.stores.lance_tables import HistoryError
from resources.stores.tables import DiskFullError
from resources.training.trainer import TrainingError

GPU_POOL = "gpu"
"""The pool of every step that holds a model: one at a time on a machine."""

USER_ERRORS = (
    *(ValueError, OSError, EngineError, TrainingError),
    *(LeakedProcessError, EvaluationError, HistoryError),
)
"""What a person can mend: the message says how, so no stack is needed."""


def find_rounds(plan: Plan) -> dg.DynamicPartitionsDefinition:
    """The experiment's own rounds."""
    return dg.DynamicPartitionsDefinition(name=name_rounds(plan))


def name_rounds(plan: Plan) -> str:
    """The name of the experiment's partitions."""
    return f"{plan.name}_round"


def find_key(plan: Plan, noun: str) -> dg.AssetKey:
    """The asset key of a noun."""
    return dg.AssetKey([plan.name, noun])


def explain_error(error: Exception, root: Path) -> str:
    """What went wrong; for a full disk, which libraries report without place and remedy, also where and what to do."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and not isinstance(error, DiskFullError):
        return f"the disk of {root} is full: free some space and run the step again ({error})"
    return str(error)


def build_asset(plan: Plan, noun: Noun, code_version: str) -> dg.AssetsDefinition:
    """The asset of one noun."""

    @dg.asset(
        key=find_key(plan, noun.name),
        description=noun.description,
        deps=[find_key(plan, name) for name in list_inputs(plan, noun)],
        group_name=plan.name,
        partitions_def=find_rounds(plan),
        kinds=noun.kinds(plan),
        owners=plan.settings.owners,
        code_version=code_version,
        pool=GPU_POOL if noun.uses_model(plan) else None,
        tags={"recipe": plan.settings.recipe},
    )
    def make(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult:
        if not noun.inputs:
            wait_for_previous_round(context)
        this_round = Round(plan, platform, context.partition_key, context.log.info)
        try:
            made = make_noun(this_round, noun)
            report: Report = noun.module.report(this_round) if hasattr(noun.module, "report") else {}
        except USER_ERRORS as error:
            text = f"{plan.name} {context.partition_key} {noun.name}: {explain_error(error, platform.root)}"
            raise dg.Failure(description=text, allow_retries=False) from error
        links = {} if noun.inputs else link_parent(context, this_round, find_key(plan, "checkpoint"))
        version = dg.DataVersion(made.version or "")
        return dg.MaterializeResult(data_version=version, metadata={**show_report(report | made.facts), **links})

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
        judged: Judged = getattr(noun.module, check.name)(this_round)
        return dg.AssetCheckResult(
            passed=judged.passed,
            severity=dg.AssetCheckSeverity.ERROR if judged.is_error else dg.AssetCheckSeverity.WARN,
            description=judged.description,
            metadata=show_report(judged.facts),
        )

    return judge


def build_assets(plan: Plan) -> list[dg.AssetsDefinition]:
    """The assets of an experiment, in the order in which they are made."""
    versions = compute_code_versions(plan)
    return [build_asset(plan, noun, versions[noun.name]) for noun in list_nouns(plan)]


def build_checks(plan: Plan) -> list[dg.AssetChecksDefinition]:
    """Every check of an experiment."""
    return [build_check(plan, noun, check) for noun in list_nouns(plan) for check in noun.checks]
