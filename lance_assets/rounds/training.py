"""How a round trains: what is trained on what, and the wait until no engine holds memory."""

from dataclasses import dataclass
from pathlib import Path

from lance_assets.rounds.report import Report
from lance_assets.rounds.round import Round
from resources.machine.handover import MemoryHandover, wait_until_free
from resources.training.trainer import TrainJob, TrainResult, build_launcher, train_checkpoint


@dataclass(frozen=True)
class Trained:
    """A training that ran, and what it found and took of the machine."""

    result: TrainResult
    """The checkpoint, and how training went."""
    handover: MemoryHandover
    """What was free before it started."""


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
    """What is trained: the model the round's training begins with, on two of the round's tables.

    Args:
        this_round: the round.
        staging: folder for what the trainer writes until it is published.
        sft: the table of SFT rows.
        pairs: the table of preference pairs; None for SFT alone.
    """
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


def describe_training(trained: Trained) -> Report:
    """Tokens, seconds, memory and the measures of DPO: in no table, since some differ from run to run."""
    result, handover = trained.result, trained.handover
    facts: Report = {
        "train_tokens": result.num_tokens,
        "train_seconds": result.seconds,
        "memory/free_before_training_gib": round(handover.free_host_gib, 3),
        "memory/seconds_waited": round(handover.seconds_waited, 3),
        "memory/training_peak_host_gib": round(result.peak_host_gib, 3),
        "memory/training_peak_gpu_gib": round(result.peak_gpu_gib, 3),
    }
    for place, gpu in enumerate(handover.gpus):
        facts[f"memory/free_before_training_gpu_{place}_gib"] = round(gpu.free_gib, 3)
    if result.dpo_accuracies:
        facts["dpo_accuracy_last"] = result.dpo_accuracies[-1]
    if result.dpo_chosen_logps:
        facts["dpo_chosen_logps_first"] = result.dpo_chosen_logps[0]
        facts["dpo_chosen_logps_last"] = result.dpo_chosen_logps[-1]
    return facts
