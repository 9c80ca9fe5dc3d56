"""The memory and disk that a model's stages need, by arithmetic on its shape; nothing is loaded.

Sources: the parameters and shapes of the model's own configuration; for activations Korthikanti et al., "Reducing
Activation Recomputation in Large Transformer Models" (arXiv 2205.05198), table 2. How it differs:
1. The MLP is gated: 2h + 4i numbers a token instead of 19h bytes; attention never stores its matrix (SDPA).
2. The residual stream and the norms are float32, since training keeps float32 weights under bfloat16 autocast.
3. Logits with their float32 loss and gradient are counted; with 152,064 tokens they outweigh the layers.

Figures are upper bounds for the longest row, but for the runtime (`RUNTIME_GIB`), which is a round number.
"""

from dataclasses import dataclass

GIB = 2**30
RUNTIME_GIB = 2.0
"""CUDA context, graphs, and the engine's buffers on one GPU; assumed, not measured."""
LOGITS_AT_ONCE = 1 << 24
"""Logits that are held at once where a model is only read: 64 MiB of float32, and a few copies."""
TRAINED_LOGITS_AT_ONCE = 1 << 26
"""The same in training where only trained positions are scored; a block's are computed again for its gradients."""
QUANTIZED_BYTES = 0.516
"""Bytes of a weight in NF4 with its constants quantized: 4.127 bits (arXiv 2305.14314, section 3)."""
MASTER_BYTES = 16
"""Bytes a trained parameter takes: float32 weight, gradient, and Adam's two moments."""


@dataclass(frozen=True)
class ModelShape:
    """What of a model's configuration its memory follows from."""

    num_parameters: int
    """All of them, tied ones once."""
    layer_parameters: int
    """Of the largest decoder layer."""
    lora_parameters_per_rank: int
    """Inputs and outputs of every linear layer but the output head: what a LoRA of rank 1 would train."""
    num_layers: int
    """Decoder layers."""
    hidden_size: int
    """Width of the residual stream."""
    intermediate_size: int
    """Width of the MLP."""
    num_heads: int
    """Query heads."""
    num_kv_heads: int
    """Key and value heads."""
    head_dim: int
    """Width of one head."""
    vocab_size: int
    """Number of different tokens it knows."""
    max_positions: int | None
    """Tokens of its context; None where the configuration says nothing."""
    scales_logits: bool = False
    """Whether the configuration scales or caps what the output embedding returns."""


@dataclass(frozen=True)
class Serving:
    """How an engine holds a model on its GPUs, or in a CPU's memory."""

    weight_bytes: int
    """Bytes of a parameter, and of a number of the KV cache: 2 for bfloat16."""
    tensor_parallel_size: int = 1
    """Devices that share one copy."""
    max_rows: int = 1
    """Rows that one copy decodes together, at most."""
    longest_row: int = 1
    """Tokens of the longest row, prompt and completion."""


@dataclass(frozen=True)
class ServingMemory:
    """What generating takes on each device."""

    weights_gib: float
    """The device's part of the weights."""
    cache_gib: float
    """The KV cache of `rows_at_once` rows of mean length."""
    total_gib: float
    """Both, and the runtime."""
    rows_at_once: int
    """Rows of mean length that one copy really decodes together; 0 where not even the longest row has room."""


@dataclass(frozen=True)
class Training:
    """How a model is trained."""

    max_length: int
    """Tokens of the longest row."""
    rows_at_once: int = 1
    """Rows that one process computes together: batch_size over processes and accumulation steps."""
    num_processes: int = 1
    """Processes, one a GPU."""
    is_sharded: bool = False
    """Whether FSDP divides weights, gradients and optimizer states over the processes."""
    lora_rank: int | None = None
    """Of the adapters; None trains everything."""
    gradient_checkpointing: bool = False
    """Whether activations are computed again in the backward pass."""
    is_preference: bool = False
    """A loss on pairs: two sequences a row."""
    num_reads: int | None = None
    """Passes forward over a row beside those of training: above 0 there is a reference model, a second one unless there
    are adapters. None: one for a loss on pairs, as DPO's, else none."""
    has_bounded_logits: bool = False
    """Whether no more than `TRAINED_LOGITS_AT_ONCE` are held, which a model that scales its logits cannot have."""
    frozen_bytes: int = 4
    """With adapters: bytes of a weight that is not trained."""
    is_quantized: bool = False
    """Whether those of the layers are held in four bits (`QUANTIZED_BYTES`)."""
    activation_bytes: int = 2
    """Bytes of an activation: 2 under bfloat16 autocast, 4 on a CPU."""

    @property
    def passes_beside(self) -> int:
        """`num_reads`, or what it stands for."""
        return int(self.is_preference) if self.num_reads is None else self.num_reads


@dataclass(frozen=True)
class TrainingMemory:
    """What training takes on each device, in GiB."""

    states_gib: float
    """Weights, gradients, Adam's moments, reference model, adapters: the device's part."""
    copies_gib: float
    """bfloat16 copies of weights that autocast keeps, and under FSDP the layers that are gathered."""
    activations_gib: float
    """What the backward pass needs, of the longest rows."""
    logits_gib: float
    """Logits, loss and their gradient."""
    total_gib: float
    """All, and the runtime on a GPU."""


