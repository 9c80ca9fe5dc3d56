"""What training would do on a GPU: which library and argument each setting comes to, and what a CPU says of it."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import polars as pl
import pytest
from pydantic import ValidationError
from transformers import AutoConfig, BloomConfig, LlamaConfig, TrainingArguments
from transformers.utils import import_utils
from trl import DPOConfig, GRPOConfig, KTOConfig, SFTConfig

from lance_assets.records import SFT_SET
from resources.training import train_worker
from resources.training.gpu.choosing import GpuChoices, choose, is_installed, keep_adapters_precise, supports_attention
from resources.training.gpu.settings import LIBRARIES, GpuSettings
from resources.training.pair_losses import CPOConfig, ORPOConfig
from resources.training.precision import Settled
from resources.training.saving import load_for_training
from resources.training.stage_settings import LoraSettings, SftSettings
from resources.training.train_worker import build_arguments, choose_gpu_paths, reads_prompts_once, run_stage
from resources.training.trainer import TrainJob, TrainResult, fingerprint_job

ROUNDED, EXACT = "bfloat16_autocast", "float32"


def has(*modules: str) -> Callable[[str], bool]:
    return lambda module: module in modules


@pytest.mark.parametrize("value", LIBRARIES)
def test_what_needs_a_gpu_is_refused_on_a_cpu(value: str) -> None:
    name = next(name for name, field in GpuSettings.model_fields.items() if value in get_args(field.annotation))
    told = rf"training\.gpu\.{name}: {value} needs a GPU of CUDA, and here training runs on the CPU; remove it"
    with pytest.raises(ValueError, match=told):
        choose(GpuSettings.model_validate({name: value}), on_gpu=False, precision=ROUNDED, has_library=has())
    with pytest.raises(ValueError, match=rf"training\.gpu\.{name}: {value} needs .*, which is not installed: pip"):
        choose(GpuSettings.model_validate({name: value}), on_gpu=True, precision=ROUNDED, has_library=has())


def test_by_default_a_cpu_and_a_gpu_without_libraries_have_nothing_of_it() -> None:
    """So the arguments of all experiments are what they were."""
    everything = has(*LIBRARIES.values())
    assert choose(GpuSettings(), on_gpu=False, precision=ROUNDED, has_library=everything) == GpuChoices()
    assert choose(GpuSettings(), on_gpu=True, precision=ROUNDED, has_library=has()) == GpuChoices()
    assert (GpuChoices().arguments, GpuChoices().loading, GpuChoices().describe()) == ({}, {}, "")


def test_by_default_a_gpu_takes_what_is_installed_and_never_rounds_weights() -> None:
    everything = has(*LIBRARIES.values())
    chosen = choose(GpuSettings(), on_gpu=True, precision=ROUNDED, takes_flash=True, has_library=everything)
    assert chosen == GpuChoices(attention="flash_attention_2", has_liger=True)
    assert chosen.is_padding_free
    # Flash attention has no kernel for float32.
    exact = choose(GpuSettings(), on_gpu=True, precision=EXACT, takes_flash=True, has_library=everything)
    assert exact.attention is None
    off = GpuSettings(attention="sdpa", liger="off")
    chosen = choose(off, on_gpu=True, precision=ROUNDED, takes_flash=True, has_library=everything)
    assert chosen == GpuChoices(attention="sdpa")


@pytest.mark.parametrize(("version", "is_there"), [("2.8.3", True), ("2.1.0", False), (None, False)])
def test_flash_attention_is_taken_by_release_and_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None, is_there: bool
) -> None:
    """A module of the name is not enough, and neither is flash-attn for a model that has no such path."""
    (tmp_path / "flash_attn.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(import_utils, "_is_package_available", lambda name, **_: (version is not None, version))
    monkeypatch.setattr(import_utils, "is_torch_cuda_available", lambda: True)
    monkeypatch.setitem(import_utils.PACKAGE_DISTRIBUTION_MAPPING, "flash_attn", ["flash-attn"])
    import_utils.is_flash_attn_2_available.cache_clear()
    try:
        assert is_installed("flash_attn")
        assert supports_attention(LlamaConfig(), "flash_attention_2") == is_there
        assert not supports_attention(BloomConfig(), "flash_attention_2")
    finally:
        import_utils.is_flash_attn_2_available.cache_clear()
    assert supports_attention(LlamaConfig(), "sdpa")
    assert not supports_attention(BloomConfig(), "sdpa")


@pytest.mark.parametrize(
    ("stage", "changed", "attention", "shares"),
    [
        ("dpo", {}, None, True),
        ("dpo", {"gpu": {"attention": "flash_attention_2"}}, "flash_attention_2", False),
        ("dpo", {"trained_positions_only": False}, "flash_attention_2", False),
        ("simpo", {}, "flash_attention_2", False),
        ("sft", {}, "flash_attention_2", False),
    ],
)
def test_the_attention_of_a_stage_is_that_by_which_its_batch_is_settled(
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    stage: str,
    changed: dict,
    attention: str | None,
    shares: bool,
) -> None:
    monkeypatch.setattr(train_worker.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(choose, "__kwdefaults__", choose.__kwdefaults__ | {"has_library": has("flash_attn")})
    # What it says of the model's class is asked in earnest.
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: True)
    job = TrainJob.model_validate({"start_checkpoint": tiny_model, "staging": tiny_model} | changed)
    settings, config = getattr(job, stage), AutoConfig.from_pretrained(tiny_model)
    assert choose_gpu_paths(job, settings, Settled(ROUNDED, 1)).attention == attention
    assert reads_prompts_once(job, settings, config) == shares


@pytest.mark.parametrize(
    ("asked", "given", "told"),
    [
        ({"attention": "flash_attention_2"}, {"precision": EXACT}, "has no kernel for float32; set training.dtype to"),
        ({"quantization": "4bit"}, {"precision": ROUNDED, "is_sharded": True}, "4bit is for .* and FSDP shards it"),
    ],
)
def test_what_does_not_go_together_is_told(asked: dict, given: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        choose(GpuSettings.model_validate(asked), on_gpu=True, has_library=has(*LIBRARIES.values()), **given)


@pytest.mark.parametrize("config", [SFTConfig, DPOConfig, KTOConfig, ORPOConfig, CPOConfig, GRPOConfig])
def test_the_choices_are_arguments_of_every_trainer(config: type[TrainingArguments], tmp_path: Path) -> None:
    chosen = GpuChoices(optimizer="paged_adamw_8bit", has_liger=True)
    own = {"per_device_train_batch_size": 8, "num_generations": 8} if config is GRPOConfig else {}
    found = config(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", **chosen.arguments, **own)
    assert (found.optim, found.use_liger_kernel) == ("paged_adamw_8bit", True)
    # Or the fused output embedding of TRL's trainers would be replaced.
    assert found.liger_kernel_config == {"fused_linear_cross_entropy": False, "cross_entropy": False}


def test_weights_in_four_bits_are_nf4_and_multiplied_in_the_precision_of_the_products(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    monkeypatch.setenv("LOCAL_RANK", "3")
    settings, everything = GpuSettings(quantization="4bit"), has(*LIBRARIES.values())
    for precision, dtype in ((ROUNDED, torch.bfloat16), (EXACT, torch.float32)):
        chosen = choose(settings, on_gpu=True, precision=precision, has_library=everything)
        config = chosen.loading["quantization_config"]
        assert (config.load_in_4bit, config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == (
            True,
            "nf4",
            True,
        )
        assert config.bnb_4bit_compute_dtype == dtype
        assert chosen.loading["device_map"] == {"": 3}, "each process has its own GPU"
        assert "4 bits" in chosen.describe()


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_attention_and_optimizer_reach_the_trainer_and_its_reference(
    stage: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Choices that a CPU can follow, through the real trainers."""
    made = []
    monkeypatch.setattr("resources.training.train_worker.train_on", lambda trainer, states, stage: made.append(trainer))
    gpu = GpuSettings(attention="sdpa", optimizer="adamw_torch")
    job = TrainJob(start_checkpoint=tiny_model, staging=tmp_path, gpu=gpu, num_threads=1)
    asked = [{"role": "user", "content": "Sort 3 1."}]
    sides = {name: [{"role": "assistant", "content": text}] for name, text in (("chosen", "1 3."), ("rejected", "3."))}
    rows = [{"prompt": asked} | ({"completion": sides["chosen"]} if stage == "sft" else sides)]
    settings = job.sft if stage == "sft" else job.dpo
    _, log = run_stage(stage, job, settings, tiny_model, rows, tmp_path)
    (trainer,) = made
    assert trainer.args.optim == "adamw_torch"
    models = [trainer.model, *([trainer.ref_model] if stage == "dpo" else [])]
    assert [model.config._attn_implementation for model in models] == ["sdpa"] * len(models)
    assert log["computed_in"] == "float32, whole batches, sdpa, adamw_torch"


