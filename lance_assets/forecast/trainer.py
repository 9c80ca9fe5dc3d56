"""The memory and rate of training an experiment's model on a machine, and what will not fit there."""

from dataclasses import dataclass, replace
from pathlib import Path

from lance_assets.algorithms.forecast.costs import Training, TrainingMemory, forecast_training
from lance_assets.algorithms.forecast.machine_rates import derive_train_rate, scale_by_passes
from lance_assets.algorithms.forecast.precision import Precision, choose_precision
from lance_assets.forecast.engine import find_memory, find_runtime
from lance_assets.forecast.throughput import Machine, ThroughputTable
from lance_assets.settings.training import TrainingSettings
from resources.machine.instructions import has_bfloat16_instructions
from resources.models.model_shapes import FoundModel
from resources.training.gpu.choosing import SHARDED_4BIT, explain_no_gpu
from resources.training.launching import Processes, explain_unstarted, read_processes
from resources.training.precision import TrainingDevice, bounds_logits, settle
from resources.training.stage_settings import SftSettings, TrainingDtype


@dataclass(frozen=True)
class Trainer:
    """How a machine trains an experiment's model."""

    settings: TrainingSettings
    """The training settings in the experiment's file."""
    folder: Path
    """The experiment's folder, which holds its accelerate configuration."""
    model: FoundModel
    """The model that is trained."""
    machine: Machine
    """The machine it would run on."""
    table: ThroughputTable
    """Tokens per second of machines and engines."""

    def read_processes(self) -> Processes:
        """The processes that train together, by the settings.

        Raises:
            ValueError: the file is no such configuration.
        """
        name = self.settings.accelerate_config
        if name is None:
            return Processes(self.settings.num_processes or 1, 1, is_sharded=False)
        return read_processes(self.folder / Path(name).expanduser())

    def describe(self, stage: SftSettings, *, is_preference: bool) -> Training:
        """A training stage in the form that the arithmetic takes."""
        processes = self.read_processes()
        num_processes = processes.num_processes
        training = Training(
            max_length=stage.max_length,
            num_processes=num_processes,
            is_sharded=processes.is_sharded,
            lora_rank=self.settings.lora.r if self.settings.lora is not None else None,
            gradient_checkpointing=stage.gradient_checkpointing,
            is_preference=is_preference and stage.is_paired,
            num_reads=stage.num_reads,
            has_bounded_logits=bounds_logits(
                self.find_device(),
                self.settings.trained_positions_only and stage.is_fused,
                num_processes=num_processes,
            ),
            frozen_bytes=2 if self.settings.frozen_dtype == "bfloat16" else 4,
            is_quantized=self.settings.gpu.quantization == "4bit",
        )
        num_parts = self.count_parts(stage, training)
        return replace(
            training,
            rows_at_once=max(1, stage.batch_size // (num_processes * num_parts)),
            activation_bytes=2 if self.choose_precision() == "bfloat16_autocast" else 4,
        )

    def find_device(self) -> TrainingDevice:
        """What each process trains on."""
        machine, memory = self.machine, self.settings.memory_gib or find_memory(self.machine)
        # A CPU without a memory of its own in the table is the one that the plan is made on.
        has_bfloat16 = machine.device == "cuda" or (machine.memory_gib is None and has_bfloat16_instructions())
        return TrainingDevice(machine.device, memory, has_bfloat16)

    @property
    def wanted_dtype(self) -> TrainingDtype:
        """What the file asks for of the products; weights in bfloat16 are multiplied in bfloat16."""
        return "bfloat16_autocast" if self.settings.frozen_dtype == "bfloat16" else self.settings.dtype

    def choose_precision(self) -> Precision:
        """What the products are computed in."""
        device, number = self.find_device(), self.model.shape.num_parameters
        return choose_precision(
            self.wanted_dtype, device=device.kind, num_parameters=number, has_bfloat16=device.has_bfloat16
        )

    def count_parts(self, stage: SftSettings, training: Training) -> int:
        """Parts of a batch, for rows as long as `max_length`; 1 where processes divide no batch, which is a problem."""
        if stage.wanted_parts is not None:
            return stage.wanted_parts
        if stage.batch_size % training.num_processes:
            return 1
        settled = settle(
            self.find_device(),
            self.model.shape,
            training,
            dtype=self.wanted_dtype,
            batch_size=stage.batch_size,
            num_parts=None,
        )
        return settled.num_parts

    def forecast_memory(self, training: Training) -> TrainingMemory:
        """The memory that training needs on a device."""
        return forecast_training(self.model.shape, training, runtime_gib=find_runtime(self.machine))

    def find_rate(self, training: Training) -> float | None:
        """Tokens per second, measured or derived; None if unknown.

        A loss that was not measured itself has the rate of one that was, by the passes that each makes over a token.
        """
        shape = self.model.shape
        row = self.table.find_measured(self.machine.name, "transformers", shape.num_parameters)
        if row is not None:
            pairs = row.scale(row.pair_tokens_per_second, shape.num_parameters)
            rows = row.scale(row.train_tokens_per_second, shape.num_parameters)
            if training.is_preference and pairs is not None:
                return scale_by_passes(pairs, measured=replace(training, num_reads=1), training=training)
            if rows is not None:
                return scale_by_passes(rows, measured=replace(training, num_reads=0), training=training)
        if self.machine.peak is None:
            return None
        return derive_train_rate(shape, self.machine.peak, self.table.find_efficiency("transformers").shares, training)

    def find_problems(self, stage: SftSettings, training: Training, *, what: str) -> list[str]:
        """What will not fit when this model is trained, each with its remedy."""
        found = []
        name = self.settings.accelerate_config
        if name is not None and self.settings.launcher is None and self.read_processes().num_machines > 1:
            found.append(f"{what}: {explain_unstarted(self.folder / Path(name).expanduser())}")
        if self.machine.device != "cuda":
            found += [explain_no_gpu(*one) for one in self.settings.gpu.on_gpu_alone.items()]
        if training.is_quantized and training.is_sharded:
            found.append(SHARDED_4BIT)
        parts = training.num_processes * self.count_parts(stage, training)
        if stage.batch_size % parts:
            found.append(
                f"{what}: batch_size {stage.batch_size} is not a multiple of processes x accumulation = {parts}"
            )
        if self.machine.device == "cuda" and training.num_processes > self.machine.num_devices:
            found.append(
                f"{what}: {training.num_processes} processes on {self.machine.num_devices} GPUs of "
                f"{self.machine.name}; correct num_processes of training or of accelerate_config, or choose a machine "
                "with more"
            )
        memory, room = self.forecast_memory(training), find_memory(self.machine)
        if memory.total_gib > room:
            remedies = []
            if training.lora_rank is None:
                remedies.append("train with lora")
            if not training.is_sharded and not training.is_quantized:
                remedies.append("shard over more GPUs (training.accelerate_config with FSDP)")
            if not training.gradient_checkpointing:
                remedies.append("gradient_checkpointing: true")
            if training.rows_at_once > 1:
                remedies.append("raise gradient_accumulation_steps")
            remedies.append("lower max_length, or choose a larger machine")
            found.append(
                f"{what}: {memory.total_gib:.1f} GiB on {room:.1f} GiB ({memory.states_gib:.1f} weights and optimizer, "
                f"{memory.copies_gib:.1f} copies, {memory.activations_gib:.1f} activations, {memory.logits_gib:.1f} "
                f"logits); {', '.join(remedies)}"
            )
        return found
