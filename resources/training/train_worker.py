"""The training process: `python -m resources.training.train_worker job.json`.

SFT with TRL's SFTTrainer on conversational prompt and completion rows, then from the SFT-ed model DPO or another loss
on pairs (`resources.training.pair_losses`), or GRPO on a reward (`resources.training.grpo`);
`resources.training.trainer` says where it is taken from and how it differs. Weights and optimizer are float32, and
products are in float32 or bfloat16 (`resources.training.precision`); `resources.training.saving` saves. With the same
job on the same machine the weights are the same to the byte.
"""

import argparse
import gc
import json
import math
import os
import random
import shutil
import sys
import time
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path

import resources.models.lean_start  # isort: skip  # noqa: F401 (before transformers, whose imports it makes fewer)
import polars as pl
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from datasets import Dataset, disable_progress_bars
from jinja2 import TemplateError
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    get_scheduler,
)
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

from lance_assets.algorithms.forecast.costs import Training
from lance_assets.algorithms.selection.best_first import sort_best_first
from lance_assets.prompts import build_messages
from resources.machine.processes import MemoryPeak, end_with_stdin, measure_own_peak
from resources.models.chat_format import encode_row, require_turn_end
from resources.models.foreign_code import WITHOUT_CODE
from resources.models.model_shapes import measure_shape
from resources.stores.files import write_file_atomically
from resources.training.divergence import FiniteCallback
from resources.training.gpu.choosing import (
    GpuChoices,
    choose,
    keep_adapters_precise,
    shares_prompts,
    supports_attention,
)
from resources.training.grpo import build_grpo_trainer, encode_prompts, fit_batch, read_rewards
from resources.training.launching import count_processes
from resources.training.pair_losses import build_pair_trainer
from resources.training.precision import Settled, bounds_logits, find_device, settle
from resources.training.resuming import KeepStateCallback, train_on
from resources.training.saving import build_lora, load_start, save_model
from resources.training.sharing import SharedTraining
from resources.training.stage_settings import GrpoSettings, SftSettings
from resources.training.trained_positions import compute_what_is_trained
from resources.training.trainer import CHECKPOINT, RESULT, TrainJob, TrainResult

STATES = "states"
"""The folder of what killed stages go on from, in the job's folder."""
SAMPLING = {"shuffled": "random", "by_length": "group_by_length", "best_first": "sequential"}
"""By `order`, what transformers calls it; a draw comes from the seed."""
_LINES_PER_STAGE = 20
_SIDES = ("input_ids", "chosen_ids", "rejected_ids")


class LogCallback(TrainerCallback):
    """Prints about twenty lines a stage, from the main process."""

    def __init__(self, stage: str) -> None:
        """Name the stage."""
        self.stage = stage

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        """Print the step's loss."""
        # Every step is logged, since the result has each step's loss; a person reads about twenty of them.
        every = max(1, state.max_steps // _LINES_PER_STAGE)
        if logs and "loss" in logs and state.is_world_process_zero and state.global_step % every == 0:
            print(f"{self.stage}: step {state.global_step} of {state.max_steps}, loss {float(logs['loss']):.4f}")


class WarmUpCallback(TrainerCallback):
    """Lets a warm-up begin above rate 0, and end after half of the steps at the latest.

    The libraries' rates are `step / warmup`, so that the first step trains nothing, and a stage of one step nothing at
    all. Here they are `(step + 1) / (warmup + 1)`; with a warm-up of two steps 1/3 and 2/3 in place of 0 and 1/2.
    """

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        lr_scheduler: LambdaLR | None = None,
        **_: object,
    ) -> None:
        """Put the rates of the warm-up into the schedule, before its first step."""
        assert lr_scheduler is not None, "the trainer has made its schedule"
        warmup = args.get_warmup_steps(state.max_steps)
        if warmup == 0:
            return
        shorter = min(warmup, state.max_steps // 2)
        rate_after = get_scheduler(
            args.lr_scheduler_type,
            # Made only for its rates.
            torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0),
            num_warmup_steps=shorter,
            num_training_steps=state.max_steps,
        ).lr_lambdas[0]

        def find_rate(step: int) -> float:
            return (step + 1) / (shorter + 1) if step < shorter else rate_after(step)

        lr_scheduler.lr_lambdas = [find_rate for _ in lr_scheduler.lr_lambdas]
        # A stage that goes on from a state has taken steps already.
        rate = find_rate(lr_scheduler.last_epoch)
        for group, peak in zip(lr_scheduler.optimizer.param_groups, lr_scheduler.base_lrs, strict=True):
            group["lr"] = peak * rate
        lr_scheduler._last_lr = [group["lr"] for group in lr_scheduler.optimizer.param_groups]


