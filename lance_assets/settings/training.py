"""How a round's checkpoint is trained, and what differs in single rounds."""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    Field,
    model_validator,
)

from lance_assets.algorithms.measures.progress import parse_round
from lance_assets.records import SECOND_LOSSES, SecondLoss
from lance_assets.settings.values import FromEnvironment, Settings
from resources.training.gpu.settings import GpuSettings
from resources.training.stage_settings import (
    DpoChanges,
    DpoSettings,
    FrozenDtype,
    GrpoChanges,
    GrpoSettings,
    KtoChanges,
    KtoSettings,
    LoraSettings,
    OrpoChanges,
    OrpoSettings,
    SaveDtype,
    SecondSettings,
    SftChanges,
    SftSettings,
    SimpoChanges,
    SimpoSettings,
    TrainingDtype,
    change_stage,
)


def _check_round(name: str) -> str:
    parse_round(name)
    return name


RoundKey = Annotated[str, AfterValidator(_check_round)]
"""The name of a round, as its partition has it."""


class RoundTraining(Settings):
    """How the checkpoint of one round is trained where it differs from the others."""

    sft: SftChanges | None = Field(None, description="What differs in supervised fine-tuning.")
    dpo: DpoChanges | None = Field(None, description="What differs in DPO.")
    kto: KtoChanges | None = Field(None, description="What differs in KTO.")
    orpo: OrpoChanges | None = Field(None, description="What differs in ORPO.")
    simpo: SimpoChanges | None = Field(None, description="What differs in SimPO.")
    grpo: GrpoChanges | None = Field(None, description="What differs in GRPO.")


