"""In how many parts a batch is computed, by arithmetic on model and memory.

A batch is the rows of one optimizer step. Its parts are computed one after another and their gradients are added, so
that a part alone has to fit. The arithmetic of `costs.forecast_training` says what a part takes beside the states.
Measured on SmolLM2-135M on two CPU cores under bfloat16 autocast, without the output embedding: rows of 300 tokens
take 4.9 ms a token one by one, 3.4 in parts of two, 3.1 of four, 2.5 of eight, since each part casts all weights and
adds all gradients. A GPU needs many tokens at once all the more.
"""

from dataclasses import replace

from lance_assets.algorithms.forecast.costs import ModelShape, Training, forecast_training
from lance_assets.algorithms.forecast.precision import Device

PART_SHARE: dict[Device, float] = {"cpu": 1 / 4, "cuda": 1 / 2}
"""Of a device's memory: the most that activations and logits of one part take."""
FILLED_SHARE = 0.9
"""Of a device's memory: the most that all of training takes; the rest is for other programs and for fragmentation."""


def choose_num_parts(
    shape: ModelShape, training: Training, *, batch_size: int, device: Device, memory_gib: float, runtime_gib: float
) -> int:
    """Into how many parts each process divides its share of a batch: the fewest that have room.

    A part has room when its activations and logits take at most `PART_SHARE` of the memory, and all of training at most
    `FILLED_SHARE`. Where even parts of one row have none, they have one row, and the plan says that training does not
    fit.

    The parts of SFT are weighted by their tokens, so their number changes a sum by rounding alone. Those of DPO count
    alike, which is the same sum only if each has as many pairs, also in the last, incomplete batch of a pass: so a
    batch of DPO is computed whole or pair by pair. Its NLL term (`sft_loss_weight`) is a mean over the tokens of a
    part: computed whole it weighs a long completion more than a short one, and pair by pair all alike.

    Args:
        shape: the model's.
        training: how it is trained; `rows_at_once` is not read.
        batch_size: rows of one optimizer step over all processes, a multiple of `training.num_processes`.
        device: what each process trains on.
        memory_gib: memory of one process: of its GPU, or its share of the machine's.
        runtime_gib: what is taken beside training.

    Raises:
        ValueError: the processes do not divide the batch.
    """
    rows, rest = divmod(batch_size, training.num_processes)
    if rest or not rows:
        raise ValueError(
            f"batch_size {batch_size} must be a multiple of the {training.num_processes} processes; change one of them"
        )
    for num_parts in range(1, rows):
        if rows % num_parts or (training.is_preference and num_parts > 1):
            continue
        memory = forecast_training(shape, replace(training, rows_at_once=rows // num_parts), runtime_gib=runtime_gib)
        has_room = memory.activations_gib + memory.logits_gib <= PART_SHARE[device] * memory_gib
        if has_room and memory.total_gib <= FILLED_SHARE * memory_gib:
            return num_parts
    return rows