def build_sft_rows(rows: Iterable[dict], system: str) -> list[dict]:
    """Conversational prompt and completion rows, asked as at serving."""
    return [
        {
            "prompt": build_messages(system, row["prompt"]),
            "completion": [{"role": "assistant", "content": row["completion"]}],
        }
        for row in rows
    ]


def build_pair_rows(rows: Iterable[dict], system: str) -> list[dict]:
    """Conversational prompt, chosen and rejected rows, asked as at serving."""
    return [
        {
            "prompt": build_messages(system, row["prompt"]),
            "chosen": [{"role": "assistant", "content": row["chosen"]}],
            "rejected": [{"role": "assistant", "content": row["rejected"]}],
        }
        for row in rows
    ]


class SharedSFTTrainer(SharedTraining, SFTTrainer):
    """TRL's SFT, by one process or several that share each batch."""


def encode_rows(
    tokenizer: PreTrainedTokenizerBase, rows: list[dict], max_length: int
) -> tuple[list[dict[str, list[int]]], list[int]]:
    """Rows as TRL takes them, by tokens, and the tokens of each with its longest completion, before any cut.

    Raises:
        ValueError: none would be left to train on, a row that the chat template cannot render, or a template without
            an end of the model's turn.
    """
    require_turn_end(tokenizer)
    encoded, lengths = [], []
    for place, row in enumerate(rows):
        try:
            sides = {
                side: encode_row(tokenizer, row["prompt"], row[side][0]["content"])
                for side in ("completion", "chosen", "rejected")
                if side in row
            }
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            shown = row["prompt"][-1]["content"][:80]
            raise ValueError(f"training row {place}, {shown!r}, cannot be written as a chat: {error}") from error
        prompt = next(iter(sides.values()))[0]
        lengths.append(len(prompt) + max(len(tokens) for _, tokens in sides.values()))
        # After the cut a row whose prompt fills it has no token of a completion left.
        if len(prompt) >= max_length:
            continue
        if "completion" in sides:
            tokens = sides["completion"][1]
            encoded.append({"input_ids": prompt + tokens, "completion_mask": [0] * len(prompt) + [1] * len(tokens)})
        else:
            own = {f"{side}_ids": tokens for side, (_, tokens) in sides.items()}
            encoded.append({"prompt_ids": prompt} | own)
    if rows and not encoded:
        raise ValueError(f"every prompt fills max_length={max_length} tokens; raise max_length")
    return encoded, lengths


def find_longest(rows: list[dict[str, list[int]]], max_length: int, *, shares_prompts: bool) -> int:
    """Tokens of the longest row after the cut; of a pair that has one prompt for both sides, half of it all."""
    longest = 0
    for row in rows:
        prompt = len(row.get("prompt_ids", ()))
        sides = [min(prompt + len(tokens), max_length) for name, tokens in row.items() if name in _SIDES]
        longest = max(longest, math.ceil((sum(sides) - prompt) / 2) if shares_prompts and prompt else max(sides))
    return longest


