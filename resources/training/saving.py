"""What a stage has trained, put on disk so that what reads it next sees the trained model.

* Adapters are merged. A layer whose weight another layer shares (tied embeddings) is given a weight of its own before
  it is trained with an adapter, as PEFT advises: a merge would change the other layer too, which training did not.
  The checkpoint then has both weights, and its configuration says so.
* A small update is lost where the weights are rounded to bfloat16: a weight moves only if its change is above half the
  distance to the next number, about 1/512 of the weight. So the rounding is measured against the stage's update, and
  where it takes more than a hundredth of it, the checkpoint is saved in float32.
"""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import check_target_module_exists
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer

from resources.models.adapters import build_update, concatenate_adapters, read_update, to_numpy, write_adapter
from resources.models.foreign_code import WEIGHTS
from resources.stores.checkpoints import hash_checkpoint
from resources.stores.files import flush_folder, flush_to_disk, write_file_atomically
from resources.training.divergence import DivergedError, require_finite
from resources.training.stage_settings import SaveDtype
from resources.training.trainer import DIVERGED, TrainJob

TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*", "vocab*", "merges*")
MIN_KEPT_RATE = 0.99
"""Share of a stage's update that a checkpoint keeps at least, with `save_dtype: auto`."""
_NUM_PROBED = 16
_MERGE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class WeightChange:
    """How far a stage moved the weights, and what of it the file keeps."""

    change: float
    """L2 norm of the trained weights less those that the stage started from, float32; 0 where nothing was trained."""
    kept_rate: float
    """1 less the norm of the rounding to the saved dtype over `change`, in [0, 1]; 1 where nothing was trained."""
    saved_dtype: str
    """What the weights are saved in, such as `float32`."""


def load_for_training(
    path: Path, dtype: torch.dtype = torch.float32, loading: Mapping[str, Any] = MappingProxyType({})
) -> PreTrainedModel:
    """The model in float32, whatever it is stored in, or in the dtype of weights that training does not move.

    Args:
        path: its folder.
        dtype: of the weights.
        loading: further arguments (`GpuChoices.loading`).
    """
    # In bfloat16 most updates at a learning rate of 1e-5 would be rounded away.
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True, **WEIGHTS, **loading)


def load_start(
    path: Path,
    job: TrainJob,
    dtype: torch.dtype = torch.float32,
    loading: Mapping[str, Any] = MappingProxyType({}),
) -> PreTrainedModel:
    """The model that a stage starts from, its shared weights parted where the job's adapters would part them."""
    model = load_for_training(path, dtype, loading)
    lora = build_lora(job)
    if lora is not None:
        require_targets(model, lora)
        untie_targets(model, lora)
    return model


def build_lora(job: TrainJob) -> LoraConfig | None:
    """PEFT's configuration, None to train all weights."""
    if job.lora is None:
        return None
    targets = job.lora.target_modules
    return LoraConfig(
        r=job.lora.r,
        lora_alpha=job.lora.alpha,
        lora_dropout=job.lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )


def require_targets(model: PreTrainedModel, lora: LoraConfig) -> None:
    """Check that every name of `target_modules` is that of a layer; PEFT leaves out what it does not find.

    Raises:
        ValueError: a name that no layer of the model has.
    """
    if isinstance(lora.target_modules, str):
        return
    layers = [name for name, part in model.named_modules() if name and not list(part.children())]
    for wanted in sorted(lora.target_modules or ()):
        if not any(name == wanted or name.endswith(f".{wanted}") for name in layers):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
            raise ValueError(
                f"lora.target_modules names {wanted!r}, and no layer of the model is called so; it has: {known}"
            )


