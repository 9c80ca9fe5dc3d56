"""How every noun is made inside Dagster: a round's function runs, its cost is kept, a user's mistake is told as one."""

import errno
import time
from collections.abc import Callable

import dagster as dg

from lance_assets.assets.platform import Platform
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.round import Made, Round
from resources.engines.contract import EngineError
from resources.evaluation.evaluator import EvaluationError
from resources.machine.handover import LeakedProcessError
from resources.stores.lance_tables import HistoryError
from resources.stores.tables import DiskFullError
from resources.training.trainer import TrainingError

USER_ERRORS = (
    *(ValueError, OSError, EngineError, TrainingError),
    *(LeakedProcessError, EvaluationError, HistoryError),
)
"""What a person can mend: their message says how, so no stack is needed."""


def explain_error(error: Exception, platform: Platform) -> str:
    """What went wrong; for a full disk, which libraries tell without place and remedy, also where and what to do."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and not isinstance(error, DiskFullError):
        return f"the disk of {platform.root} is full: free some space and run the step again ({error})"
    return str(error)


def make_noun(
    context: dg.AssetExecutionContext,
    platform: Platform,
    plan: Plan,
    noun: str,
    make: Callable[[Round], Made],
) -> dg.MaterializeResult:
    """Make one noun of the partition's round.

    Raises:
        dagster.Failure: what a person can mend (`USER_ERRORS`), without retry.
    """
    started = time.monotonic()
    try:
        this_round = Round(plan, platform, context.partition_key, context.log.info)
        made = make(this_round)
        cost = this_round.record_cost(noun, started)
    except USER_ERRORS as error:
        told = f"{plan.name} {context.partition_key} {noun}: {explain_error(error, platform)}"
        raise dg.Failure(description=told, allow_retries=False) from error
    return dg.MaterializeResult(data_version=dg.DataVersion(made.data_version), metadata=made.metadata | cost)
