"""checkpoint and label_checkpoint: what a round trains, in a process of its own, once no engine holds memory."""

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from lance_assets.algorithms.measures.progress import START_ROUND
from lance_assets.records import CHECKPOINT, SECOND_LOSSES, SecondLoss
from lance_assets.rounds.making.rewarding import (
    build_rewards,
    describe_reward,
    describe_rewards,
    read_reward_prompts,
    trains_sft,
)
from lance_assets.rounds.past.origin import require_origin
from lance_assets.rounds.report import SUMMARY, Judged, Losses, Made, Report
from lance_assets.rounds.round import Round
from lance_assets.rounds.shown.samples import sample_rows
from lance_assets.rounds.shown.sentences import say_moved, say_trained
from lance_assets.settings.training import TrainingSettings
from lance_assets.settings.values import expand_environment
from resources.engines.durable_stage import clear_stage
from resources.machine.handover import MemoryHandover, wait_until_free
from resources.stores.checkpoints import DIVERGED_REMEDY, copy_checkpoint, find_broken_weights
from resources.stores.finite_weights import NotFinite
from resources.training.launching import build_launcher, launch_processes
from resources.training.trainer import TrainJob, TrainResult, train_checkpoint


@dataclass(frozen=True)
class Trained:
    """A training that ran, and what it found and took of the machine."""

    result: TrainResult
    """The checkpoint, and how training went."""
    handover: MemoryHandover
    """What was free before it started."""


_OF_STEPS = re.compile(r"(\w+): (?:\d+ rows|step \d+ of)")
"""A line of the trainer's log about a stage: the first comes just before its first step, the last after a step."""


@dataclass
class StepClock:
    """Times a trainer's steps by its log, without what it imports, loads and saves.

    >>> clock = StepClock()
    >>> for line, moment in (("sft: 8 rows", 2.0), ("sft: step 4 of 4, loss 1.0", 9.0), ("dpo: 2 rows", 15.0)):
    ...     clock.note(line, moment)
    >>> clock.seconds
    7.0
    """

    stages: dict[str, tuple[float, float]] = field(default_factory=dict)
    """When each stage's first and last line came."""

    def note(self, line: str, moment: float) -> None:
        """Take note of a line of the log, and of when it came, in seconds."""
        if (match := _OF_STEPS.match(line)) is not None:
            first, _ = self.stages.get(match[1], (moment, moment))
            self.stages[match[1]] = (first, moment)

    @property
    def seconds(self) -> float:
        """Of the steps of all stages."""
        return sum(last - first for first, last in self.stages.values())


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
    clock = StepClock()

    def note(line: str) -> None:
        clock.note(line, time.monotonic())
        this_round.log(line)

    trained = Trained(train_checkpoint(job, log=note), handover)
    this_round.cost.note_model_seconds(clock.seconds)
    return trained


def build_job(
    this_round: Round,
    staging: Path,
    training: TrainingSettings,
    *,
    sft: str = "sft_set",
    pairs: str | None = "preference_pairs",
) -> TrainJob:
    """What is trained: the model the round's training begins with, on two of the round's tables.

    Args:
        this_round: the round.
        staging: folder for what the trainer writes until it is published.
        training: how this very model is trained.
        sft: the table of SFT rows.
        pairs: the table of preference pairs; None for SFT alone.
    """
    plan, tables = this_round.plan, this_round.platform.tables
    return TrainJob(
        start_checkpoint=this_round.training_start(),
        base_model=this_round.model_path(None) if training.lora is not None else None,
        sft_path=tables.path(plan.name, this_round.key, sft) if trains_sft(this_round) else None,
        pairs_path=tables.path(plan.name, this_round.key, pairs) if pairs is not None else None,
        staging=staging,
        system_message=plan.templates.system,
        sft=training.sft,
        second_loss=plan.settings.parameters.second_loss or "dpo",
        **describe_reward(this_round),
        **{loss: getattr(training, loss) for loss in SECOND_LOSSES},
        lora=training.lora,
        save_dtype=training.save_dtype,
        # The budget makes rounds comparable; r0000 is what all of them start from, and trains on the seeds for its
        # epochs.
        token_budget=None if this_round.is_start else training.token_budget,
        dtype=training.dtype,
        trained_positions_only=training.trained_positions_only,
        frozen_dtype=training.frozen_dtype,
        gpu=training.gpu,
        memory_gib=training.memory_gib,
        num_threads=training.num_threads,
        save_every_minutes=training.save_every_minutes,
        launcher=choose_launcher(training, plan.folder),
        rng_seed=plan.settings.rng_seed,
    )


