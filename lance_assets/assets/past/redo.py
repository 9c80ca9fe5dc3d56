"""Redo a round and all after it, in their order: each is made from what the ones before it hand over now.

A run with the tag `lance/redo` = `onwards` is followed by a run of the next round that there is, and so on to the last
one. The job `<experiment>_redo` has the tag, and the tag can be given to any other launch of a round. A run that fails
ends the chain, since the round after it would build on what is there from before.
"""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from lance_assets.algorithms.measures.progress import is_round_key, parse_round
from lance_assets.assets.names import find_key, find_rounds, name_rounds
from lance_assets.assets.running.lost import WAITS_TAG
from lance_assets.rounds.nouns import list_nouns
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform

REDO_TAG, ONWARDS = "lance/redo", "onwards"
"""A run with this tag and value is followed by a run of the next round."""
CHAIN_TAG = "lance/redo_of"
"""Names the run that a chain began with, on all runs that follow it."""
NUM_RUNS = 100
"""Runs with the tag that are looked at, the newest first."""


def name_redo_job(plan: Plan) -> str:
    """The name of the job that redoes a round and all after it."""
    return f"{plan.name}_redo"


def build_redo_job(plan: Plan) -> Any:
    """The job of a round whose runs are followed by those of the rounds after it; Dagster names its type nowhere."""
    return dg.define_asset_job(
        name_redo_job(plan),
        selection=dg.AssetSelection.assets(*(find_key(plan, noun.name) for noun in list_nouns(plan))),
        partitions_def=find_rounds(plan),
        tags={REDO_TAG: ONWARDS},
        description=(
            f"Makes a round of {plan.name} again, and after it each later round in its order. Choose the earliest "
            "round that is wrong."
        ),
    )


def list_rounds(instance: dg.DagsterInstance, plan: Plan, platform: Platform) -> list[str]:
    """Every round that the instance or the disk knows, oldest first."""
    known = {key for key in instance.get_dynamic_partitions(name_rounds(plan)) if is_round_key(key)}
    return sorted(known | set(platform.tables.list_rounds(plan.name)))


def list_from(instance: dg.DagsterInstance, plan: Plan, platform: Platform, first: str) -> list[str]:
    """A round and all after it, oldest first.

    Raises:
        ValueError: there is no such round.
    """
    parse_round(first)
    there = list_rounds(instance, plan, platform)
    if first not in there:
        raise ValueError(
            f"{plan.name} has no round {first} that could be made again; it has {', '.join(there) or 'none'}"
        )
    return [key for key in there if key >= first]


def build_redo_sensor(plans: Sequence[Plan], *, prefix: str = "") -> dg.SensorDefinition:
    """Starts the round after one that was redone; running by default, since nothing is redone unless a person asks.

    Args:
        plans: the experiments.
        prefix: begins the sensor's name.
    """
    by_name = {plan.name: plan for plan in plans}

    @dg.sensor(
        name=f"{prefix}redo_rounds",
        jobs=[build_redo_job(plan) for plan in plans],
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=15,
        description=f"Makes the next round again after a run with the tag {REDO_TAG}={ONWARDS}, until the last round.",
    )
    def redo_rounds(context: dg.SensorEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        # What has ended is looked up at each tick, since an event may be skipped.
        wanted = dg.RunsFilter(tags={REDO_TAG: ONWARDS}, statuses=[dg.DagsterRunStatus.SUCCESS])
        requests = []
        for run in context.instance.get_runs(wanted, limit=NUM_RUNS):
            key, plan = run.tags.get("dagster/partition"), by_name.get(name_experiment(run))
            # A round that waits for people is not made yet; the run that goes on with it has the tag too.
            if key is None or plan is None or WAITS_TAG in run.tags:
                continue
            keys = sorted(context.instance.get_dynamic_partitions(name_rounds(plan)))
            following = next((one for one in keys if one > key), None)
            began = run.tags.get(CHAIN_TAG, run.run_id)
            # The daemon starts a run of one key once, and Dagster keeps the key as a tag of the run.
            run_key = f"{began}/{following}"
            asked = dg.RunsFilter(tags={"dagster/run_key": run_key})
            if following is not None and not context.instance.get_runs(asked, limit=1):
                requests.append(
                    dg.RunRequest(
                        run_key=run_key,
                        job_name=name_redo_job(plan),
                        partition_key=following,
                        tags={CHAIN_TAG: began},
                    )
                )
        return requests or dg.SkipReason("no round was made again that has a later one to be made again")

    return redo_rounds


def name_experiment(run: dg.DagsterRun) -> str:
    """The name of the experiment that a run makes assets of; empty for any other run."""
    for name in ("_redo", "_round"):
        if run.job_name.endswith(name):
            return run.job_name.removesuffix(name)
    return next((key.path[0] for key in sorted(run.asset_selection or ())), "")
