"""label_checkpoint: the model that names the prompt a text answers, trained once, in r0000, beside the checkpoint."""

import polars as pl

from lance_assets.algorithms.measures.progress import START_ROUND
from lance_assets.records import CHECKPOINT
from lance_assets.rounds.report import Losses, Made, Report, Rows
from lance_assets.rounds.round import Round
from lance_assets.rounds.training import build_job, describe_training, train_when_free


def make(this_round: Round) -> Made:
    """Train the base model on the seeds turned round; later rounds have r0000's."""
    if not this_round.is_start:
        table = this_round.read("label_checkpoint", START_ROUND)
        return Made(table, version=table["content_hash"][0])
    plan, platform = this_round.plan, this_round.platform
    rows: pl.DataFrame = plan.recipe.build_label_rows(
        this_round.read("seed_set"), settings=plan.settings.parameters, identity=this_round.identity
    )
    # The trainer reads the rows from disk, so they are stored before it starts.
    this_round.write("label_set", rows)
    staging = platform.root / "stages" / plan.name / this_round.key / "label_checkpoint"
    trained = train_when_free(this_round, build_job(this_round, staging, sft="label_set", pairs=None))
    result = trained.result
    platform.checkpoints.publish(result.path, plan.label_model, this_round.key)
    path = platform.checkpoints.find(plan.label_model, this_round.key)
    row = {
        "content_hash": platform.checkpoints.hash_checkpoint(path),
        "parent_hash": platform.checkpoints.hash_checkpoint(this_round.model_path(None)),
        "is_trained": True,
        "num_sft_rows": len(rows),
        "num_pairs": 0,
        "sft_losses": result.sft_losses,
        "dpo_losses": [],
        "num_truncated": result.num_truncated,
        "num_tokens": result.num_tokens,
    }
    facts = describe_training(trained)
    return Made(pl.DataFrame([row], schema=CHECKPOINT), version=str(row["content_hash"]), facts=facts)


def report(this_round: Round) -> Report:
    """The folder, what it was trained on, and the losses."""
    row = this_round.read("label_checkpoint").row(0, named=True)
    if not this_round.is_start:
        return {"content_hash": row["content_hash"], "note": f"trained in {START_ROUND}"}
    return {
        "path": this_round.platform.checkpoints.find(this_round.plan.label_model, this_round.key),
        "content_hash": row["content_hash"],
        "trained_on": f"{row['num_sft_rows']} seeds, completion to prompt",
        "num_truncated": row["num_truncated"],
        "losses": Losses({"SFT": row["sft_losses"], "DPO": []}),
        "preview": Rows(this_round.read("label_set"), ("prompt", "completion")),
    }