def choose_launcher(training: TrainingSettings, folder: Path) -> tuple[str, ...] | None:
    """What starts the training process; None where it is started as it is.

    Args:
        training: the settings.
        folder: the experiment's, in which its accelerate configuration lies.

    Raises:
        ValueError: a variable in `launcher` is not set here, or the accelerate configuration cannot be started.
    """
    # A variable such as Slurm's own is known where the step runs, and nowhere before.
    own = None
    if training.launcher is not None:
        own = tuple(_expand(place, part) for place, part in enumerate(training.launcher))
    if training.accelerate_config is not None:
        return build_launcher(folder / Path(training.accelerate_config).expanduser(), own)
    if own is None and training.num_processes is not None and training.num_processes > 1:
        return launch_processes(training.num_processes)
    return own


def _expand(place: int, part: str) -> str:
    try:
        return str(expand_environment(part))
    except ValueError as error:
        raise ValueError(f"training.launcher[{place}] is {part!r}: {error}") from error


def describe_training(trained: Trained) -> Report:
    """Tokens, seconds, memory and the measures of the pairs: in no table, since some differ from run to run."""
    result, handover = trained.result, trained.handover
    facts: Report = {
        "train_tokens": result.num_tokens,
        "train_seconds": result.seconds,
        **{f"computed_in/{stage}": how for stage, how in result.computed_in.items()},
        "memory/free_before_training_gib": round(handover.free_host_gib, 3),
        "memory/seconds_waited": round(handover.seconds_waited, 3),
        "memory/training_peak_host_gib": round(result.peak_host_gib, 3),
        "memory/training_peak_gpu_gib": round(result.peak_gpu_gib, 3),
    }
    for place, gpu in enumerate(handover.gpus):
        facts[f"memory/free_before_training_gpu_{place}_gib"] = round(gpu.free_gib, 3)
    loss = result.second_loss
    if result.dpo_accuracies:
        facts[f"{loss}_accuracy_last"] = result.dpo_accuracies[-1]
    if result.dpo_chosen_logps:
        facts[f"{loss}_chosen_logps_first"] = result.dpo_chosen_logps[0]
        facts[f"{loss}_chosen_logps_last"] = result.dpo_chosen_logps[-1]
        facts[f"{loss}_measures"] = Losses({}, measures=name_measures(result))
    if result.rewards:
        facts |= describe_rewards(result.rewards)
    return facts


def name_measures(result: TrainResult) -> dict[str, Sequence[float]]:
    """The measures of the pairs beside their loss, by names with their units; KTO's rows have no accuracy."""
    name = SECOND_LOSSES[result.second_loss]
    measures: dict[str, Sequence[float]] = {f"{name} margin (reward, chosen - rejected)": result.dpo_margins}
    accuracy = {f"{name} accuracy (share of pairs)": result.dpo_accuracies} if result.dpo_accuracies else {}
    return accuracy | measures


def describe_change(result: TrainResult | None) -> dict[str, float | str | None]:
    """How far each stage moved the weights, and what of it is kept; None where nothing was trained."""
    names = ("sft_change", "dpo_change", "kept_rate", "saved_dtype")
    return {name: getattr(result, name) if result else None for name in names}


def make_checkpoint(this_round: Round) -> Made:
    """Train, or keep the start checkpoint when the round brought nothing, and record what the weights saw."""
    trained = train(this_round)
    result = trained.result if trained else None
    checkpoints = this_round.platform.checkpoints
    # The parent is what the weights came from: the base model, for a recipe that trains from it each round.
    began = this_round.training_start() if result else this_round.start_path()
    row = {
        "content_hash": checkpoints.hash_checkpoint(this_round.model_path(this_round.key)),
        "parent_hash": checkpoints.hash_checkpoint(began),
        "is_trained": result is not None,
        "num_sft_rows": len(this_round.read("sft_set")) if result and trains_sft(this_round) else 0,
        "num_pairs": len(this_round.read("preference_pairs")) if result else 0,
        "sft_losses": result.sft_losses if result else [],
        "dpo_losses": result.dpo_losses if result else [],
        "num_truncated": result.num_truncated if result else 0,
        "num_tokens": result.num_tokens if result else 0,
        **describe_change(result),
    }
    facts = describe_training(trained) if trained else {}
    others = {"training_rewards": build_rewards(result.rewards)} if result and result.rewards else {}
    return Made(pl.DataFrame([row], schema=CHECKPOINT), version=str(row["content_hash"]), others=others, facts=facts)


