"""Sensors for all experiments, on by default.

One keeps the keys of their rounds in order, one reports failures, one observes the files that rounds read, one ends
runs whose process is gone, and one makes later rounds again after an earlier one was redone.
"""

from collections.abc import Collection, Sequence

import dagster as dg

from lance_assets.algorithms.measures.progress import START_ROUND, format_round, parse_round
from lance_assets.assets.names import find_key, find_rounds, name_rounds
from lance_assets.assets.past.lineage import build_source_sensor
from lance_assets.assets.past.redo import build_redo_sensor, name_redo_job
from lance_assets.assets.running.lost import end_lost_runs
from lance_assets.assets.running.platform import PlatformResource
from lance_assets.assets.sensors import find_runs
from lance_assets.markdown import show_text
from lance_assets.rounds.nouns import list_nouns
from lance_assets.rounds.plan import Plan


def explain_form(key: str) -> str | None:
    """Why a key is no round's; None where it is one."""
    try:
        parse_round(key)
    except ValueError as error:
        return str(error)
    return None


def explain_gap(key: str, keys: Collection[str]) -> str | None:
    """Why a round has nothing to follow; None where the round before it is among the keys.

    >>> explain_gap("r0007", ["r0000", "r0001", "r0007"])
    'r0007 follows r0006, and there is no r0006'
    """
    number = parse_round(key)
    before = format_round(number - 1) if number else key
    return None if before in keys else f"{key} follows {before}, and there is no {before}"


def find_wrong_keys(instance: dg.DagsterInstance, plan: Plan, keys: Sequence[str]) -> dict[str, str]:
    """What is wrong with each key that can never be a finished round, and that nothing hangs on.

    Args:
        instance: where runs and materializations are kept.
        plan: the experiment.
        keys: all keys of its rounds.
    """
    wrong, known = {}, frozenset(keys)
    for key in keys:
        malformed = explain_form(key)
        mistake = malformed or explain_gap(key, known)
        if mistake is None:
            continue
        runs = find_runs(instance, plan, key)
        # Whoever adds several rounds by hand may add the last one first: a gap is a mistake once a run ended on it.
        is_undecided = malformed is None and not runs
        if is_undecided or any(not run.is_finished for run in runs):
            continue
        made = (instance.get_materialized_partitions(find_key(plan, noun.name)) for noun in list_nouns(plan))
        if not any(key in partitions for partitions in made):
            wrong[key] = mistake
    return wrong


def build_rounds_sensor(plans: Sequence[Plan], *, prefix: str = "") -> dg.SensorDefinition:
    """Adds r0000 of each experiment, so that the UI offers it, and removes keys that are no rounds.

    Args:
        plans: the experiments.
        prefix: begins the sensor's name.
    """

    @dg.sensor(
        name=f"{prefix}round_keys",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Adds r0000 where an experiment has no rounds yet, and removes a key that can never be a round "
        "(round1, or r0007 without r0006) once its runs have ended and nothing was made of it. It starts no run.",
    )
    def round_keys(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        told: list[str] = []
        requests: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = []
        for plan in plans:
            keys = context.instance.get_dynamic_partitions(name_rounds(plan))
            if START_ROUND not in keys:
                requests.append(find_rounds(plan).build_add_request([START_ROUND]))
                told.append(f"{plan.name}: added {START_ROUND}")
            if wrong := find_wrong_keys(context.instance, plan, keys):
                requests.append(find_rounds(plan).build_delete_request(list(wrong)))
                told += [f"{plan.name}: removed the key {key}: {mistake}" for key, mistake in wrong.items()]
        if not requests:
            return dg.SkipReason(f"{START_ROUND} of every experiment is there, and no key is wrong")
        for line in told:
            context.log.info(line)
        # The tick starts no run, so what it did is shown where the UI shows why nothing was started.
        return dg.SensorResult(skip_reason=dg.SkipReason("; ".join(told)), dynamic_partitions_requests=requests)

    return round_keys


def describe_failure(event: dg.DagsterEvent) -> str:
    """Why a step failed: what it reported to the user, else the error that ended it."""
    failure = event.step_failure_data
    if failure.user_failure_data is not None and failure.user_failure_data.description:
        return failure.user_failure_data.description
    if failure.error is None:
        return event.message or "no reason was given"
    return (failure.error.cause or failure.error).message.strip()


def build_failure_sensor(plans: Sequence[Plan], *, prefix: str = "") -> dg.SensorDefinition:
    """Reports a failed round where people look: on the page of its eval_report.

    Args:
        plans: the experiments.
        prefix: begins the sensor's name.
    """

    @dg.run_failure_sensor(
        name=f"{prefix}failed_round",
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Notes each failed run of a round on the eval_report of its experiment, with the step and the "
        "error.",
    )
    def failed_round(context: dg.RunFailureSensorContext) -> None:
        run = context.dagster_run
        partition = run.tags.get("dagster/partition")
        # A run from the graph has a job of Dagster's own, and may hold assets of several experiments.
        selected = {key.path[0] for key in run.asset_selection or ()}
        failed = [
            plan
            for plan in plans
            if run.job_name in (f"{plan.name}_round", name_redo_job(plan)) or plan.name in selected
        ]
        if partition is None or not failed:
            return
        failures = {event.step_key or "run": describe_failure(event) for event in context.get_step_failure_events()}
        metadata = {
            "failed_run": dg.MetadataValue.dagster_run(run.run_id),
            "error": dg.MetadataValue.md(
                "\n".join(f"* `{step}`: {show_text(text)}" for step, text in failures.items())
                or show_text(context.failure_event.message or "")
            ),
        }
        for plan in failed:
            # The run has ended, so this event belongs to no run.
            observation = dg.AssetObservation(find_key(plan, "eval_report"), partition=partition, metadata=metadata)
            context.instance.report_runless_asset_event(observation)
            context.log.error(f"round {partition} of {plan.name} failed: {failures}")

    return failed_round


def build_lost_runs_sensor(*, prefix: str = "") -> dg.SensorDefinition:
    """Ends runs whose process is gone, so that they hold no slot and Dagster starts them again where they were lost.

    Args:
        prefix: begins the sensor's name.
    """

    @dg.sensor(
        name=f"{prefix}lost_runs",
        minimum_interval_seconds=10,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Ends each run whose process is gone, as after a kill or a restart of the machine, and frees its "
        "slots of pools. Dagster then starts it again from the step that was lost.",
    )
    def lost_runs(context: dg.SensorEvaluationContext, platform: PlatformResource) -> dg.SkipReason:
        told: list[str] = []
        # A tick has a minute, and a step of another machine may seem to live for longer.
        end_lost_runs(context.instance, platform.claims, say=told.append, waits=False)
        for line in told:
            context.log.info(line)
        return dg.SkipReason("; ".join(told) or "the process of every run that is started lives")

    return lost_runs


def define_upkeep(plans: Sequence[Plan], *, prefix: str = "") -> dg.Definitions:
    """The sensors of some experiments.

    Args:
        plans: the experiments.
        prefix: begins the sensors' names, where several code locations or components each have their own.
    """
    sensors = [build_rounds_sensor(plans, prefix=prefix), build_failure_sensor(plans, prefix=prefix)]
    sensors += [build_source_sensor(plans, prefix=prefix), build_lost_runs_sensor(prefix=prefix)]
    # A sensor of runs has to know a job at least.
    sensors += [build_redo_sensor(plans, prefix=prefix)] if plans else []
    return dg.Definitions(sensors=sensors)