def test_a_default_job_has_the_arguments_that_it_had(tiny_model: Path, tmp_path: Path) -> None:
    job = TrainJob(start_checkpoint=tiny_model, staging=tmp_path)
    arguments = build_arguments(job, SftSettings(), Settled(EXACT, 1), GpuChoices(), tmp_path)
    assert not {"optim", "use_liger_kernel", "liger_kernel_config"} & set(arguments)


def test_only_what_is_set_away_from_its_default_is_in_the_identity_of_a_job(tiny_model: Path, tmp_path: Path) -> None:
    plain = TrainJob(start_checkpoint=tiny_model, staging=tmp_path, lora=LoraSettings())
    written = plain.model_copy(update={"gpu": GpuSettings.model_validate({"attention": "auto", "liger": "auto"})})
    assert fingerprint_job(written) == fingerprint_job(plain)
    others = [
        plain.model_copy(update={"gpu": GpuSettings.model_validate(changed)})
        for changed in ({"attention": "sdpa"}, {"optimizer": "adamw_8bit"}, {"liger": "off"}, {"quantization": "4bit"})
    ]
    assert len({fingerprint_job(job) for job in (plain, *others)}) == 5
    assert [job.rounds_frozen for job in (plain, *others)] == [False, False, False, False, True]


def test_what_is_trained_is_float32_and_nothing_else_is_touched(tiny_model: Path) -> None:
    import torch

    model = load_for_training(tiny_model, torch.bfloat16)
    for name, weight in model.named_parameters():
        weight.requires_grad = "norm" in name
    keep_adapters_precise(model)
    for name, weight in model.named_parameters():
        assert weight.dtype == (torch.float32 if "norm" in name else torch.bfloat16), name


