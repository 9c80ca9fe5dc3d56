"""checkpoint: what a round trains, in a process of its own, once the memory of generating is free."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from lance_assets.assets.making import make_noun
from lance_assets.assets.platform import Platform
from lance_assets.pictures.metadata import plot_losses
from lance_assets.records import CHECKPOINT
from lance_assets.rounds.contamination import find_contaminated
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.round import Made, Round
from resources.engines.durable_stage import clear_stage
from resources.machine.handover import MemoryHandover, wait_until_free
from resources.stores.checkpoints import copy_checkpoint
from resources.training.trainer import TrainJob, TrainResult, build_launcher, train_checkpoint


@dataclass(frozen=True)
class Trained:
    """A training that ran, and what it found and took of the machine."""

    result: TrainResult
    """The checkpoint, and how training went."""
    handover: MemoryHandover
    """What was free before it started."""

    def describe_memory(self) -> dict[str, float]:
        """Metadata in GiB and seconds; never part of a table, since it differs from run to run."""
        found = {
            "memory/free_before_training_gib": self.handover.free_host_gib,
            "memory/seconds_waited": self.handover.seconds_waited,
            "memory/training_peak_host_gib": self.result.peak_host_gib,
            "memory/training_peak_gpu_gib": self.result.peak_gpu_gib,
        }
        for place, gpu in enumerate(self.handover.gpus):
            found[f"memory/free_before_training_gpu_{place}_gib"] = gpu.free_gib
        return {name: round(value, 3) for name, value in found.items()}


def find_evaluation_rows(this_round: Round) -> list[str]:
    """Ids of training rows whose prompt belongs to the evaluation; any such row stops the round."""
    sft, pairs = this_round.read("sft_set"), this_round.read("preference_pairs")
    rows = pl.concat(
        [sft.select("row_id", "prompt", "source"), pairs.select("row_id", "prompt", source=pl.lit("pair"))]
    )
    found = find_contaminated(this_round, rows["row_id"].to_list(), rows["prompt"].to_list())
    return found["row_id"].unique(maintain_order=True).to_list()


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
    plan, stores = this_round.plan, this_round.platform
    sft, pairs = this_round.read("sft_set"), this_round.read("preference_pairs")
    staging = stores.root / "stages" / plan.name / this_round.key / "checkpoint"
    is_new = (pl.col("source_round") == this_round.key).any()
    again = plan.settings.parameters.trains_without_news
    if not again and not sft.select(is_new).item() and not pairs.select(is_new).item():
        this_round.log("this round brought nothing to train on: its checkpoint is its start checkpoint")
        clear_stage(staging)
        copy_checkpoint(this_round.start_path(), staging / "kept")
        stores.checkpoints.publish(staging / "kept", plan.name, this_round.key)
        return None
    trained = train_when_free(this_round, build_job(this_round, staging))
    stores.checkpoints.publish(trained.result.path, plan.name, this_round.key)
    return trained


def train_when_free(this_round: Round, job: TrainJob) -> Trained:
    """Wait until no engine holds memory, and train.

    Raises:
        LeakedProcessError: an engine still runs, or a GPU is not free.
        TrainingError: training failed.
    """
    training = this_round.plan.settings.training
    handover = wait_until_free(
        this_round.platform.leases,
        min_free_gpu_rate=training.min_free_gpu_rate,
        timeout_seconds=training.handover_seconds,
        log=this_round.log,
    )
    return Trained(train_checkpoint(job, log=this_round.log), handover)


def build_job(
    this_round: Round, staging: Path, *, sft: str = "sft_set", pairs: str | None = "preference_pairs"
) -> TrainJob:
    """What is trained: what the round begins with, on two of its tables."""
    plan, tables = this_round.plan, this_round.platform.tables
    training = plan.settings.training
    launcher = training.launcher
    if training.accelerate_config is not None:
        launcher = build_launcher(plan.folder / Path(training.accelerate_config).expanduser())
    return TrainJob(
        start_checkpoint=this_round.training_start(),
        base_model=this_round.model_path(None) if training.lora is not None else None,
        sft_path=tables.path(plan.name, this_round.key, sft),
        pairs_path=tables.path(plan.name, this_round.key, pairs) if pairs is not None else None,
        staging=staging,
        prompt_profile=plan.settings.prompt_profile,
        sft=training.sft,
        dpo=training.dpo,
        lora=training.lora,
        token_budget=None if this_round.is_start else training.token_budget,
        launcher=launcher,
        rng_seed=plan.settings.rng_seed,
    )


def plan_start(this_round: Round) -> str:
    """What training begins with, in words."""
    return "the base model" if this_round.trains_from_base else "the start checkpoint"


def make_checkpoint(this_round: Round) -> Made:
    """Train, or keep the start checkpoint when the round brought nothing, and record what the weights saw."""
    trained = train(this_round)
    result = trained.result if trained else None
    this_round.forget_stage("checkpoint")
    path = this_round.model_path(this_round.key)
    start = this_round.read("start_checkpoint").row(0, named=True)
    sft, pairs = this_round.read("sft_set"), this_round.read("preference_pairs")
    began = this_round.training_start() if result else this_round.start_path()
    row: dict[str, Any] = {
        "content_hash": this_round.platform.checkpoints.hash_checkpoint(path),
        "parent_hash": this_round.platform.checkpoints.hash_checkpoint(began),
        "is_trained": result is not None,
        "num_sft_rows": len(sft) if result else 0,
        "num_pairs": len(pairs) if result else 0,
        "sft_losses": result.sft_losses if result else [],
        "dpo_losses": result.dpo_losses if result else [],
        "num_truncated": result.num_truncated if result else 0,
        "num_tokens": result.num_tokens if result else 0,
    }
    this_round.write("checkpoint", pl.DataFrame([row], schema=CHECKPOINT))
    metadata = {
        "path": dg.MetadataValue.path(path),
        "content_hash": row["content_hash"],
        "is_trained": row["is_trained"],
        "trained_on": dg.MetadataValue.md(f"{row['num_sft_rows']} SFT rows, then {row['num_pairs']} preference pairs"),
        "parent_round": start["parent_round"] or "none: the base model",
        "trained_from": plan_start(this_round) if result else "nothing: the start checkpoint is kept",
        "num_steps": len(result.sft_losses) + len(result.dpo_losses) if result else 0,
        "num_truncated": row["num_truncated"],
        "losses": plot_losses({"SFT": row["sft_losses"], "DPO": row["dpo_losses"]}),
    }
    if trained is not None and result is not None:
        metadata |= {"train_tokens": result.num_tokens, "train_seconds": result.seconds} | trained.describe_memory()
        if result.dpo_accuracies:
            metadata["dpo_accuracy_last"] = result.dpo_accuracies[-1]
        if result.dpo_chosen_logps:
            metadata["dpo_chosen_logps_first"] = result.dpo_chosen_logps[0]
            metadata["dpo_chosen_logps_last"] = result.dpo_chosen_logps[-1]
    else:
        metadata["note"] = "this round brought nothing to train on: the start checkpoint is kept"
    return Made(row["content_hash"], metadata)


def build_checkpoint(plan: Plan) -> dg.AssetsDefinition:
    """The asset of one experiment."""

    @dg.asset(
        **plan.asset_arguments(
            "checkpoint",
            kinds={"pytorch", "huggingface"},
            uses_model=True,
        )
    )
    def checkpoint(context: dg.AssetExecutionContext, platform: Platform) -> dg.MaterializeResult:
        """The model after SFT and DPO on the round's sets: weights, tokenizer and loss curves."""
        return make_noun(context, platform, plan, "checkpoint", make_checkpoint)

    return checkpoint