class TrainingSettings(Settings):
    """How a round's checkpoint is trained."""

    sft: SftSettings = Field(default_factory=SftSettings, description="Supervised fine-tuning, the first stage.")
    dpo: DpoSettings = Field(default_factory=DpoSettings, description="DPO on preference pairs, the second stage.")
    kto: KtoSettings = Field(default_factory=KtoSettings, description="KTO in DPO's place, where losses names it.")
    orpo: OrpoSettings = Field(default_factory=OrpoSettings, description="ORPO in DPO's place.")
    simpo: SimpoSettings = Field(default_factory=SimpoSettings, description="SimPO in DPO's place.")
    grpo: GrpoSettings = Field(default_factory=GrpoSettings, description="GRPO on a reward, in DPO's place.")
    by_round: Mapping[RoundKey, RoundTraining] = Field(
        default_factory=dict,
        description="What differs in single rounds, such as r0003: {dpo: {learning_rate: 1.0e-7}}. Only the rounds "
        "that are named change, and each name is for its round alone.",
    )
    label: SftChanges | None = Field(
        None, description="What differs for the label model, for a recipe that trains one; it is trained by SFT alone."
    )
    lora: LoraSettings | None = Field(None, description="LoRA adapters. None: all parameters are trained.")
    token_budget: int | None = Field(
        None,
        ge=1,
        description="Tokens that each round after r0000 trains on: DPO takes its own, and SFT fills the rest. "
        "None: each stage trains for its num_epochs.",
    )
    save_dtype: SaveDtype = Field(
        "auto",
        description="What a checkpoint's weights are saved in. 'auto': as the model before where that keeps 99% of "
        "the update, else float32, which takes twice the disk of bfloat16.",
    )
    launcher: tuple[str, ...] | None = Field(
        None,
        description="The command that starts the training process, such as ['srun', 'torchrun', '--nnodes', '2', ...]. "
        "${NAME} is the step's own environment variable. With accelerate_config it starts `accelerate launch`, once on "
        "each machine.",
    )
    num_processes: int | None = Field(
        None,
        ge=1,
        description="Processes of this machine that share each batch, started by torchrun: one for each GPU. With "
        "launcher: those that it starts on all machines, for `lance plan` and for what the step asks for. It cannot be "
        "combined with accelerate_config, which has its own. None: one, without torchrun.",
    )
    accelerate_config: FromEnvironment | None = Field(
        None,
        description="File written by `accelerate config`, for FSDP for example; relative to the experiment's folder. "
        "With num_machines above 1 it needs launcher.",
    )
    dtype: TrainingDtype = Field(
        "auto",
        description="What is computed in; weights and optimizer are float32 in any case. 'auto' is bfloat16_autocast "
        "where the GPU or CPU has instructions for it, and float32 elsewhere and for models below 20M on a CPU.",
    )
    trained_positions_only: bool = Field(
        True,
        description="Logits are computed only where a token is trained on, and the prompt of a pair is read once. "
        "False: as TRL does, which is slower and differs by float rounding.",
    )
    frozen_dtype: FrozenDtype = Field(
        "float32",
        description="With lora: what the weights are held in that are not trained. 'bfloat16' takes half of the "
        "memory, rounds weights that are stored in float32 while adapters are trained, and computes in bfloat16.",
    )
    gpu: GpuSettings = Field(
        default_factory=GpuSettings, description="What trains faster or smaller on a GPU; the defaults suit any device."
    )
    memory_gib: float | None = Field(
        None,
        gt=0,
        description="GiB of one training process, by which a batch is divided where gradient_accumulation_steps is "
        "none. None: all of its GPU, or of the machine.",
    )
    num_threads: int | None = Field(
        None, ge=1, description="CPU threads of training. None: torch's choice. 1 is fastest on a busy machine."
    )
    save_every_minutes: float | None = Field(
        10.0,
        ge=0,
        description="Minutes between two states of training; a stage that is killed goes on from the last one. The "
        "newest state alone is kept, until the stage ends; it takes three times the disk of the float32 weights. None: "
        "no states.",
    )
    min_free_gpu_rate: float = Field(
        0.9, ge=0, le=1, description="Share of each GPU's memory that must be free before training starts."
    )
    handover_seconds: float = Field(
        120.0,
        ge=0,
        description="Seconds to wait until engines have ended and memory is free; after that the step fails.",
    )

    @model_validator(mode="after")
    def _has_one_number_of_processes(self) -> Self:
        if self.num_processes is not None and self.accelerate_config is not None:
            raise ValueError(
                f"num_processes is {self.num_processes}, and accelerate_config ({self.accelerate_config}) has a number "
                "of its own; keep one of them"
            )
        if self.launcher == ():
            raise ValueError("launcher is an empty list; write a command, such as [srun], or leave it out")
        return self

    @model_validator(mode="after")
    def _freezes_what_it_does_not_train(self) -> Self:
        if self.frozen_dtype == "bfloat16" and self.lora is None:
            raise ValueError("frozen_dtype is bfloat16, and without lora no weight is frozen; add lora, or remove it")
        if self.gpu.quantization == "4bit" and self.lora is None:
            raise ValueError("gpu.quantization is 4bit, and without lora no weight is frozen; add lora, or remove it")
        if self.frozen_dtype == "bfloat16" and self.dtype == "float32":
            raise ValueError("frozen_dtype is bfloat16, so products are too; set dtype to bfloat16_autocast or auto")
        return self

    @model_validator(mode="after")
    def _has_a_kernel_for_its_products(self) -> Self:
        if self.gpu.attention == "flash_attention_2" and self.dtype == "float32":
            raise ValueError(
                "gpu.attention is flash_attention_2, which has no kernel for float32, and dtype is float32; set dtype "
                "to bfloat16_autocast or auto, or remove attention"
            )
        return self

    def at_round(self, round_key: str) -> Self:
        """The settings as the checkpoint of a round is trained with them; they have no schedule any more."""
        changes = self.by_round[round_key] if round_key in self.by_round else RoundTraining()
        stages = {name: change_stage(getattr(self, name), getattr(changes, name)) for name in ("sft", *SECOND_LOSSES)}
        return self.model_copy(update={**stages, "by_round": {}})

    def find_stage(self, loss: SecondLoss | None) -> SecondSettings:
        """The settings of a loss that follows SFT; those of DPO where there is none."""
        settings: SecondSettings = getattr(self, loss or "dpo")
        return settings

    def for_label_model(self) -> Self:
        """The settings as the label model is trained with them."""
        return self.model_copy(update={"sft": change_stage(self.sft, self.label), "by_round": {}, "label": None})