def reads_prompts_once(job: TrainJob, settings: SftSettings, config: PreTrainedConfig) -> bool:
    """Whether a stage reads the prompt of a pair once, see `shares_prompts`."""
    has_pairs = settings.is_paired and settings.is_fused
    return shares_prompts(
        config, job.gpu.attention, has_pairs=has_pairs, trained_positions_only=job.trained_positions_only
    )


def settle_stage(job: TrainJob, settings: SftSettings, rows: list[dict[str, list[int]]]) -> Settled:
    """The precision and the parts of a batch, by the model, the longest row and this process's device.

    Args:
        job: what is trained.
        settings: of the stage.
        rows: of tokens, as `encode_rows` or, for GRPO, `encode_prompts` returns them.

    Raises:
        ValueError: batch_size cannot be split over processes and accumulation steps.
    """
    num_local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    config = AutoConfig.from_pretrained(job.start_checkpoint, local_files_only=True, **WITHOUT_CODE)
    device = find_device(job.memory_gib, num_local_processes=num_local)
    picks_positions = job.trained_positions_only and settings.is_fused
    longest = (
        max(len(row["prompt"]) for row in rows) + settings.max_new_tokens
        if isinstance(settings, GrpoSettings)
        else find_longest(rows, settings.max_length, shares_prompts=reads_prompts_once(job, settings, config))
    )
    training = Training(
        max_length=longest,
        num_processes=count_processes(),
        is_sharded=os.environ.get("ACCELERATE_USE_FSDP", "false") == "true",
        lora_rank=job.lora.r if job.lora is not None else None,
        gradient_checkpointing=settings.gradient_checkpointing,
        is_preference=settings.is_paired,
        num_reads=settings.num_reads,
        has_bounded_logits=bounds_logits(device, picks_positions, num_processes=count_processes()),
        frozen_bytes=getattr(torch, job.frozen_dtype).itemsize,
        is_quantized=job.gpu.quantization == "4bit",
    )
    # Building the model, though without memory, draws random numbers, of which an adapter is made later.
    with torch.random.fork_rng(devices=[]):
        shape = measure_shape(config)
    return settle(
        device,
        shape,
        training,
        # Weights in bfloat16 are multiplied in bfloat16.
        dtype="bfloat16_autocast" if job.frozen_dtype == "bfloat16" else job.dtype,
        batch_size=settings.batch_size,
        num_parts=settings.wanted_parts,
    )


def choose_gpu_paths(job: TrainJob, settings: SftSettings, settled: Settled) -> GpuChoices:
    """What of the GPU's settings a stage is trained with on this process's device.

    Where attention is left to "auto", a stage that shares prompts keeps sdpa, by which its batch was settled.

    Raises:
        ValueError: something that is asked for is not there.
    """
    is_sharded = os.environ.get("ACCELERATE_USE_FSDP", "false") == "true"
    config = AutoConfig.from_pretrained(job.start_checkpoint, local_files_only=True, **WITHOUT_CODE)
    return choose(
        job.gpu,
        on_gpu=torch.cuda.is_available(),
        precision=settled.precision,
        is_sharded=is_sharded,
        takes_flash=not reads_prompts_once(job, settings, config) and supports_attention(config, "flash_attention_2"),
    )