def train(this_round: Round) -> Trained | None:
    """Train on the round's sets and publish the checkpoint; None when the round brought nothing new.

    Raises:
        ValueError: a training row belongs to the evaluation, or was written by a model that is gone.
        LeakedProcessError: an engine still runs, or a GPU is not free.
        TrainingError: training failed.
    """
    require_living_model(this_round)
    # This is the last look before weights see the rows: a person may have changed a table since cleaning.
    if leaked := find_evaluation_rows(this_round):
        raise ValueError(
            f"{len(leaked)} training rows are evaluation prompts or quote one, the first is {leaked[0]}; "
            "remove them from the seeds, or materialize cleaned_set again"
        )
    plan, platform = this_round.plan, this_round.platform
    sft, pairs = this_round.read("sft_set"), this_round.read("preference_pairs")
    staging = platform.root / "stages" / plan.name / this_round.key / "checkpoint"
    is_new = (pl.col("source_round") == this_round.key).any()
    again = plan.settings.parameters.trains_without_news
    has_news = sft.select(is_new).item() or pairs.select(is_new).item()
    has_rows = len(pairs) + len(sft if trains_sft(this_round) else read_reward_prompts(this_round)) > 0
    trains = plan.settings.parameters.trains_model
    if not trains or not has_rows or not (again or has_news):
        why = "brought nothing to train on" if trains else "trains no model, as parameters say"
        this_round.log(f"this round {why}: its checkpoint is its start checkpoint")
        clear_stage(staging)
        # Publishing moves a folder, and the start checkpoint, which may be the base model, has to stay.
        copy_checkpoint(this_round.start_path(), staging / "kept")
        platform.checkpoints.publish(staging / "kept", plan.name, this_round.key)
        return None
    training = plan.settings.training.at_round(this_round.key)
    trained = train_when_free(this_round, build_job(this_round, staging, training))
    platform.checkpoints.publish(trained.result.path, plan.name, this_round.key)
    return trained


def require_living_model(this_round: Round) -> None:
    """Check that the rows to train on were written by the round's start checkpoint, and that it is still there.

    Raises:
        ValueError: the parent was trained again, or rows come from another start checkpoint.
    """
    # A training that begins with the base model reads no start checkpoint, and its rows come from one all the same.
    this_round.start_path()
    content_hash = this_round.read("start_checkpoint")["content_hash"][0]
    require_origin(this_round.plan, this_round.platform, this_round.key, content_hash)


def find_evaluation_rows(this_round: Round) -> list[str]:
    """Ids of training rows that ask or quote a prompt of the evaluation; any such row stops the round."""
    sft, pairs, guard = this_round.read("sft_set"), this_round.read("preference_pairs"), this_round.guard
    rows = pl.concat([sft.select("row_id", "prompt"), pairs.select("row_id", "prompt")])
    completions = pl.concat(
        [
            sft.select("row_id", "completion"),
            *(pairs.select("row_id", completion=side) for side in ("chosen", "rejected")),
        ]
    )
    found = [guard.find(rows["row_id"].to_list(), rows["prompt"].to_list())]
    found.append(guard.find_in_completions(completions["row_id"].to_list(), completions["completion"].to_list()))
    return pl.concat(found)["row_id"].unique(maintain_order=True).to_list()


def report_checkpoint(this_round: Round) -> Report:
    """The folder, what it was trained on and from, and the losses."""
    row, start = (this_round.read(noun).row(0, named=True) for noun in ("checkpoint", "start_checkpoint"))
    began = "the base model" if this_round.trains_from_base else "the start checkpoint"
    loss = this_round.plan.settings.parameters.second_loss or "dpo"
    num_prompts = len(read_reward_prompts(this_round)) if loss == "grpo" else None
    facts: Report = {
        SUMMARY: say_trained(row, began, second_loss=loss, num_prompts=num_prompts),
        "path": this_round.show_path(this_round.key),
        "content_hash": row["content_hash"],
        "is_trained": row["is_trained"],
        "trained_on": describe_rows(row, num_prompts=num_prompts),
        "parent_round": start["parent_round"] or "none: the base model",
        "trained_from": began if row["is_trained"] else "nothing: the start checkpoint is kept",
        "num_steps": len(row["sft_losses"]) + len(row["dpo_losses"]),
        "num_truncated": row["num_truncated"],
        "losses": Losses(
            {"SFT": row["sft_losses"], SECOND_LOSSES[loss]: row["dpo_losses"]}, earlier=read_earlier_losses(this_round)
        ),
    }
    if row["is_trained"]:
        facts["saved_as"] = f"{row['saved_dtype']}, which keeps {row['kept_rate']:.1%} of the last stage's update"
        for stage, change in list_changes(row, second_loss=loss).items():
            facts[f"weight_change_{stage}"] = change
    if not row["is_trained"]:
        facts["note"] = "this round brought nothing to train on: the start checkpoint is kept"
    return facts


