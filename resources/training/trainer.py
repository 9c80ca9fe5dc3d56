"""Training a checkpoint: SFT, then DPO, another loss on preference pairs, or GRPO, in a process of its own.

Source: LANCE, section "training" (arXiv 2412.15151): each round trains the start checkpoint by SFT and the result by
DPO. How it differs:
1. The paper names no hyper-parameters; the defaults here are LLaMA-Factory's examples (cosine, a tenth warm-up).
2. The reference of DPO is the SFT-ed model, LLaMA-Factory's default; the paper does not say.
3. SFT and DPO rows are asked with the same messages as at serving; the authors' DPO rows lack the system message.
4. A warm-up begins above rate 0, and takes half of the steps at most: of a stage of one step the libraries' schedule
   trains nothing. From the end of the warm-up on the rates are the libraries'.

With LoRA the checkpoint has, beside its merged weights, an adapter of the experiment's base model
(`resources.models.adapters`).

A job's folder under `staging` is named after a fingerprint of all that changes its result, so what a killed run left
is taken up by the same job and by no other: `states/` (within a stage), `sft/` (when SFT has finished), `checkpoint/`,
`result.json`.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from lance_assets.records import SecondLoss
from resources.machine.processes import TAIL_LINES, stream_process
from resources.stores.checkpoints import ADAPTER_FOLDER, hash_checkpoint, validate_model_folder
from resources.stores.files import explain_full_disk
from resources.training.gpu.settings import GpuSettings
from resources.training.launching import OwnLines, was_killed
from resources.training.stage_settings import (
    DpoSettings,
    FrozenDtype,
    GrpoSettings,
    KtoSettings,
    LoraSettings,
    OrpoSettings,
    RewardSource,
    SaveDtype,
    SecondSettings,
    SftSettings,
    SimpoSettings,
    TrainingDtype,
)

DIVERGED = "training diverged: "
"""What the worker's error begins with where a loss, a gradient or a weight is NaN or infinite."""
CHECKPOINT = "checkpoint"
RESULT = "result.json"
KEPT_KERNELS = {"LRU_CACHE_CAPACITY": "16", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}
"""How many of a CPU's kernels torch and oneDNN keep. They prepare one for each number of tokens and keep a thousand by
default, and hardly a batch has as many tokens as another: 250 batches of a model of 1.7M parameters held 2.3 GiB."""
_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
_REPOSITORY = Path(__file__).resolve().parents[2]


class TrainingError(RuntimeError):
    """The training process failed or was killed; the message ends with the tail of its log."""


class TrainingKilledError(TrainingError):
    """The training process was ended by SIGKILL: by a person, by the system short of memory, or with its machine."""


