"""Where lineage begins, and the edge between rounds: external assets whose data versions are reported as they change.

* Models and files that no round makes, one asset each. A changed file shows what reads it as unsynced.
* `decisions`, where people decide about rows: what is kept of their decisions, with the partitions of the rounds.
* `handover`, with the partitions of the rounds: what a round takes over from all rounds before it. Dagster can declare
  no edge from a round to the next one, so whoever changes what a round hands over reports the new data version for
  every later round, and evaluates their check `is_newest` again.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from lance_assets.assets.names import find_key, find_rounds
from lance_assets.rounds.deciding.asked import DecidedRound
from lance_assets.rounds.identity.sources import Source, list_sources
from lance_assets.rounds.nouns import list_before, list_inputs
from lance_assets.rounds.plan import Noun, Plan, asks_people

HANDOVER = "handover"
"""The external asset of what a round takes over."""
DECISIONS = "decisions"
"""The external asset of what people decided about a round's rows."""
START = "start_checkpoint"
"""The noun that takes it over."""
VERSION_TAG = "dagster/data_version"
"""Where Dagster keeps the data version of an event."""


def build_handover(plan: Plan) -> dg.AssetSpec:
    """What the rounds of an experiment take over, as an external asset with their partitions."""
    return dg.AssetSpec(
        find_key(plan, HANDOVER),
        description=(
            "What a round takes over from all rounds before it: the weights of its parent and the tables that it reads "
            "of them. Its data version is reported whenever an earlier round changes; r0000 takes over nothing."
        ),
        partitions_def=find_rounds(plan),
        kinds={"parquet", "safetensors"},
        **_describe_owner(plan),
    )


def build_decisions(plan: Plan) -> list[dg.AssetSpec]:
    """What people decided, as an external asset with the partitions of the rounds; none where nobody is asked."""
    if not asks_people(plan):
        return []
    description = (
        "What people decided about the reviewed rows of a round, as it is kept now. Its data version is reported "
        "whenever a decision is added; a decision_set that was made of others is then shown as unsynced."
    )
    key = find_key(plan, DECISIONS)
    return [
        dg.AssetSpec(
            key, description=description, partitions_def=find_rounds(plan), kinds={"sqlite"}, **_describe_owner(plan)
        )
    ]


def build_sources(plan: Plan) -> dg.AssetsDefinition:
    """The models and files that an experiment begins with; "Observe" on their pages looks at them at once."""
    specs = [
        dg.AssetSpec(
            find_key(plan, source.name),
            description=f"{source.description} Its data version is the hash of its content.",
            kinds={"safetensors"} if source.name.endswith("_model") else {"file"},
            metadata={"place": source.place},
            **_describe_owner(plan),
        )
        for source in list_sources(plan)
    ]

    @dg.multi_observable_source_asset(name=f"{plan.name}_sources", specs=specs, can_subset=True)
    def sources(context: dg.AssetExecutionContext) -> Iterator[dg.ObserveResult]:
        for source in list_sources(plan):
            if (key := find_key(plan, source.name)) in context.selected_asset_keys:
                yield dg.ObserveResult(asset_key=key, data_version=dg.DataVersion(source.compute_version()))

    return sources


def _describe_owner(plan: Plan) -> dict[str, Any]:
    return {"group_name": plan.name, "owners": plan.settings.owners, "tags": {"recipe": plan.settings.recipe}}


def list_parents(plan: Plan, noun: Noun) -> list[dg.AssetKey]:
    """The keys of all that a noun is made from: within its round, of earlier rounds, and from where lineage begins."""
    names = list_inputs(plan, noun)
    # Dagster's staleness follows one edge, so whatever may read an earlier round has this edge itself.
    if noun.name == START or START in names:
        names = [HANDOVER, *names]
    # For the same reason everything after a person's decision has an edge from it.
    if any(one.is_decided_by_people for one in (noun, *list_before(plan, noun))):
        names = [DECISIONS, *names]
    names = [*names, *(source.name for source in list_read(plan, noun))]
    return [find_key(plan, name) for name in names]


def observe_sources(instance: dg.DagsterInstance, plan: Plan, sources: Sequence[Source] | None = None) -> list[str]:
    """Report the data version of each source that is not what was last observed.

    Args:
        instance: where it is reported.
        plan: the experiment.
        sources: some of its sources; None for all.

    Returns:
        The names of those that are another one now.
    """
    changed = []
    for source in list_sources(plan) if sources is None else sources:
        if report_version(instance, find_key(plan, source.name), source.compute_version()):
            changed.append(source.name)
    return changed


def report_version(
    instance: dg.DagsterInstance, key: dg.AssetKey, version: str, *, partition: str | None = None
) -> bool:
    """Report the data version of an external asset, unless it is what was last observed; whether it was reported."""
    wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition] if partition else None)
    found = instance.fetch_observations(wanted, limit=1).records
    observed = found[0].asset_observation if found else None
    if observed is not None and observed.tags.get(VERSION_TAG) == version:
        return False
    observation = dg.AssetObservation(key, partition=partition, tags={VERSION_TAG: version})
    instance.report_runless_asset_event(observation)
    return True


def report_decisions(instance: dg.DagsterInstance, this_round: DecidedRound, noun: Noun) -> bool:
    """Report what is decided about a round's rows now, where it is another than was last observed.

    Args:
        instance: where it is reported.
        this_round: a round that has its reviewed set.
        noun: what people decide.
    """
    find = noun.find_function("find_decisions_version")
    assert find is not None, "a noun that people decide has it"
    return report_version(instance, find_key(this_round.plan, DECISIONS), find(this_round), partition=this_round.key)


def list_read(plan: Plan, noun: Noun) -> list[Source]:
    """The sources that a noun reads."""
    return [source for source in list_sources(plan) if noun.name in source.read_by]


def build_source_sensor(plans: Sequence[Plan], *, prefix: str = "") -> dg.SensorDefinition:
    """Observes the sources of every experiment; running by default, since it reads what has changed alone.

    Args:
        plans: the experiments.
        prefix: begins the sensor's name.
    """

    @dg.sensor(
        name=f"{prefix}source_files",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Observes models and files that rounds read: what reads a changed one is then shown as unsynced.",
    )
    def source_files(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        changed = [f"{plan.name}/{name}" for plan in plans for name in observe_sources(context.instance, plan)]
        return dg.SkipReason(f"another content: {', '.join(changed)}" if changed else "no file has changed")

    return source_files
