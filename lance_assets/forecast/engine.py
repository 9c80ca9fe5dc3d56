"""The memory and hours that an experiment's engines need on a machine, and what will not fit there."""

from dataclasses import dataclass

from lance_assets.algorithms.forecast.costs import (
    GIB,
    RUNTIME_GIB,
    Serving,
    ServingMemory,
    forecast_serving,
)
from lance_assets.algorithms.forecast.machine_rates import (
    add_known,
    count_batched_seconds,
    count_hours,
    derive_decode_rate,
    derive_prefill_rate,
)
from lance_assets.algorithms.forecast.round_forecast import StageForecast
from lance_assets.forecast.throughput import Machine, ThroughputTable
from lance_assets.settings.engines import EngineSettings
from resources.models.model_shapes import FoundModel
from resources.training.precision import CPU_RUNTIME_GIB, read_host_gib

MORE_TOKENS = 128
"""Of prompts of another length behind which decoding is measured too: the more a row has before it, the longer a step
takes. So many tokens more are reckoned with at most. More was not measured, and what is long in a prompt is most often
the same for all rows, which is kept and attended to once."""


def find_memory(machine: Machine) -> float:
    """GiB of one device; for a row without memory, the GiB of this computer."""
    return machine.memory_gib if machine.memory_gib is not None else read_host_gib()


def find_runtime(machine: Machine) -> float:
    """GiB that are used beside weights, cache and activations."""
    return RUNTIME_GIB if machine.device == "cuda" else CPU_RUNTIME_GIB