def build_arguments(job: TrainJob, settings: SftSettings, settled: Settled, chosen: GpuChoices, output: Path) -> dict:
    """What the configurations of TRL's trainers have in common."""
    on_cuda = torch.cuda.is_available()
    return {
        **chosen.arguments,
        "output_dir": str(output),
        # Over all processes, which share each part of a batch (`resources.training.sharing`).
        "per_device_train_batch_size": settings.batch_size // settled.num_parts,
        "gradient_accumulation_steps": settled.num_parts,
        "learning_rate": settings.learning_rate,
        "num_train_epochs": settings.num_epochs,
        "max_length": settings.max_length,
        "warmup_steps": settings.warmup_steps,
        "weight_decay": settings.weight_decay,
        "lr_scheduler_type": settings.schedule,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "use_cpu": not on_cuda,
        "bf16": settled.precision == "bfloat16_autocast",
        "seed": job.rng_seed,
        "data_seed": job.rng_seed,
        # A checkpoint's version is the hash of its weights: other bytes for the same job would make every later round
        # stale.
        "full_determinism": True,
        "logging_steps": 1,
        # With the filter a loss that is NaN would be logged as that of the step before.
        "logging_nan_inf_filter": False,
        # States are saved by time (`resources.training.resuming`), and not by steps.
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        # Without a GPU there is nothing to pin memory for, and torch warns.
        "dataloader_pin_memory": on_cuda,
    }


def run_stage(
    stage: str, job: TrainJob, settings: SftSettings, start: Path, rows: list[dict], folder: Path
) -> tuple[Trainer, dict]:
    """Train one stage from `start`; returns the trainer and the stage's log."""
    tokenizer = AutoTokenizer.from_pretrained(start, **WITHOUT_CODE)
    if isinstance(settings, GrpoSettings):
        encoded, lengths = encode_prompts(tokenizer, rows, job.system_message, settings)
        settings = fit_batch(settings, len(encoded))
    else:
        encoded, lengths = encode_rows(tokenizer, rows, settings.max_length)
    num_truncated = sum(length > settings.max_length for length in lengths)
    settled = settle_stage(job, settings, encoded)
    states = folder / STATES / stage
    chosen = choose_gpu_paths(job, settings, settled)
    arguments = build_arguments(job, settings, settled, chosen, states)
    if stage == "sft":
        if chosen.is_padding_free:
            # TRL cuts no rows that it lays behind each other.
            encoded = [{name: tokens[: settings.max_length] for name, tokens in row.items()} for row in encoded]
            arguments["padding_free"] = True
        config = SFTConfig(**arguments, completion_only_loss=True, train_sampling_strategy=SAMPLING[settings.order])
        given = {"train_dataset": Dataset.from_list(encoded), "processing_class": tokenizer}
        model = load_start(start, job, getattr(torch, job.frozen_dtype), chosen.loading)
        trainer = SharedSFTTrainer(model, args=config, peft_config=build_lora(job), **given)
    elif isinstance(settings, GrpoSettings):
        trainer = build_grpo_trainer(job, settings, start, encoded, tokenizer, arguments, chosen.loading)
    else:
        # Each loss has an order of its own where the file names none; KTO's is no draw.
        arguments |= {"train_sampling_strategy": SAMPLING[settings.order]} if settings.order == "best_first" else {}
        trainer = build_pair_trainer(job, start, encoded, tokenizer, arguments, chosen.loading)
    if chosen.compute_dtype is not None:
        keep_adapters_precise(trainer.model)
    if job.trained_positions_only and settings.is_fused:
        compute_what_is_trained(trainer)
    # Full determinism also fills every new tensor, which doubles the time of a small model on a CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False
    # It would print every step as a dict, beside the lines of `LogCallback`.
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(LogCallback(stage))
    trainer.add_callback(FiniteCallback(stage))
    if not settings.warmup_from_zero:
        trainer.add_callback(WarmUpCallback())
    computed_in = ", ".join(filter(None, (settled.describe(), chosen.describe())))
    print(f"{stage}: {len(rows)} rows, {num_truncated} over max_length={settings.max_length}; {computed_in}")
    if job.save_every_minutes is not None:
        trainer.add_callback(KeepStateCallback(60 * job.save_every_minutes))
    train_on(trainer, states, stage)
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    told = {"num_rows": len(rows), "num_truncated": num_truncated, "computed_in": computed_in}
    return trainer, told | {"steps": steps}


