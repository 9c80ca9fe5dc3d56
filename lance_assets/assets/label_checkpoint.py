"""label_checkpoint: the model that names the prompt a text answers, trained once, in r0000, beside the checkpoint."""

from typing import Any

import dagster as dg
import polars as pl

from lance_assets.algorithms.measures.progress import START_ROUND
from lance_assets.assets.checkpoint import build_job, train_when_free
from lance_assets.assets.making import make_noun
from lance_assets.assets.platform import Platform
from lance_assets.pictures.metadata import plot_losses, preview_rows
from lance_assets.records import CHECKPOINT
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.round import Made, Round


def make_label_checkpoint(this_round: Round) -> Made:
    """Train the base model on the seeds turned round; later rounds have r0000's."""
    if not this_round.is_start:
        table = this_round.read("label_checkpoint", START_ROUND)
        this_round.write("label_checkpoint", table)
        note = {"content_hash": table["content_hash"][0], "note": f"trained in {START_ROUND}"}
        return Made(table["content_hash"][0], note)
    plan = this_round.plan
    rows: pl.DataFrame = plan.recipe.build_label_rows(
        this_round.read("seed_set"), settings=plan.settings.parameters, identity=this_round.identity
    )
    this_round.write("label_set", rows)
    staging = this_round.platform.root / "stages" / plan.name / this_round.key / "label_checkpoint"
    trained = train_when_free(this_round, build_job(this_round, staging, sft="label_set", pairs=None))
    result = trained.result
    this_round.platform.checkpoints.publish(result.path, plan.label_model, this_round.key)
    this_round.forget_stage("label_checkpoint")
    path = this_round.platform.checkpoints.find(plan.label_model, this_round.key)
    row: dict[str, Any] = {
        "content_hash": this_round.platform.checkpoints.hash_checkpoint(path),
        "parent_hash": this_round.platform.checkpoints.hash_checkpoint(this_round.model_path(None)),
        "is_trained": True,
        "num_sft_rows": len(rows),
        "num_pairs": 0,
        "sft_losses": result.sft_losses,
        "dpo_losses": [],
        "num_truncated": result.num_truncated,
        "num_tokens": result.num_tokens,
    }
    this_round.write("label_checkpoint", pl.DataFrame([row], schema=CHECKPOINT))
    metadata = {
        "path": dg.MetadataValue.path(path),
        "content_hash": row["content_hash"],
        "trained_on": f"{len(rows)} seeds, completion to prompt",
        "num_truncated": result.num_truncated,
        "losses": plot_losses({"SFT": result.sft_losses, "DPO": []}),
        "preview": preview_rows(rows, ("prompt", "completion")),
        "train_tokens": result.num_tokens,
        "train_seconds": result.seconds,
    }
    return Made(row["content_hash"], metadata | trained.describe_memory())


def build_label_checkpoint(plan: Plan) -> dg.AssetsDefinition:
    """The asset of one experiment."""

    @dg.asset(**plan.asset_arguments("label_checkpoint", kinds={"pytorch", "huggingface"}, uses_model=True))
    def label_checkpoint(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """The base model after SFT on the seeds, completion to prompt."""
        return make_noun(context, platform, plan, "label_checkpoint", make_label_checkpoint)

    return label_checkpoint
