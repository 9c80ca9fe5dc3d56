"""The settings of what trains faster or smaller on a GPU; their defaults suit whatever device there is."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lance_assets.settings.values import Switch

Attention = Literal["auto", "sdpa", "flash_attention_2"]
"""Transformers' names."""
Optimizer = Literal["auto", "adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "adamw_torch_8bit"]
"""Transformers' names: torch's own AdamW, bitsandbytes' in eight bits, and torchao's."""

LIBRARIES: dict[str, str] = {
    "flash_attention_2": "flash_attn",
    "adamw_8bit": "bitsandbytes",
    "paged_adamw_8bit": "bitsandbytes",
    "adamw_torch_8bit": "torchao",
    "on": "liger_kernel",
    "4bit": "bitsandbytes",
}
"""The module that a choice needs beside a GPU; a choice that is not named runs anywhere."""


class GpuSettings(BaseModel):
    """What training does on a GPU; "auto" is as on a CPU where there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attention: Attention = Field(
        "auto",
        description="'auto': flash_attention_2 on a GPU where flash-attn is installed, the model has it, and products "
        "are in bfloat16; else sdpa, and also where a pair's prompt is read once (trained_positions_only). With "
        "flash_attention_2 the rows of an SFT batch lie behind each other, without padding.",
    )
    optimizer: Optimizer = Field(
        "auto",
        description="'auto': torch's AdamW, fused. 'adamw_8bit' and 'paged_adamw_8bit' (bitsandbytes) and "
        "'adamw_torch_8bit' (torchao) keep its moments in eight bits, a quarter of the memory, on a GPU.",
    )
    liger: Switch = Field(
        "auto",
        description="Liger's Triton kernels for norms, MLPs and rotary embeddings. 'auto': on a GPU where liger-kernel "
        "is installed. TRL's own fused output embedding stays.",
    )
    quantization: Literal["none", "4bit"] = Field(
        "none",
        description="With lora, on a GPU: the weights that are not trained are held in four bits while adapters are "
        "trained on them (QLoRA, arXiv 2305.14314), and the adapters are then added to the weights as they are stored.",
    )

    @property
    def changed(self) -> dict[str, Any]:
        """What is set away from its default: all that an identity has of it."""
        return self.model_dump(exclude_defaults=True)

    @property
    def on_gpu_alone(self) -> dict[str, str]:
        """The settings that a CPU cannot follow, with their values."""
        return {name: value for name, value in self.model_dump().items() if value in LIBRARIES}