def read_rows(path: Path | None, settings: SftSettings) -> list[dict]:
    """The rows of a Parquet file, in the order of their quality where the settings say so; none for None."""
    rows = [] if path is None else pl.read_parquet(path).to_dicts()
    return [dict(row) for row in sort_best_first(rows)] if settings.order == "best_first" else rows


def count_tokens(
    tokenizer: PreTrainedTokenizerBase, rows: list[dict], sides: tuple[str, ...], max_length: int
) -> list[int]:
    """Tokens that each row is trained on, cut at `max_length`, over its sides."""
    return [
        sum(
            min(sum(map(len, encode_row(tokenizer, row["prompt"], row[side][0]["content"]))), max_length)
            for side in sides
        )
        for row in rows
    ]


def fill_budget(job: TrainJob, sft_rows: list[dict], pairs: list[dict]) -> list[dict]:
    """SFT rows repeated, in a new order each time, until `token_budget` less what the pairs take is filled.

    Raises:
        ValueError: the pairs alone take the budget.
    """
    assert job.token_budget is not None, "there is a budget to fill"
    tokenizer = AutoTokenizer.from_pretrained(job.start_checkpoint, **WITHOUT_CODE)
    on_pairs = job.second_settings
    for_pairs = round(
        on_pairs.num_epochs * sum(count_tokens(tokenizer, pairs, ("chosen", "rejected"), on_pairs.max_length))
    )
    left = job.token_budget - for_pairs
    if left <= 0:
        raise ValueError(
            f"{len(pairs)} preference pairs take {for_pairs} tokens of token_budget {job.token_budget}; "
            "raise it, or train on fewer pairs (trains_on: latest)"
        )
    lengths = count_tokens(tokenizer, sft_rows, ("completion",), job.sft.max_length)
    rng = random.Random(job.rng_seed)
    filled: list[dict] = []
    while True:
        places = rng.sample(range(len(sft_rows)), len(sft_rows))
        for place in sorted(places) if job.sft.order == "best_first" else places:
            # The first row that does not fit ends it: a search for shorter ones would train on short rows more often.
            if lengths[place] > left:
                return filled
            filled.append(sft_rows[place])
            left -= lengths[place]


def train(job: TrainJob, folder: Path) -> None:
    """Run both stages and write `checkpoint/` (with `training_log.json`) and, last, `result.json`."""
    started = time.monotonic()
    sft_rows = build_sft_rows(read_rows(job.sft_path, job.sft), job.system_message)
    pairs = build_pair_rows(read_rows(job.pairs_path, job.second_settings), job.system_message)
    # GRPO's rows are prompts alone; an experiment has either these or pairs.
    second = read_rows(job.prompts_path, job.second_settings) if job.second_loss == "grpo" else pairs
    start, logs, settings = job.start_checkpoint, {}, job.sft
    if sft_rows and job.token_budget is not None:
        # The rows are repeated as often as the budget allows, so the trainer passes over them once.
        sft_rows, settings = fill_budget(job, sft_rows, pairs), settings.model_copy(update={"num_epochs": 1.0})
    # SFT's own result stays in float32, so that DPO starts from what SFT ended with, and a killed run takes it up.
    sft_folder, sft_log = folder / "sft", folder / "sft_log.json"
    # `save_model` renames the folder into place at its end and writes the log before, so both are whole.
    if sft_rows and sft_folder.is_dir():
        print("sft: taking up after the finished SFT of a killed run")
        logs["sft"] = json.loads(sft_log.read_text())
    elif sft_rows:
        trainer, logs["sft"] = run_stage("sft", job, settings, start, sft_rows, folder)
        place, save_dtype = (folder / CHECKPOINT, job.save_dtype)
        if second:
            place, save_dtype = sft_folder, "float32"
        save_model(trainer, job, start, place, save_dtype=save_dtype, stage="sft", log=logs["sft"])
        # Or its weights and optimizer would stay while DPO trains.
        del trainer
        gc.collect()
        if is_main_process():
            shutil.rmtree(folder / STATES / "sft", ignore_errors=True)
    if second:
        start = sft_folder if sft_rows else start
        stage = job.second_loss
        trainer, logs[stage] = run_stage(stage, job, job.second_settings, start, second, folder)
        save_model(trainer, job, start, folder / CHECKPOINT, save_dtype=job.save_dtype, stage=stage, log=logs[stage])
    peak = measure_peak()
    if is_main_process():
        # Sorted, since a state that a stage goes on from has its entries sorted.
        (folder / CHECKPOINT / "training_log.json").write_text(json.dumps(logs, indent=1, sort_keys=True))
        for finished in (sft_folder, folder / STATES):
            shutil.rmtree(finished, ignore_errors=True)
        write_result(job, folder, logs, time.monotonic() - started, peak)


