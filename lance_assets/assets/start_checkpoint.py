"""start_checkpoint: what a round begins from; the edge between rounds that Dagster cannot declare is resolved here."""

import hashlib
import time

import dagster as dg
import polars as pl

from lance_assets.algorithms.measures.progress import START_ROUND, choose_parent_round, format_round, parse_round
from lance_assets.assets.making import make_noun
from lance_assets.assets.platform import Platform
from lance_assets.records import START_CHECKPOINT
from lance_assets.rounds.outcomes import read_outcomes
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.round import Made, Round
from resources.stores.checkpoints import require_chat_template, validate_model_folder

POLL_SECONDS = 5
HANDED_OVER = ("seed_set", "cleaned_set", "reviewed_set", "sft_set", "preference_pairs")
"""What later rounds read of a round, beside its checkpoint and, where the experiment trains one, its label model."""


def wait_for_previous_round(context: dg.AssetExecutionContext) -> None:
    """In a backfill, wait until the round before has finished, so that rounds build on the redone ones in order.

    Raises:
        dagster.Failure: that round's run failed or was canceled.
    """
    backfill = context.run.tags.get("dagster/backfill")
    if backfill is None or context.partition_key == START_ROUND:
        return
    previous = format_round(parse_round(context.partition_key) - 1)
    wanted = dg.RunsFilter(tags={"dagster/backfill": backfill, "dagster/partition": previous})
    while True:
        records = context.instance.get_run_records(wanted, limit=1)
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


def make_start_checkpoint(this_round: Round) -> Made:
    """Choose the parent round and record its checkpoint and everything it hands over."""
    parent = None
    if not this_round.is_start:
        outcomes = read_outcomes(this_round, this_round.earlier_keys)
        rule = this_round.plan.settings.stop.on_regression
        parent = choose_parent_round(outcomes, before=this_round.key, on_regression=rule)
    path = this_round.model_path(parent)
    validate_model_folder(path)
    require_chat_template(path)
    content_hash = this_round.platform.checkpoints.hash_checkpoint(path)
    if parent is not None and this_round.read("checkpoint", parent)["content_hash"][0] != content_hash:
        raise ValueError(
            f"the folder of {parent}'s checkpoint ({path}) does not hold what was recorded; "
            f"materialize checkpoint of {parent} again"
        )
    digest = hashlib.sha256(content_hash.encode())
    label = ("label_checkpoint",) if this_round.plan.trains_label_model else ()
    for key in this_round.earlier_keys:
        for noun in (*HANDED_OVER, *label):
            digest.update(this_round.platform.tables.hash(this_round.plan.name, key, noun).encode())
    handover = digest.hexdigest()
    row = {"parent_round": parent, "content_hash": content_hash, "handover_hash": handover}
    this_round.write("start_checkpoint", pl.DataFrame([row], schema=START_CHECKPOINT))
    metadata = {
        "path": dg.MetadataValue.path(path),
        "content_hash": content_hash,
        "parent_round": parent or "none: the base model",
    }
    return Made(handover, metadata)


def link_parent(context: dg.AssetExecutionContext, plan: Plan, parent: str) -> dict[str, dg.MetadataValue]:
    """Links to the parent checkpoint and the run that made it; the parent's page is told who started from it."""
    key = plan.key("checkpoint")
    links: dict[str, dg.MetadataValue] = {
        "parent_checkpoint": dg.MetadataValue.url(f"/assets/{'/'.join(key.path)}?partition={parent}&view=partitions")
    }
    found = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=key, asset_partitions=[parent]), limit=1
    ).records
    if found:
        links["parent_run"] = dg.MetadataValue.dagster_run(found[0].run_id)
    started = {"started": f"start_checkpoint of {context.partition_key}"}
    context.log_event(dg.AssetObservation(key, partition=parent, metadata=started))
    return links


def build_start_checkpoint(plan: Plan) -> dg.AssetsDefinition:
    """The asset of one experiment."""

    @dg.asset(**plan.asset_arguments("start_checkpoint", kinds={"safetensors"}))
    def start_checkpoint(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """What the round begins from: the base model in r0000, afterwards the checkpoint of the round before."""
        wait_for_previous_round(context)
        result = make_noun(context, platform, plan, "start_checkpoint", make_start_checkpoint)
        parent = Round(plan, platform, context.partition_key, context.log.info).read("start_checkpoint")[
            "parent_round"
        ][0]
        links = link_parent(context, plan, parent) if parent is not None else {}
        return result._replace(metadata={**(result.metadata or {}), **links})

    return start_checkpoint