class TrainJob(BaseModel):
    """What to train, on what, how, and where the result is put."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start_checkpoint: Path = Field(description="Folder of the model to train.")
    sft_path: Path | None = Field(None, description="Parquet of schema SFT_SET; None for no SFT.")
    pairs_path: Path | None = Field(None, description="Parquet of schema PREFERENCE_PAIRS; None for SFT alone.")
    staging: Path = Field(description="Folder under which the job gets a folder of its own.")
    system_message: str = Field("", description="What comes before each prompt; empty for no message.")
    sft: SftSettings = SftSettings()
    second_loss: SecondLoss = Field("dpo", description="What pairs or prompts are trained with.")
    dpo: DpoSettings = DpoSettings()
    kto: KtoSettings = KtoSettings()
    orpo: OrpoSettings = OrpoSettings()
    simpo: SimpoSettings = SimpoSettings()
    grpo: GrpoSettings = GrpoSettings()
    prompts_path: Path | None = Field(None, description="Parquet of schema REWARD_PROMPTS; None for no GRPO.")
    reward: RewardSource | None = Field(None, description="With prompts: where the reward comes from.")
    lora: LoraSettings | None = Field(None, description="None trains all weights.")
    base_model: Path | None = Field(
        None, description="With lora: the experiment's base model, whose adapter is written; None for no adapter."
    )
    token_budget: int | None = Field(
        None, ge=1, description="Tokens both stages train on, padding not counted; SFT fills it. None: num_epochs."
    )
    save_dtype: SaveDtype = Field("auto", description="Of the saved weights; see `TrainingSettings.save_dtype`.")
    rng_seed: int = Field(0, ge=0, lt=2**32, description="Of the data order, adapters and dropout.")
    dtype: TrainingDtype = Field("auto", description="Of the products; weights and optimizer are float32.")
    trained_positions_only: bool = Field(True, description="See `TrainingSettings.trained_positions_only`.")
    frozen_dtype: FrozenDtype = Field("float32", description="With lora: of the weights that are not trained.")
    gpu: GpuSettings = Field(GpuSettings(), description="What trains faster or smaller on a GPU.")
    memory_gib: float | None = Field(None, gt=0, description="Of one process, for its parts; None: its device's.")
    launcher: tuple[str, ...] | None = Field(None, description='Before the worker, as ["accelerate", "launch"].')
    num_threads: int | None = Field(None, ge=1, description="CPU threads; None leaves torch's choice. 1 when busy.")
    save_every_minutes: float | None = Field(
        10.0, ge=0, description="Between two states that a killed stage goes on from; None saves none."
    )

    @property
    def second_settings(self) -> SecondSettings:
        """The settings of the loss that pairs or prompts are trained with."""
        settings: SecondSettings = getattr(self, self.second_loss)
        return settings

    @property
    def rounds_frozen(self) -> bool:
        """Whether weights that are not trained are rounded in training, so that the exact ones are read again."""
        return self.frozen_dtype != "float32" or self.gpu.quantization != "none"


class TrainResult(BaseModel):
    """A trained checkpoint and how training went; lists have one entry for each optimizer step.

    What is named after DPO is of the stage after SFT, whichever loss it has (`second_loss`).
    """

    # A result that an earlier version left in the staging folder may have more fields.
    model_config = ConfigDict(frozen=True, extra="ignore")

    path: Path = Field(description="Folder of the result, in the job's own folder; it may be moved away.")
    num_truncated: int = Field(
        description="Rows and pairs over max_length, cut, or left out where the prompt fills it."
    )
    num_tokens: int = Field(description="Tokens the model was trained on, both stages, padding not counted.")
    seconds: float = Field(description="From the start of the last process, imports included.")
    peak_host_gib: float = Field(
        0.0, description="Most memory of the machine the last processes held, summed; what they share counts twice."
    )
    peak_gpu_gib: float = Field(0.0, description="Most memory of all GPUs they reserved; 0 without a GPU.")
    sft_change: float | None = Field(None, description="L2 norm of what SFT changed of the weights; None without SFT.")
    dpo_change: float | None = Field(None, description="The same of DPO.")
    kept_rate: float = Field(1.0, description="Share of the last stage's change that rounding to saved_dtype leaves.")
    saved_dtype: str = Field("", description="What the weights are saved in.")
    computed_in: dict[str, str] = Field(
        default_factory=dict, description="By stage the precision of its products and the parts of a batch, in words."
    )
    second_loss: SecondLoss = "dpo"
    sft_losses: list[float] = Field(default_factory=list)
    dpo_losses: list[float] = Field(default_factory=list)
    dpo_accuracies: list[float] = Field(
        default_factory=list, description="Share of pairs with the larger reward chosen; none with KTO's single rows."
    )
    dpo_margins: list[float] = Field(
        default_factory=list,
        description="By how much the reward of chosen is above that of rejected, mean of the pairs.",
    )
    dpo_chosen_logps: list[float] = Field(
        default_factory=list,
        description="Mean log-probability of chosen, in nats: of a completion, or with ORPO and SimPO of a token.",
    )
    rewards: list[dict[str, float]] = Field(
        default_factory=list, description="Of GRPO, by step: the columns of TRAINING_REWARDS."
    )


def fingerprint_job(job: TrainJob) -> str:
    """The sha256 of everything that changes a job's result: weights, rows, prompts, settings, seed and libraries."""
    digest = hashlib.sha256()
    changing = {"system_message", "sft", job.second_loss, "lora", "token_budget", "save_dtype", "rng_seed", "dtype"}
    changing.add("trained_positions_only")
    digest.update(job.model_dump_json(include=changing).encode())
    # At its default it has no entry, so that such a job is the same as before there was the setting.
    digest.update(b"" if job.frozen_dtype == "float32" else job.frozen_dtype.encode())
    digest.update(json.dumps(job.gpu.changed, sort_keys=True).encode() if job.gpu.changed else b"")
    digest.update(" ".join(f"{name}={importlib.metadata.version(name)}" for name in _LIBRARIES).encode())
    files = sorted(path for path in job.start_checkpoint.iterdir() if path.is_file())
    if job.reward is not None:
        # Where a second model lies is not what it is, which its hash says; no review has no entry.
        elsewhere = {"folder": True, "review": {"model"} if job.reward.review is not None else True}
        digest.update(job.reward.model_dump_json(exclude=elsewhere).encode())
    if job.lora is not None and job.base_model is not None:
        digest.update(hash_checkpoint(job.base_model).encode())
        files += sorted(path for path in (job.start_checkpoint / ADAPTER_FOLDER).glob("*") if path.is_file())
    for path in [*files, job.sft_path, job.pairs_path, *([job.prompts_path] if job.prompts_path else [])]:
        digest.update(b"\0none\0" if path is None else path.name.encode() + b"\0")
        if path is not None:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def find_job_folder(job: TrainJob) -> Path:
    """The job's own folder under its staging folder."""
    return job.staging / fingerprint_job(job)[:16]