def test_an_unknown_choice_names_those_there_are() -> None:
    with pytest.raises(ValidationError, match="'auto', 'sdpa' or 'flash_attention_2'"):
        GpuSettings.model_validate({"attention": "xformers"})


@pytest.mark.slow
def test_adapters_train_on_weights_in_four_bits(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer's own way on bitsandbytes' CPU kernels, where they are installed: only the place is another."""
    pytest.importorskip("bitsandbytes")
    import torch
    from safetensors.torch import load_file

    class OnCpu(GpuChoices):
        @property
        def loading(self) -> dict:
            return super().loading | {"device_map": {"": "cpu"}}

    monkeypatch.setattr(train_worker, "choose_gpu_paths", lambda job, settings, settled: OnCpu(compute_dtype="float32"))
    named = [{"row_id": str(n), "prompt": f"Sort {n} 1.", "completion": f"1 {n}."} for n in range(8)]
    rows = pl.DataFrame([dict.fromkeys(SFT_SET) | row for row in named], schema=SFT_SET)
    rows.write_parquet(tmp_path / "sft.parquet")
    job = TrainJob(
        start_checkpoint=tiny_model,
        staging=tmp_path,
        sft_path=tmp_path / "sft.parquet",
        sft=SftSettings(batch_size=4, learning_rate=5e-2, num_epochs=2),
        lora=LoraSettings(r=4, alpha=8),
        gpu=GpuSettings(quantization="4bit"),
        # Scoring trained positions tries the model without gradients, after which bitsandbytes' CPU kernels have none.
        trained_positions_only=False,
        save_every_minutes=None,
        save_dtype="float32",
    )
    train_worker.train(job, tmp_path)
    result = TrainResult.model_validate_json((tmp_path / "result.json").read_text())
    assert result.sft_losses[-1] < result.sft_losses[0]
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_model, result.path))
    # The weights that had no adapter are those of the start, and not what four bits left of them.
    name = "model.embed_tokens.weight"
    assert torch.equal(after[name], before[name].float())