def is_main_process() -> bool:
    """Whether this is the only process or the first of several."""
    return int(os.environ.get("RANK", "0")) == 0


def measure_peak() -> MemoryPeak:
    """The most each process has held, summed over the processes, which all call this."""
    own = measure_own_peak()
    held = torch.tensor([own.host_gib, own.gpu_gib], dtype=torch.float32, device=PartialState().device)
    host_gib, gpu_gib = reduce(held, reduction="sum").tolist()
    return MemoryPeak(host_gib, gpu_gib)


def write_result(job: TrainJob, folder: Path, logs: dict, seconds: float, peak: MemoryPeak) -> None:
    """Write `result.json` whole, after everything else."""
    skipped = {"num_rows": 0, "num_truncated": 0, "steps": [], "change": None}
    stages = {"sft": skipped, job.second_loss: skipped} | logs
    sft, dpo = stages["sft"], stages[job.second_loss]
    last = dpo if job.second_loss in logs else sft
    result = TrainResult(
        path=folder / CHECKPOINT,
        num_truncated=sft["num_truncated"] + dpo["num_truncated"],
        num_tokens=sum(int(stage["steps"][-1]["num_tokens"]) for stage in (sft, dpo) if stage["steps"]),
        seconds=seconds,
        peak_host_gib=peak.host_gib,
        peak_gpu_gib=peak.gpu_gib,
        sft_change=sft["change"],
        dpo_change=dpo["change"],
        kept_rate=last["kept_rate"],
        saved_dtype=last["saved_dtype"],
        second_loss=job.second_loss,
        sft_losses=read_measure(sft["steps"], "loss"),
        dpo_losses=read_measure(dpo["steps"], "loss"),
        dpo_accuracies=read_measure(dpo["steps"], "rewards/accuracies"),
        dpo_margins=read_measure(dpo["steps"], "rewards/margins"),
        dpo_chosen_logps=read_measure(dpo["steps"], "logps/chosen"),
        rewards=[read_rewards(number, step) for number, step in enumerate(dpo["steps"], 1) if "reward" in step],
        computed_in={stage: log["computed_in"] for stage, log in logs.items()},
    )
    # The process that waits takes this file as the sign that training has finished.
    write_file_atomically(folder / RESULT, result.model_dump_json(indent=1).encode())


def read_measure(steps: list[dict], name: str) -> list[float]:
    """A measure of each step that has it: KTO has no margin in a batch of good rows alone, and never an accuracy."""
    return [float(step[name]) for step in steps if name in step]


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path, help="the job, as JSON; its folder gets the result")
    parser.add_argument("--watch-stdin", action="store_true", help="end when standard input closes")
    options = parser.parse_args()
    if options.watch_stdin:
        end_with_stdin()
    logging.disable_progress_bar()
    disable_progress_bars()
    job = TrainJob.model_validate_json(options.job.read_text())
    # All processes say the same; what goes wrong goes to standard error.
    with open(os.devnull, "w") as nowhere, redirect_stdout(sys.stdout if is_main_process() else nowhere):
        train(job, options.job.parent)


if __name__ == "__main__":
    main()
