"""What a machine trains in: its precision, and the parts that its memory has room for.

The choice depends on where training runs: on its memory and on the instructions of its processor. It is therefore in no
fingerprint, as the choice of a GPU is in none; it is recorded with each result. By the number of parts the sums differ
in their rounding (`choose_num_parts` names the exception), by the precision in that of bfloat16 products.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from lance_assets.algorithms.forecast.batch_parts import choose_num_parts
from lance_assets.algorithms.forecast.costs import RUNTIME_GIB, ModelShape, Training
from lance_assets.algorithms.forecast.precision import Device, Precision, choose_precision
from resources.machine.instructions import has_bfloat16_instructions
from resources.training.stage_settings import TrainingDtype

CPU_RUNTIME_GIB = 0.65
"""GiB of Python with torch and what trains or generates, without a model; measured on two CPU cores, before the first
step of SFT."""
GIB = 2**30
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class TrainingDevice:
    """What one process trains on."""

    kind: Device
    """A CPU or a GPU."""
    memory_gib: float
    """The GPU's memory, or this process's share of the machine's: all of it, whatever is free at the moment."""
    has_bfloat16: bool
    """Whether it multiplies bfloat16 by instructions of its own."""

    @property
    def runtime_gib(self) -> float:
        """What is taken beside training."""
        return RUNTIME_GIB if self.kind == "cuda" else CPU_RUNTIME_GIB


def find_device(memory_gib: float | None, *, num_local_processes: int = 1) -> TrainingDevice:
    """The device of this process: a GPU where torch sees one, else the CPU.

    Args:
        memory_gib: of one process, in place of what is found.
        num_local_processes: processes of this machine that share its memory when they train on its CPU.
    """
    import torch

    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / GIB
        return TrainingDevice("cuda", memory_gib or found, torch.cuda.is_bf16_supported())
    return TrainingDevice("cpu", memory_gib or read_host_gib() / num_local_processes, has_bfloat16_instructions())


def read_host_gib() -> float:
    """All memory of this machine, or the limit of the container where that is less."""
    total = psutil.virtual_memory().total
    limit = _CONTAINER_LIMIT.read_text().strip() if _CONTAINER_LIMIT.is_file() else "max"
    return (min(total, int(limit)) if limit.isdigit() else total) / GIB


def bounds_logits(device: TrainingDevice, trained_positions_only: bool, *, num_processes: int) -> bool:
    """Whether logits are scored in blocks (`resources.training.trained_positions`), for a model that permits it."""
    return trained_positions_only and device.kind == "cpu" and num_processes == 1


@dataclass(frozen=True)
class Settled:
    """How a stage is computed, once model, rows and machine are known."""

    precision: Precision
    """Of the products."""
    num_parts: int
    """Parts of a batch in each process: TRL's gradient_accumulation_steps."""

    def describe(self) -> str:
        """In words, for a person."""
        parts = "whole batches" if self.num_parts == 1 else f"batches in {self.num_parts} parts"
        return f"{self.precision}, {parts}"


def settle(
    device: TrainingDevice,
    shape: ModelShape,
    training: Training,
    *,
    dtype: TrainingDtype,
    batch_size: int,
    num_parts: int | None,
) -> Settled:
    """How a stage is computed on a device.

    Args:
        device: of each process.
        shape: the model's.
        training: how it is trained; `activation_bytes` and `rows_at_once` are not read.
        dtype: what the experiment asks for.
        batch_size: rows of one optimizer step over all processes.
        num_parts: what the experiment asks for; None for what the memory has room for.

    Raises:
        ValueError: the batch cannot be divided over processes and parts.
    """
    precision = choose_precision(
        dtype, device=device.kind, num_parameters=shape.num_parameters, has_bfloat16=device.has_bfloat16
    )
    if num_parts is None:
        num_parts = choose_num_parts(
            shape,
            replace(training, activation_bytes=2 if precision == "bfloat16_autocast" else 4),
            batch_size=batch_size,
            device=device.kind,
            memory_gib=device.memory_gib,
            runtime_gib=device.runtime_gib,
        )
    if batch_size % (training.num_processes * num_parts):
        raise ValueError(
            f"batch_size {batch_size} must be a multiple of processes x accumulation = "
            f"{training.num_processes * num_parts}"
        )
    return Settled(precision, num_parts)
