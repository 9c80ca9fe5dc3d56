"""What of `GpuSettings` a process trains with, once its device is known, and what TRL, PEFT and transformers are given.

As the precision, a choice that is left to "auto" depends on where training runs, is in no fingerprint, and is recorded
with the result. Sources: TRL 1.16's and transformers 5.19's own arguments; for four bits QLoRA (arXiv 2305.14314): NF4,
its constants quantized too. How it differs:

1. TRL holds the adapters of quantized weights in bfloat16; here they are float32, as all that is trained is.
2. The adapters are added to the weights as they are stored, and not to what four bits leave of them.
3. Of Liger only the kernels of layers are taken: its fused loss would replace TRL's, or return no logits.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lance_assets.algorithms.forecast.precision import Precision
from lance_assets.extras import INSTALL
from resources.training.gpu.settings import LIBRARIES, Attention, GpuSettings

if TYPE_CHECKING:
    from torch.nn import Module, Parameter
    from torch.optim import Optimizer
    from transformers import PreTrainedConfig

SHARDED_4BIT = (
    "training.gpu.quantization: 4bit is for a model that every GPU holds whole, and FSDP shards it; remove one"
)
"""What is wrong with four bits under FSDP."""


@dataclass(frozen=True)
class GpuChoices:
    """What a stage is trained with beside its own settings."""

    attention: str | None = None
    """Transformers' name; None for its own choice."""
    optimizer: str | None = None
    """The same."""
    has_liger: bool = False
    """Whether Liger's layers stand in for the model's."""
    compute_dtype: str | None = None
    """With weights in four bits: what they are multiplied in; None for weights as they are."""

    @property
    def is_padding_free(self) -> bool:
        """Whether SFT's rows lie behind each other: flash attention knows where each begins."""
        return self.attention == "flash_attention_2"

    @property
    def arguments(self) -> dict[str, Any]:
        """For the configuration of any of TRL's trainers."""
        optimizer = {} if self.optimizer is None else {"optim": self.optimizer}
        if not self.has_liger:
            return optimizer
        layers = {"fused_linear_cross_entropy": False, "cross_entropy": False}
        return optimizer | {"use_liger_kernel": True, "liger_kernel_config": layers}

    @property
    def loading(self) -> dict[str, Any]:
        """For `from_pretrained` of the model that is trained, and of the reference that DPO and KTO are given.

        GRPO's reference, with `beta` above 0 and without adapters, is loaded by TRL, which takes the trained model's
        attention for it. Four bits need adapters, and then the model without them is the reference.
        """
        attention = {} if self.attention is None else {"attn_implementation": self.attention}
        if self.compute_dtype is None:
            return attention
        import torch
        from transformers import BitsAndBytesConfig

        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, self.compute_dtype),
        )
        # Each process quantizes on its own GPU, where the weights then stay.
        place = {"": int(os.environ.get("LOCAL_RANK", "0"))}
        return attention | {"quantization_config": config, "device_map": place}

    def describe(self) -> str:
        """In words, for a person; empty where nothing is chosen."""
        parts = [
            self.attention or "",
            self.optimizer or "",
            "liger" if self.has_liger else "",
            f"weights in 4 bits, multiplied in {self.compute_dtype}" if self.compute_dtype else "",
        ]
        return ", ".join(filter(None, parts))


def is_installed(module: str) -> bool:
    """Whether a library can be imported; it is not."""
    return find_spec(module) is not None