def untie_targets(model: PreTrainedModel, lora: LoraConfig) -> None:
    """Give the output embedding a weight of its own where an adapter goes on one of two layers that share one."""
    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    if last is None or first.weight is not last.weight or isinstance(lora.target_modules, str):
        return
    names = [name for name, part in model.named_modules() if part is first or part is last]
    targeted = [name for name in names if check_target_module_exists(lora, name)]
    if not targeted:
        return
    last.weight = torch.nn.Parameter(first.weight.detach().clone())
    for config in {id(each): each for each in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = False
    size = last.weight.numel() * last.weight.itemsize / 2**20
    print(
        f"{' and '.join(targeted)} gets an adapter and shares its weight with {' and '.join(names)}: they are parted, "
        f"and the checkpoint holds both (tie_word_embeddings false, {size:.0f} MiB more in float32)"
    )


def save_model(
    trainer: Trainer,
    job: TrainJob,
    start: Path,
    folder: Path,
    *,
    save_dtype: SaveDtype,
    stage: str,
    log: dict,
) -> None:
    """Save what a stage trained, see `write_model`; the log is written beside the folder before that appears.

    Args:
        trainer: of the stage that ended. Every process calls this, since under FSDP each holds a part.
        job: what is trained.
        start: what the stage started from.
        folder: where to.
        save_dtype: as `write_model`.
        stage: as `write_model`.
        log: the stage's, which is given the fields of `WeightChange`.
    """
    accelerator = trainer.accelerator
    if not job.rounds_frozen:
        state = accelerator.get_state_dict(trainer.model_wrapped)
    else:
        state = collect_trained(accelerator.unwrap_model(trainer.model_wrapped))
    if accelerator.is_main_process:
        partial = folder.with_suffix(".partial")
        log.update(asdict(write_model(state, job, start, partial, save_dtype=save_dtype, stage=stage)))
        place_stage(partial, folder, log)
    accelerator.wait_for_everyone()


def collect_trained(model: PeftModel) -> dict[str, torch.Tensor]:
    """The weights that training moved, whole, on the CPU; every process calls this."""
    trained = {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}
    # Under FSDP each process holds a part of each.
    return {name: getattr(weight, "full_tensor", lambda own=weight: own)().cpu() for name, weight in trained.items()}


def place_stage(partial: Path, folder: Path, log: dict) -> None:
    """Give a stage's model its name, with the log beside it: a power cut leaves both whole, or no folder of the name.

    Raises:
        DiskFullError: the disk is full.
    """
    write_file_atomically(folder.with_name(f"{folder.name}_log.json"), json.dumps(log).encode())
    flush_folder(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    flush_to_disk(folder.parent)


def write_model(
    state: Mapping[str, torch.Tensor],
    job: TrainJob,
    start: Path,
    folder: Path,
    *,
    save_dtype: SaveDtype,
    stage: str = "the stage",
) -> WeightChange:
    """Write weights with adapters merged, config, tokenizer and adapter.

    Args:
        state: the trained model's, float32, with its adapters not merged; with frozen weights in bfloat16 or four bits
            only what was trained, and the rest is taken from the stage's start, as precise as it is there.
        job: whose start checkpoint gives the config and the tokenizer.
        start: what the stage started from.
        folder: where to; what is there is removed.
        save_dtype: of the weights; "auto" is that of the start checkpoint where it keeps the update, else float32.
        stage: what trained it, which an error names.

    Raises:
        DivergedError: a weight, a logit or the norm of the change is NaN or infinite.
        RuntimeError: the merged model is not the trained one, or what was trained is not of it.
    """
    shutil.rmtree(folder, ignore_errors=True)
    # Through a fresh model: its config is as it was, and tied weights are stored once.
    model = load_start(job.start_checkpoint, job)
    lora = build_lora(job)
    if lora is None:
        model.load_state_dict(state)
        require_finite(model, stage)
    else:
        is_whole = not job.rounds_frozen
        if not is_whole:
            model.load_state_dict(load_start(start, job).state_dict())
        adapted = get_peft_model(model, lora)
        told = adapted.load_state_dict(state, strict=is_whole)
        if unknown := told.unexpected_keys:
            raise RuntimeError(f"the trained model has weights that its start has not: {', '.join(unknown[:3])}")
        # Before the merge, which would say of NaN that it differs from itself.
        require_finite(adapted, stage)
        # Merging adds the factors to the weights and removes them, so they are saved before.
        save_adapter(adapted, job, start, folder)
        model = merge(adapted)
    change = measure_change(model, start, save_dtype=save_dtype, stored=read_dtype(job.start_checkpoint))
    print(
        f"the weights moved by {change.change:.3g} (L2 norm); saved in {change.saved_dtype}, which keeps "
        f"{change.kept_rate:.1%} of that"
    )
    model.to(getattr(torch, change.saved_dtype)).save_pretrained(folder)
    # The files are copied, since saving the tokenizer would rewrite what training has not changed.
    for pattern in TOKENIZER_FILES:
        for path in job.start_checkpoint.glob(pattern):
            shutil.copyfile(path, folder / path.name)
    return change


def merge(model: PeftModel) -> PreTrainedModel:
    """The model with its adapters added to its weights, which is shown to be the same model on a few tokens.

    Raises:
        RuntimeError: its logits are not those of before.
    """
    model.eval()
    tokens = torch.arange(min(_NUM_PROBED, model.config.get_text_config().vocab_size)).unsqueeze(0)
    with torch.no_grad():
        trained = model(input_ids=tokens).logits
        merged = model.merge_and_unload()
        found = merged(input_ids=tokens).logits
    difference, scale = (found - trained).abs().max().item(), trained.abs().max().item()
    # Written so that NaN is an error too.
    if not difference <= _MERGE_TOLERANCE * max(1.0, scale):
        raise RuntimeError(
            f"the merged model's logits differ by {difference:.3g} from the trained model's, which are up to "
            f"{scale:.3g}; train without lora, or with other target_modules"
        )
    return merged


def measure_change(model: PreTrainedModel, start: Path, *, save_dtype: SaveDtype, stored: torch.dtype) -> WeightChange:
    """How far the weights are from a stage's start, and which dtype keeps that.

    Args:
        model: trained, float32.
        start: folder of what the stage started from.
        save_dtype: as `write_model`.
        stored: dtype of the job's start checkpoint.

    Raises:
        DivergedError: the norm of the change is no number of float32.
    """
    # In the dtype that it is stored in, so that the copy takes no more memory than the file.
    before = AutoModelForCausalLM.from_pretrained(start, dtype="auto", local_files_only=True, **WEIGHTS).state_dict()
    wanted = stored if save_dtype == "auto" else getattr(torch, save_dtype)
    changed = rounded = 0.0
    for name, weight in model.named_parameters():
        changed += torch.linalg.vector_norm(weight.detach() - before[name].float()).item() ** 2
        if wanted != torch.float32:
            rounded += torch.linalg.vector_norm(weight.detach() - weight.detach().to(wanted).float()).item() ** 2
    change = math.sqrt(changed)
    if not math.isfinite(change):
        raise DivergedError(f"{DIVERGED}the weights moved by {change} (L2 norm)")
    kept = 1.0 if changed == 0 else max(0.0, 1 - math.sqrt(rounded) / change)
    if save_dtype == "auto" and kept < MIN_KEPT_RATE:
        wanted, kept = torch.float32, 1.0
    return WeightChange(float(f"{change:.6g}"), float(f"{kept:.6g}"), str(wanted).removeprefix("torch."))


def read_dtype(path: Path) -> torch.dtype:
    """The dtype a checkpoint is stored in."""
    return AutoModelForCausalLM.from_pretrained(path, dtype="auto", local_files_only=True, **WEIGHTS).dtype


def save_adapter(model: PeftModel, job: TrainJob, start: Path, folder: Path) -> None:
    """Put into a checkpoint's folder what it differs by from the base model: what its start did, and this stage."""
    if job.base_model is None:
        return
    base_hash = hash_checkpoint(job.base_model)
    before = read_update(start, base_hash=base_hash)
    if before is None:
        print("no adapter is written: the start checkpoint is not the base model, and has no adapter of it")
        return
    config = model.peft_config["default"]
    # The adapter alone: with embeddings among its layers PEFT would add their whole weights.
    state = to_numpy(get_peft_model_state_dict(model, save_embedding_layers=False))
    stage = build_update(state, scale=config.lora_alpha / config.r, target_modules=frozenset(config.target_modules))
    write_adapter(folder, concatenate_adapters(before, stage), base_hash=base_hash)
