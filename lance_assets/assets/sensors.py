"""The loop: a sensor that starts the next round until a stop rule says no, and one that reports failed rounds."""

import dagster as dg

from lance_assets.algorithms.measures.progress import START_ROUND, Decision, decide_next_round, format_round
from lance_assets.assets.platform import PlatformResource, find_key, find_rounds, name_rounds
from lance_assets.rounds.headline import read_outcomes
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round


def find_finished_rounds(instance: dg.DagsterInstance, plan: Plan) -> list[str]:
    """Rounds whose eval_report is materialized, from r0000 without a gap."""
    rounds = sorted(instance.get_dynamic_partitions(name_rounds(plan)))
    statuses = instance.get_status_by_partition(find_key(plan, "eval_report"), rounds, find_rounds(plan)) or {}
    finished = (
        {key for key, status in statuses.items() if status == dg.AssetPartitionStatus.MATERIALIZED} if rounds else set()
    )
    # A round after a gap was built on one that is missing now, so it does not count.
    in_order, number = [], 0
    while format_round(number) in finished:
        in_order.append(format_round(number))
        number += 1
    return in_order


def decide(instance: dg.DagsterInstance, plan: Plan, platform: Platform) -> Decision:
    """The next round by the experiment's stop rules, from what is finished."""
    finished = find_finished_rounds(instance, plan)
    stop = plan.settings.stop
    # Any round can read the others; the newest one is as good as another.
    reader = Round(plan, platform, finished[-1] if finished else START_ROUND, lambda _: None)
    return decide_next_round(
        read_outcomes(reader, finished),
        max_rounds=stop.max_rounds,
        patience=stop.patience,
        max_tokens=stop.max_tokens,
        max_hours=stop.max_hours,
        on_regression=stop.on_regression,
    )


def is_started(instance: dg.DagsterInstance, plan: Plan, round_key: str) -> bool:
    """Whether any run was ever started for a round: by the sensor, or by hand from the graph, whose job is another."""
    records = instance.get_run_records(dg.RunsFilter(tags={"dagster/partition": round_key}))
    runs = [record.dagster_run for record in records]
    return any(
        run.job_name == f"{plan.name}_round" or any(key.path[0] == plan.name for key in run.asset_selection or ())
        for run in runs
    )


def build_next_round_sensor(plan: Plan) -> dg.SensorDefinition:
    """Adds the next round's partition and starts it, once."""

    @dg.sensor(
        name=f"{plan.name}_next_round",
        job_name=f"{plan.name}_round",
        minimum_interval_seconds=30,
        description=f"Starts the next round of {plan.name} when an eval_report is finished, until a stop rule says no.",
    )
    def next_round(context: dg.SensorEvaluationContext, platform: PlatformResource) -> dg.SensorResult | dg.SkipReason:
        decision = decide(context.instance, plan, platform)
        if decision.next_round is None:
            return dg.SkipReason(decision.reason)
        # A round that failed is not started again by itself: its cause is still there, and a round may cost hours.
        if is_started(context.instance, plan, decision.next_round):
            return dg.SkipReason(f"{decision.next_round} was already started; start it again by hand if it failed")
        context.log.info(f"starting {decision.next_round}: {decision.reason}")
        return dg.SensorResult(
            run_requests=[
                dg.RunRequest(run_key=f"{plan.name}/{decision.next_round}", partition_key=decision.next_round)
            ],
            # The partition has to exist before the run that is requested here begins.
            dynamic_partitions_requests=[find_rounds(plan).build_add_request([decision.next_round])],
        )

    return next_round


def describe_failure(event: dg.DagsterEvent) -> str:
    """Why a step failed: what it reported to the user, else the error that ended it."""
    failure = event.step_failure_data
    if failure.user_failure_data is not None and failure.user_failure_data.description:
        return failure.user_failure_data.description
    if failure.error is None:
        return event.message or "no reason was given"
    return (failure.error.cause or failure.error).message.strip()


def build_failure_sensor(plan: Plan) -> dg.SensorDefinition:
    """Reports a failed round where people look: on the page of its eval_report."""

    @dg.run_failure_sensor(
        name=f"{plan.name}_failed_round",
        description=f"Notes each failed run of a round of {plan.name} on its eval_report, with the step and the error.",
    )
    def failed_round(context: dg.RunFailureSensorContext) -> None:
        # The sensor sees the failed runs of every experiment.
        tags, selection = context.dagster_run.tags, context.dagster_run.asset_selection or set()
        partition = tags.get("dagster/partition")
        is_ours = context.dagster_run.job_name == f"{plan.name}_round" or any(
            key.path[0] == plan.name for key in selection
        )
        if partition is None or not is_ours:
            return
        failures = {event.step_key or "run": describe_failure(event) for event in context.get_step_failure_events()}
        metadata = {
            "failed_run": dg.MetadataValue.dagster_run(context.dagster_run.run_id),
            "error": dg.MetadataValue.md(
                "\n".join(f"* `{step}`: {text}" for step, text in failures.items())
                or context.failure_event.message
                or ""
            ),
        }
        # The run has ended, so this event belongs to no run.
        observation = dg.AssetObservation(find_key(plan, "eval_report"), partition=partition, metadata=metadata)
        context.instance.report_runless_asset_event(observation)
        context.log.error(f"round {partition} of {plan.name} failed: {failures}")

    return failed_round