def choose(
    settings: GpuSettings,
    *,
    on_gpu: bool,
    precision: Precision,
    is_sharded: bool = False,
    takes_flash: bool = False,
    has_library: Callable[[str], bool] = is_installed,
) -> GpuChoices:
    """What a stage is trained with on this device.

    Args:
        settings: what the experiment asks for.
        on_gpu: whether training runs on a GPU of CUDA.
        precision: of the products.
        is_sharded: whether FSDP divides the weights over processes.
        takes_flash: whether flash attention suits the model and the stage, where attention is left to "auto".
        has_library: whether a module is installed.

    Raises:
        ValueError: something needs a GPU, a library or bfloat16 that is not there, or weights in four bits are to be
            sharded.
    """
    for name, value in settings.on_gpu_alone.items():
        if not on_gpu:
            raise ValueError(explain_no_gpu(name, value))
        if not has_library(LIBRARIES[value]):
            raise ValueError(f"training.gpu.{name}: {value} needs {explain_missing(LIBRARIES[value])}; or remove it")
    is_rounded = precision == "bfloat16_autocast"
    attention = None if settings.attention == "auto" else settings.attention
    if attention == "flash_attention_2" and not is_rounded:
        raise ValueError(
            f"training.gpu.attention: flash_attention_2 has no kernel for {precision}; set training.dtype to "
            "bfloat16_autocast, or remove attention"
        )
    if settings.quantization == "4bit" and is_sharded:
        raise ValueError(SHARDED_4BIT)
    if attention is None and on_gpu and is_rounded and takes_flash:
        attention = "flash_attention_2"
    has_liger = settings.liger == "on" or (settings.liger == "auto" and on_gpu and has_library("liger_kernel"))
    compute_dtype = ("bfloat16" if is_rounded else "float32") if settings.quantization == "4bit" else None
    return GpuChoices(attention, None if settings.optimizer == "auto" else settings.optimizer, has_liger, compute_dtype)


def supports_attention(config: "PreTrainedConfig", name: Attention) -> bool:
    """Whether the model of a configuration has an attention, by its class, and transformers finds what that needs.

    Args:
        config: the model's; False for one that transformers has no class of.
        name: sdpa or flash_attention_2.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import is_flash_attn_2_available

    own = AutoModelForCausalLM._model_mapping.get(type(config), None)
    if name == "sdpa":
        return bool(getattr(own, "_supports_sdpa", False))
    # A module of the name is not enough: an old release of flash-attn, or a later one with other kernels, has it too.
    return is_flash_attn_2_available() and bool(getattr(own, "_supports_flash_attn", False))


def shares_prompts(
    config: "PreTrainedConfig", attention: Attention, *, has_pairs: bool, trained_positions_only: bool
) -> bool:
    """Whether a stage reads the prompt of a pair once; flash attention takes no mask that would permit it.

    Args:
        config: the model's.
        attention: what the experiment asks for.
        has_pairs: whether its rows are pairs that are scored by TRL's fused output embedding.
        trained_positions_only: the setting.
    """
    from resources.engines.transformers.continuations import sees_everything

    can_share = has_pairs and trained_positions_only and attention != "flash_attention_2"
    return can_share and supports_attention(config, "sdpa") and sees_everything(config)


def explain_no_gpu(name: str, value: str) -> str:
    """That a setting needs a GPU where there is none."""
    return f"training.gpu.{name}: {value} needs a GPU of CUDA, and here training runs on the CPU; remove it"


def explain_missing(module: str) -> str:
    """A library that is not installed, with how it is."""
    if module == "flash_attn":
        # It is compiled for the torch and CUDA that are there.
        return "flash-attn, which is not installed: pip install --no-build-isolation flash-attn"
    return f"{module}, which is not installed: {INSTALL.format(extra='gpu')}"


def build_optimizer(chosen: GpuChoices, weights: Sequence["Parameter"]) -> "Optimizer":
    """An optimizer of the kind that is chosen, with a small rate, for steps that are timed."""
    import torch

    if chosen.optimizer is None:
        return torch.optim.AdamW(weights, lr=1e-6)
    from transformers import Trainer, TrainingArguments

    on_cpu = weights[0].device.type == "cpu"
    arguments = TrainingArguments(
        output_dir=os.devnull, report_to="none", use_cpu=on_cpu, learning_rate=1e-6, optim=chosen.optimizer
    )
    kind, given = Trainer.get_optimizer_cls_and_kwargs(arguments)
    built: Optimizer = kind(weights, **given)
    return built


def keep_adapters_precise(model: "Module") -> None:
    """Hold what is trained in float32, whatever TRL made of it; before the optimizer is there."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
