"""checkpoint: what a round trains, in a process of its own, once the memory of generating is free."""

import math

import polars as pl

from lance_assets.records import CHECKPOINT
from lance_assets.rounds.contamination import find_contaminated
from lance_assets.rounds.report import Judged, Losses, Made, Report
from lance_assets.rounds.round import Round
from lance_assets.rounds.training import Trained, build_job, describe_training, train_when_free
from resources.engines.durable_stage import clear_stage
from resources.stores.checkpoints import copy_checkpoint


def make(this_round: Round) -> Made:
    """Train, or keep the start checkpoint when the round brought nothing, and record what the weights saw."""
    trained = train(this_round)
    result = trained.result if trained else None
    checkpoints = this_round.platform.checkpoints
    began = this_round.training_start() if result else this_round.start_path()
    row = {
        "content_hash": checkpoints.hash_checkpoint(this_round.model_path(this_round.key)),
        "parent_hash": checkpoints.hash_checkpoint(began),
        "is_trained": result is not None,
        "num_sft_rows": len(this_round.read("sft_set")) if result else 0,
        "num_pairs": len(this_round.read("preference_pairs")) if result else 0,
        "sft_losses": result.sft_losses if result else [],
        "dpo_losses": result.dpo_losses if result else [],
        "num_truncated": result.num_truncated if result else 0,
        "num_tokens": result.num_tokens if result else 0,
    }
    facts = describe_training(trained) if trained else {}
    return Made(pl.DataFrame([row], schema=CHECKPOINT), version=str(row["content_hash"]), facts=facts)


def train(this_round: Round) -> Trained | None:
    """Train on the round's sets and publish the checkpoint; None when the round brought nothing new.

    Raises:
        ValueError: a training row belongs to the evaluation.
        LeakedProcessError: an engine still runs, or a GPU is not free.
        TrainingError: training failed.
    """
    if leaked := find_evaluation_rows(this_round):
        raise ValueError(
            f"{len(leaked)} training rows are evaluation prompts, the first is {leaked[0]}; "
            "remove them from the seeds, or materialize cleaned_set again"
        )
    plan, platform = this_round.plan, this_round.platform
    sft, pairs = this_round.read("sft_set"), this_round.read("preference_pairs")
    staging = platform.root / "stages" / plan.name / this_round.key / "checkpoint"
    is_new = (pl.col("source_round") == this_round.key).any()
    again = plan.settings.parameters.trains_without_news
    if not again and not sft.select(is_new).item() and not pairs.select(is_new).item():
        this_round.log("this round brought nothing to train on: its checkpoint is its start checkpoint")
        clear_stage(staging)
        copy_checkpoint(this_round.start_path(), staging / "kept")
        platform.checkpoints.publish(staging / "kept", plan.name, this_round.key)
        return None
    trained = train_when_free(this_round, build_job(this_round, staging))
    platform.checkpoints.publish(trained.result.path, plan.name, this_round.key)
    return trained


def find_evaluation_rows(this_round: Round) -> list[str]:
    """Ids of training rows whose prompt belongs to the evaluation; any such row stops the round."""
    sft, pairs = this_round.read("sft_set"), this_round.read("preference_pairs")
    rows = pl.concat(
        [sft.select("row_id", "prompt", "source"), pairs.select("row_id", "prompt", source=pl.lit("pair"))]
    )
    found = find_contaminated(this_round, rows["row_id"].to_list(), rows["prompt"].to_list())
    return found["row_id"].unique(maintain_order=True).to_list()


def report(this_round: Round) -> Report:
    """The folder, what it was trained on and from, and the losses."""
    row, start = (this_round.read(noun).row(0, named=True) for noun in ("checkpoint", "start_checkpoint"))
    began = "the base model" if this_round.trains_from_base else "the start checkpoint"
    facts: Report = {
        "path": this_round.model_path(this_round.key),
        "content_hash": row["content_hash"],
        "is_trained": row["is_trained"],
        "trained_on": f"{row['num_sft_rows']} SFT rows, then {row['num_pairs']} preference pairs",
        "parent_round": start["parent_round"] or "none: the base model",
        "trained_from": began if row["is_trained"] else "nothing: the start checkpoint is kept",
        "num_steps": len(row["sft_losses"]) + len(row["dpo_losses"]),
        "num_truncated": row["num_truncated"],
        "losses": Losses({"SFT": row["sft_losses"], "DPO": row["dpo_losses"]}),
    }
    if not row["is_trained"]:
        facts["note"] = "this round brought nothing to train on: the start checkpoint is kept"
    return facts


def loss_moved(this_round: Round) -> Judged:
    """Whether losses are finite, none is constant over its steps, and the weights moved if anything was trained."""
    row = this_round.read("checkpoint").row(0, named=True)
    losses = row["sft_losses"] + row["dpo_losses"]
    is_finite = all(math.isfinite(loss) for loss in losses)
    stages = [stage for stage in (row["sft_losses"], row["dpo_losses"]) if len(stage) > 1]
    moved = all(len(set(stage)) > 1 for stage in stages) and row["content_hash"] != row["parent_hash"]
    return Judged(
        passed=is_finite and moved if row["is_trained"] else row["content_hash"] == row["parent_hash"],
        facts={"is_trained": row["is_trained"], "is_finite": is_finite, "num_losses": len(losses)},
    )
