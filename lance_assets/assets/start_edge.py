"""The edge between rounds that Dagster cannot declare: what start_checkpoint waits for, and its link to the parent."""

import time

import dagster as dg

from lance_assets.algorithms.measures.progress import START_ROUND, format_round, parse_round
from lance_assets.rounds.round import Round

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
    found = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=checkpoint, asset_partitions=[parent]), limit=1
    ).records
    if found:
        links["parent_run"] = dg.MetadataValue.dagster_run(found[0].run_id)
    started = {"started": f"start_checkpoint of {context.partition_key}"}
    context.log_event(dg.AssetObservation(checkpoint, partition=parent, metadata=started))
    return links
