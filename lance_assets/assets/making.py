"""How every noun is made inside Dagster: a round's function runs, its cost is kept, a user's mistake is told as one."""

import time
from collections.abc import Callable

import dagster as dg

from lance_assets.assets.plan import Plan
from lance_assets.assets.platform import Platform
from lance_assets.assets.rounds import Made, Round
from resources.trainer import TrainingError


def make_noun(
    context: dg.AssetExecutionContext,
    platform: Platform,
    plan: Plan,
    noun: str,
    make: Callable[[Round], Made],
) -> dg.MaterializeResult:
    """Make one noun of the partition's round.

    Raises:
        dagster.Failure: a mistake of the user's (`ValueError` and its kin), a full disk or a failed training, without retry.
    """
    this_round = Round(plan, platform, context.partition_key, context.log.info)
    started = time.monotonic()
    try:
        made = make(this_round)
    except (ValueError, OSError, TrainingError) as error:
        raise dg.Failure(description=f"{plan.name} {this_round.key} {noun}: {error}", allow_retries=False) from error
    cost = this_round.record_cost(noun, started)
    return dg.MaterializeResult(data_version=dg.DataVersion(made.data_version), metadata=made.metadata | cost)