@dataclass(frozen=True)
class Host:
    """An engine with its model on a machine."""

    engine: EngineSettings
    """The engine's settings in the experiment's file."""
    model: FoundModel | None
    """The model; None if a server holds it."""
    machine: Machine
    """The machine it runs on."""
    table: ThroughputTable
    """Tokens per second of machines and engines."""
    longest_asked: float
    """Tokens of the longest prompt."""
    max_new_tokens: int
    """Most tokens of a sample; a longer one is cut."""

    @property
    def device(self) -> str:
        """The device that the engine runs on, by the file and the machine."""
        return "cpu" if self.engine.device == "cpu" else self.machine.device

    @property
    def serving(self) -> Serving:
        """How the engine holds the model in memory."""
        settings, bytes_of = self.engine.vllm, {"float32": 4, "bfloat16": 2, "float16": 2}
        dtype = self.engine.dtype
        weight_bytes = bytes_of[dtype] if dtype != "auto" else 2 if self.device == "cuda" else 4
        if self.engine.kind != "vllm":
            longest = round(self.longest_asked) + self.max_new_tokens
            return Serving(weight_bytes, max_rows=self.engine.batch_size, longest_row=longest)
        context = self.model.shape.max_positions if self.model is not None else None
        longest = settings.max_model_len or context or round(self.longest_asked) + self.max_new_tokens
        return Serving(weight_bytes, settings.tensor_parallel_size, settings.max_num_seqs, longest)

    @property
    def num_devices(self) -> int:
        """The number of devices that the engine uses."""
        vllm = self.engine.vllm
        return vllm.tensor_parallel_size * vllm.data_parallel_size if self.engine.kind == "vllm" else 1

    def forecast_memory(self, mean_tokens: float) -> ServingMemory | None:
        """The memory that generating needs on a device; None for a server."""
        if self.model is None:
            return None
        memory, runtime = find_memory(self.machine), find_runtime(self.machine)
        if self.engine.kind == "vllm" and self.device == "cuda":
            memory *= self.engine.vllm.gpu_memory_utilization
        elif self.engine.kind == "vllm":
            weights = self.model.shape.num_parameters * self.serving.weight_bytes / GIB
            memory = min(memory, weights + runtime + self.engine.vllm.kv_cache_gib)
        return forecast_serving(
            self.model.shape, self.serving, mean_tokens=mean_tokens, budget_gib=memory, runtime_gib=runtime
        )

    def find_rates(self, mean_tokens: float) -> tuple[float | None, float | None]:
        """Prompt and completion tokens per second, measured or derived; None if unknown."""
        memory = self.forecast_memory(mean_tokens)
        if self.model is None or memory is None or not memory.rows_at_once:
            return None, None
        shape, vllm = self.model.shape, self.engine.vllm
        measured = self.table.find_measured(self.machine.name, self.engine.kind, shape.num_parameters)
        if measured is not None:
            prefill = measured.scale(measured.prefill_tokens_per_second, shape.num_parameters)
            decode = measured.scale(measured.decode_tokens_per_second, shape.num_parameters)
            if prefill is not None and decode is not None:
                return prefill, decode
        if self.machine.peak is None:
            return None, None
        efficiency = self.table.find_efficiency(self.engine.kind).shares
        prefill = derive_prefill_rate(
            shape,
            self.machine.peak,
            efficiency,
            num_devices=self.num_devices,
            tensor_parallel_size=self.serving.tensor_parallel_size,
        )
        decode = derive_decode_rate(
            shape,
            self.machine.peak,
            efficiency,
            self.serving,
            rows_at_once=memory.rows_at_once,
            mean_tokens=mean_tokens,
            num_copies=vllm.data_parallel_size if self.engine.kind == "vllm" else 1,
        )
        return prefill, decode

    def _find_read_rate(self) -> float | None:
        """Tokens per second of whole rows, where that was measured."""
        if self.model is None:
            return None
        number = self.model.shape.num_parameters
        measured = self.table.find_measured(self.machine.name, self.engine.kind, number)
        return None if measured is None else measured.scale(measured.read_tokens_per_second, number)

    def count_hours(self, stage: StageForecast) -> float | None:
        """Hours of a stage; None if the rates are unknown. For a server they follow from its limits, if it has any."""
        if not stage.rows:
            return 0.0
        tokens = stage.prompt_tokens + stage.completion_tokens
        if self.model is None:
            limits = self.engine.openai
            assert limits is not None, "an engine without a model is a server"
            per_minute = ((tokens, limits.tokens_per_minute), (stage.rows, limits.requests_per_minute))
            return max((asked / limit / 60 for asked, limit in per_minute if limit is not None), default=None)
        prefill, decode = self.find_rates(tokens / stage.rows)
        if not stage.completion_tokens:
            prefill = self._find_read_rate() or prefill
        # Equal prompts are read once: vLLM does so by its prefix cache, and the transformers engine within a batch.
        is_shared = self.engine.kind == "transformers" or self.engine.vllm.prefix_caching
        read = stage.prompt_tokens / (stage.num_samples if is_shared else 1)
        return add_known(count_hours(read, prefill), self._count_decoding(stage, decode))

    def _count_decoding(self, stage: StageForecast, rate: float | None) -> float | None:
        """Hours of decoding: by its steps where these were measured, else by the rate of full batches."""
        hours = count_hours(stage.completion_tokens, rate)
        number = 0 if self.model is None else self.model.shape.num_parameters
        measured = self.table.find_measured(self.machine.name, self.engine.kind, number)
        if measured is None or rate is None or not stage.completion_tokens or self.engine.kind != "transformers":
            return hours
        if measured.decode_step_seconds is None or measured.decode_rows is None:
            return hours
        one = measured.scale(1 / measured.decode_step_seconds, number)
        if one is None:
            return hours
        context = stage.prompt_tokens / stage.rows + stage.completion_tokens / stage.rows / 2
        longer: dict[str, float] = {}
        if measured.context_seconds and measured.decode_context is not None:
            # For another model in the proportion of its step of one row, which takes 1 / one.
            seconds = measured.context_seconds / (measured.decode_step_seconds * one)
            more = min(context - measured.decode_context, MORE_TOKENS)
            longer = {"more_context": more, "context_seconds": seconds}
        seconds = count_batched_seconds(
            stage.rows,
            stage.completion_tokens,
            limit=self.max_new_tokens,
            batch_size=self.engine.batch_size,
            rate=rate,
            rows_measured=measured.decode_rows,
            step_seconds=1 / one,
            **longer,
        )
        return seconds / 3600

    def find_problems(self, mean_tokens: float, *, what: str) -> list[str]:
        """What will not fit when this engine generates, each with its remedy."""
        if self.model is None:
            return []
        serving, shape, found = self.serving, self.model.shape, []
        size = serving.tensor_parallel_size
        if self.device == "cuda" and self.num_devices > self.machine.num_devices:
            found.append(
                f"{what}: tensor_parallel_size x data_parallel_size is {self.num_devices}, and {self.machine.name} has "
                f"{self.machine.num_devices} GPUs; lower them, or choose a machine with more"
            )
        if shape.num_heads % size:
            divisors = [number for number in range(1, shape.num_heads + 1) if shape.num_heads % number == 0]
            found.append(
                f"{what}: tensor_parallel_size {size} does not divide the model's {shape.num_heads} heads; "
                f"choose one of {', '.join(map(str, divisors))}, and data_parallel_size for the rest"
            )
        longest = round(self.longest_asked) + self.max_new_tokens
        context = min(filter(None, (serving.longest_row, shape.max_positions)))
        if longest > context:
            found.append(
                f"{what}: the longest seed has {self.longest_asked:.0f} tokens, with max_new_tokens {longest}, but a "
                f"row has room for {context}; raise engine.vllm.max_model_len, or leave long seeds out"
            )
        memory = self.forecast_memory(mean_tokens)
        if memory is not None and not memory.rows_at_once:
            remedy = "raise tensor_parallel_size, lower max_model_len" if self.engine.kind == "vllm" else "use vllm"
            found.append(
                f"{what}: {memory.total_gib:.1f} GiB ({memory.weights_gib:.1f} weights, {memory.cache_gib:.1f} cache "
                f"of the longest row) on {find_memory(self.machine):.1f} GiB; {remedy}, or choose a larger machine"
            )
        return found