NUM_EARLIER = 3
"""Earlier rounds whose losses are drawn."""


def read_earlier_losses(this_round: Round) -> dict[str, dict[str, list[float]]]:
    """The losses of the last rounds before, by stage and round; those of another loss on pairs are on another scale."""
    keys = [key for key in this_round.earlier_keys if this_round.has("checkpoint", key)][-NUM_EARLIER:]
    rows = {key: this_round.read("checkpoint", key).row(0, named=True) for key in keys}
    loss = this_round.plan.settings.parameters.second_loss or "dpo"
    mine, alike = this_round.overrides.own.get("parameters.losses"), {}
    for key in keys:
        alike[key] = this_round.at(key).overrides.own.get("parameters.losses") == mine
    return {
        "SFT": {key: row["sft_losses"] for key, row in rows.items() if row["sft_losses"]},
        SECOND_LOSSES[loss]: {key: row["dpo_losses"] for key, row in rows.items() if row["dpo_losses"] and alike[key]},
    }


def list_changes(row: Mapping[str, Any], *, second_loss: SecondLoss = "dpo") -> dict[str, float]:
    """The norm of each stage's change of the weights, by stage; a stage that did not run has none."""
    changes = {"sft": row["sft_change"], second_loss: row["dpo_change"]}
    return {stage: change for stage, change in changes.items() if change is not None}


def describe_rows(row: Mapping[str, Any], *, num_prompts: int | None = None) -> str:
    """What a checkpoint was trained on, and which of it changed no weight; with GRPO prompts in place of pairs."""
    nothing = {stage: " (which changed no weight)" for stage, change in list_changes(row).items() if change == 0}
    sft = f"{row['num_sft_rows']} SFT rows{nothing.get('sft', '')}"
    second = f"{row['num_pairs']} preference pairs" if num_prompts is None else f"{num_prompts} prompts with a reward"
    return f"{sft}, then {second}{nothing.get('dpo', '')}"


def loss_moved(this_round: Round) -> Judged:
    """Whether losses and weights are numbers, no loss is constant, and every stage that ran moved the weights."""
    row = this_round.read("checkpoint").row(0, named=True)
    # Weights that are in a store alone were looked at before they went there, and are when they come back.
    is_here = not this_round.platform.checkpoints.is_elsewhere(this_round.experiment.name, this_round.key)
    broken = find_broken_weights(this_round.model_path(this_round.key)) if is_here else None
    loss = this_round.plan.settings.parameters.second_loss or "dpo"
    return judge_training(row, broken=broken, second_loss=loss)