def count_cache_bytes(shape: ModelShape, *, weight_bytes: int, tensor_parallel_size: int = 1) -> int:
    """Bytes of one token in the KV cache of one device: keys and values of every layer, grouped-query heads.

    A head is not divided: with more devices than key-value heads, each holds one.

    >>> qwen2_7b = ModelShape(7615616512, 233057792, 2523136, 28, 3584, 18944, 28, 4, 128, 152064, 131072)
    >>> count_cache_bytes(qwen2_7b, weight_bytes=2)
    57344
    """
    heads = -(-shape.num_kv_heads // tensor_parallel_size)
    return 2 * shape.num_layers * heads * shape.head_dim * weight_bytes


def forecast_serving(
    shape: ModelShape, serving: Serving, *, mean_tokens: float, budget_gib: float | None, runtime_gib: float
) -> ServingMemory:
    """What generating takes on each device.

    Args:
        shape: the model's.
        serving: how it is held.
        mean_tokens: of a row, prompt and completion, above 0.
        budget_gib: memory the engine may take on a device; None where nothing is known of it.
        runtime_gib: what is taken beside weights and cache.

    Returns:
        The memory. Where the cache of all rows has no room, fewer rows run at once; where the longest row alone has
        none, `rows_at_once` is 0 and the total is what that row would need.
    """
    weights = shape.num_parameters * serving.weight_bytes / serving.tensor_parallel_size / GIB
    token_gib = (
        count_cache_bytes(shape, weight_bytes=serving.weight_bytes, tensor_parallel_size=serving.tensor_parallel_size)
        / GIB
    )
    rows = serving.max_rows
    if budget_gib is not None:
        room = budget_gib - weights - runtime_gib
        if room < serving.longest_row * token_gib:
            cache = serving.longest_row * token_gib
            return ServingMemory(weights, cache, weights + cache + runtime_gib, 0)
        rows = max(1, min(rows, int(room / (mean_tokens * token_gib))))
    cache = rows * mean_tokens * token_gib
    return ServingMemory(weights, cache, weights + cache + runtime_gib, rows)


def forecast_training(shape: ModelShape, training: Training, *, runtime_gib: float) -> TrainingMemory:
    """What training takes on each device: float32 weights and states, activations of the longest rows.

    Args:
        shape: the model's.
        training: how it is trained.
        runtime_gib: what is taken beside.
    """
    parts = training.num_processes if training.is_sharded else 1
    tokens = training.max_length * training.rows_at_once * (2 if training.is_preference else 1)
    states = _count_state_bytes(shape, training) / parts / GIB
    copies = _count_copy_bytes(shape, training) / GIB
    layer = count_layer_bytes(shape, activation_bytes=training.activation_bytes)
    per_token = shape.num_layers * layer
    if training.gradient_checkpointing:
        per_token = shape.num_layers * shape.hidden_size * 4 + layer
    activations = tokens * per_token / GIB
    num_logits = tokens * shape.vocab_size
    if training.has_bounded_logits and not shape.scales_logits:
        num_logits = min(num_logits, max(TRAINED_LOGITS_AT_ONCE, shape.vocab_size))
    logits = num_logits * (training.activation_bytes + 12) / GIB
    total = states + copies + activations + logits + runtime_gib
    return TrainingMemory(states, copies, activations, logits, total)


def count_layer_bytes(shape: ModelShape, *, activation_bytes: int) -> int:
    """Bytes that one token leaves for the backward pass of one decoder layer."""
    return round((6.5 * shape.hidden_size + 4 * shape.intermediate_size) * activation_bytes + 16 * shape.hidden_size)


def count_trained_parameters(shape: ModelShape, lora_rank: int | None) -> int:
    """Parameters that an optimizer step moves."""
    return shape.num_parameters if lora_rank is None else lora_rank * shape.lora_parameters_per_rank


def _count_state_bytes(shape: ModelShape, training: Training) -> float:
    trained = count_trained_parameters(shape, training.lora_rank) * MASTER_BYTES
    if training.lora_rank is not None:
        layers = shape.num_layers * shape.layer_parameters if training.is_quantized else 0
        return trained + layers * QUANTIZED_BYTES + (shape.num_parameters - layers) * training.frozen_bytes
    return trained + (shape.num_parameters * 4 if training.passes_beside else 0)


def _count_copy_bytes(shape: ModelShape, training: Training) -> int:
    if training.activation_bytes == 4 and not training.is_sharded:
        return 0
    if training.is_sharded:
        # embeddings, head and two layers gathered at once; gradients of the same size where they are trained
        gathered = shape.num_parameters - (shape.num_layers - 2) * shape.layer_parameters
        return gathered * training.activation_bytes * (1 if training.lora_rank is not None else 2)
    # Autocast keeps its copies of trained weights; those of frozen ones stay until the backward pass has read them.
    # Weights in four bits are unfolded layer by layer.
    one_layer = training.lora_rank is not None and (training.gradient_checkpointing or training.is_quantized)
    return (shape.layer_parameters if one_layer else shape.num_parameters) * training.activation_bytes


def count_checkpoint_bytes(shape: ModelShape, *, stored_bytes: int, lora_rank: int | None, num_stages: int) -> int:
    """Bytes of a checkpoint on disk: merged weights, and with LoRA an adapter of the base model in float32.

    Args:
        shape: the model's.
        stored_bytes: bytes of a parameter on disk.
        lora_rank: of one stage; None trains everything.
        num_stages: stages of training since the base model, whose adapters add up.
    """
    adapter = 0 if lora_rank is None else count_trained_parameters(shape, lora_rank) * num_stages * 4
    return shape.num_parameters * stored_bytes + adapter