def train_checkpoint(job: TrainJob, *, log: Callable[[str], None]) -> TrainResult:
    """Train in a process of its own, or take what the same job has finished or left.

    Args:
        job: what to train.
        log: is given each line of the process's log as it comes.

    Raises:
        ValueError: the start checkpoint is no model folder, or neither stage has rows. What becomes of a round without
            rows is the caller's decision: a result's folder may be moved, and the start checkpoint must stay.
        TrainingKilledError: the process was ended by SIGKILL.
        TrainingError: it failed, or another signal ended it.
    """
    if not (job.start_checkpoint / "config.json").is_file():
        raise ValueError(f"start_checkpoint {job.start_checkpoint} has no config.json; name a folder with a model")
    if sum(map(_count_rows, (job.sft_path, job.pairs_path, job.prompts_path))) == 0:
        raise ValueError(
            f"there is nothing to train on: sft_path {job.sft_path}, pairs_path {job.pairs_path} and prompts_path "
            f"{job.prompts_path} have no rows; keep the start checkpoint instead of training it"
        )
    folder = find_job_folder(job)
    result_file = folder / RESULT
    # A kill after the checkpoint was published leaves a result without its weights: train again.
    if (result := _read_result(folder, log)) is not None:
        log(f"taking the finished result of the same job from {folder}")
        return result
    folder.mkdir(parents=True, exist_ok=True)
    # An old result whose checkpoint is gone must not be taken for that of the run that begins here.
    result_file.unlink(missing_ok=True)
    # The file also shows a person what was trained, after a failure.
    job_file = folder / "job.json"
    with explain_full_disk(job_file):
        job_file.write_text(job.model_dump_json(indent=2))
    _run_worker(job, job_file, log)
    if not result_file.exists():
        raise TrainingError(f"the training process ended without a result in {folder}; does the launcher start it?")
    return TrainResult.model_validate_json(result_file.read_text())


def _read_result(folder: Path, log: Callable[[str], None]) -> TrainResult | None:
    """What the same job has finished; None where nothing is whole, and it is trained again."""
    result_file, checkpoint = folder / RESULT, folder / CHECKPOINT
    if not result_file.exists() or not checkpoint.is_dir():
        return None
    try:
        result = TrainResult.model_validate_json(result_file.read_text())
        validate_model_folder(checkpoint)
    except ValueError as error:
        log(f"what was finished of the same job is damaged, and it is trained again: {error}")
        return None
    return result


def _count_rows(path: Path | None) -> int:
    return 0 if path is None else pl.scan_parquet(path).select(pl.len()).collect().item()


def _run_worker(job: TrainJob, job_file: Path, log: Callable[[str], None]) -> None:
    start = list(job.launcher) if job.launcher else [sys.executable]
    command = [*start, "-m", "resources.training.train_worker", str(job_file), "--watch-stdin"]
    paths = [str(_REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    # The model is a local folder: no network. Unbuffered, so that log lines come as they are written.
    added = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    added |= {name: value for name, value in KEPT_KERNELS.items() if name not in os.environ}
    if job.num_threads is not None:
        added["OMP_NUM_THREADS"] = str(job.num_threads)
    added["PYTHONPATH"] = os.pathsep.join(paths)
    own = OwnLines(TAIL_LINES)

    def take(line: str) -> None:
        own.note(line)
        log(line)

    code, tail = stream_process(command, added_environment=added, log=take)
    if was_killed(code, tail):
        raise TrainingKilledError(_explain(code, own.put_before(tail), job_file))
    if code != 0:
        raise TrainingError(_explain(code, own.put_before(tail), job_file))


def explain_divergence(found: str) -> str:
    """What was found of a training that diverged, with what helps."""
    return (
        f"{DIVERGED}{found}. Nothing of it is kept. Lower learning_rate under training, in the section of the stage "
        "that is named, to a tenth, raise its warmup_steps, or set training.dtype to float32; rows that are empty or "
        "broken can cause it too"
    )


def _explain(code: int, text: str, job_file: Path) -> str:
    if diverged := [line for line in text.splitlines() if DIVERGED in line]:
        # A run again with the same settings would diverge again.
        return f"{explain_divergence(diverged[-1].partition(DIVERGED)[2])}\n{text}"
    number = -code if code < 0 else code - 128
    if code < 0 or code > 128:
        name = signal.Signals(number).name if number in list(signal.Signals) else str(number)
        what = f"was killed by signal {name}"
        remedy = "out of memory is the usual reason: lower batch_size or max_length, or train with lora"
    elif "out of memory" in text or "can't allocate memory" in text:
        what = f"ran out of memory (exit {code})"
        remedy = "lower batch_size or max_length, raise gradient_accumulation_steps, or train with lora"
    elif "No space left on device" in text:
        free = shutil.disk_usage(job_file.parent).free
        what = f"found the disk full (exit {code}, {free} bytes free)"
        remedy = f"free space under {job_file.parent}; the checkpoint before is still there"
    else:
        what, remedy = f"failed (exit {code})", f"see the last lines below; the job is {job_file}"
    return f"the training process {what}; {remedy}. Run again, it goes on from the last state that was kept.\n{text}"