def judge_training(
    row: Mapping[str, Any], *, broken: NotFinite | None = None, second_loss: SecondLoss = "dpo"
) -> Judged:
    """As `loss_moved`, of a row of CHECKPOINT; what is no number, or not what was trained, stops the round.

    Args:
        row: of CHECKPOINT.
        broken: the first tensor of the checkpoint that holds NaN or infinity.
        second_loss: what the pairs were trained with.
    """
    stages = {"sft": row["sft_losses"], second_loss: row["dpo_losses"]}
    losses = [loss for stage in stages.values() for loss in stage]
    changes = list_changes(row, second_loss=second_loss)
    not_finite = describe_not_finite(stages, changes, broken)
    mistakes = list(not_finite)
    for stage, steps in stages.items():
        # A single step has nothing to be compared with.
        # GRPO's loss is about 0 whatever is learned: advantages have the mean 0.
        if len(steps) > 1 and len(set(steps)) == 1 and stage != "grpo":
            mistakes.append(f"the loss of {stage} is {steps[0]} at each of its {len(steps)} steps")
        if stage in changes and changes[stage] == 0:
            mistakes.append(
                f"{stage} changed no weight in {len(steps)} steps: raise training.{stage}.learning_rate or num_epochs, "
                "set warmup_from_zero to false, and see num_truncated for rows whose prompt fills max_length"
            )
    is_same = row["content_hash"] == row["parent_hash"]
    if row["is_trained"] and is_same:
        kept = (
            f"saved in {row['saved_dtype']}, which keeps {row['kept_rate']:.1%} of the update" if changes else "saved"
        )
        mistakes.append(
            f"the saved weights are those of the start checkpoint ({kept}); set training.save_dtype to auto"
        )
    if not row["is_trained"] and not is_same:
        mistakes.append("nothing was trained, and the weights are not those of the start checkpoint; make it again")
    facts: Report = {"is_trained": row["is_trained"], "is_finite": not not_finite, "num_losses": len(losses)}
    return Judged(
        passed=not mistakes,
        # A stage that moved nothing leaves a model that works.
        is_error=bool(not_finite) or (not row["is_trained"] and not is_same),
        facts=facts | {f"change_{stage}": change for stage, change in changes.items()},
        description="; ".join(mistakes) or None,
        found=say_moved(stages, changes),
    )


def describe_not_finite(
    stages: Mapping[str, Sequence[float]], changes: Mapping[str, float], broken: NotFinite | None
) -> list[str]:
    """What of a training is NaN or infinite, by step, stage and tensor; none where it is all numbers."""
    found = []
    for stage, losses in stages.items():
        wrong = next((step for step, loss in enumerate(losses, start=1) if not math.isfinite(loss)), None)
        if wrong is not None:
            found.append(f"the loss of {stage} is {losses[wrong - 1]} at step {wrong} of {len(losses)}")
        if stage in changes and not math.isfinite(changes[stage]):
            found.append(f"the change of the weights by {stage} is {changes[stage]}")
    if broken is not None:
        found.append(f"{broken.num_wrong} of {broken.num_weights} weights of {broken.tensor} are NaN or infinite")
    return [f"{'; '.join(found)}: {DIVERGED_REMEDY}, and look for empty completions"] if found else []


def make_label_checkpoint(this_round: Round) -> Made:
    """Train the base model on the seeds with prompt and completion exchanged; later rounds use r0000's model."""
    # The seeds do not change over the rounds, so one label model serves all.
    if not this_round.is_start:
        table = this_round.read("label_checkpoint", START_ROUND)
        return Made(table, version=table["content_hash"][0])
    plan, platform = this_round.plan, this_round.platform
    assert plan.recipe.build_label_rows is not None, "only a recipe that trains a label model has this noun"
    rows = plan.recipe.build_label_rows(this_round.build_inputs(), this_round.read("seed_set"))
    # The trainer reads the rows from disk, so they are stored before it starts.
    this_round.write("label_set", rows)
    staging = platform.root / "stages" / plan.name / this_round.key / "label_checkpoint"
    training = plan.settings.training.for_label_model()
    trained = train_when_free(this_round, build_job(this_round, staging, training, sft="label_set", pairs=None))
    result = trained.result
    platform.checkpoints.publish(result.path, plan.label_model, this_round.key)
    path = platform.checkpoints.find(plan.label_model, this_round.key, made_by=f"{plan.name}/label_checkpoint")
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
        **describe_change(result),
    }
    facts = describe_training(trained)
    return Made(pl.DataFrame([row], schema=CHECKPOINT), version=str(row["content_hash"]), facts=facts)


def report_label_checkpoint(this_round: Round) -> Report:
    """The folder, what it was trained on, and the losses."""
    row = this_round.read("label_checkpoint").row(0, named=True)
    if not this_round.is_start:
        return {"content_hash": row["content_hash"], "note": f"trained in {START_ROUND}"}
    return {
        SUMMARY: say_trained(row, "the base model"),
        "path": this_round.platform.checkpoints.locate(
            this_round.plan.label_model, this_round.key, made_by=f"{this_round.plan.name}/label_checkpoint"
        ),
        "content_hash": row["content_hash"],
        "trained_on": f"{row['num_sft_rows']} seeds, completion to prompt",
        "num_truncated": row["num_truncated"],
        "losses": Losses({"SFT": row["sft_losses"], "DPO": []}),
        "preview": sample_rows(
            this_round.read("label_set"), ("row_id", "prompt", "completion"), over=("source",), salt=this_round.key
        ),
    }
