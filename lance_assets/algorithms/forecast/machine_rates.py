"""Tokens a second of a machine, measured or derived from its data sheet, and the hours they make.

The arithmetic of the roofline: reading a prompt and training are bound by the peak of multiplications (2 a parameter
and token forward, 4 backward), decoding by reading the weights and the KV cache once a step and by the multiplications
of its rows. The efficiencies are the share of the data sheet's peak that is reached, and are assumptions until
measured.
"""

import math
from dataclasses import dataclass

from lance_assets.algorithms.forecast.costs import ModelShape, Serving, Training, count_cache_bytes

LARGEST_RATIO = 4.0
"""A measured rate is carried over to models up to so many times larger or smaller, in inverse proportion."""


@dataclass(frozen=True)
class Peak:
    """A machine's data sheet, for one of its devices."""

    teraflops: float
    """bfloat16 multiplications and additions a second, dense, in 10^12."""
    gigabytes_per_second: float
    """Memory bandwidth, in 10^9 bytes."""


@dataclass(frozen=True)
class Efficiency:
    """Shares of the peak that are reached, each in (0, 1]."""

    prefill: float
    """Of the multiplications, reading prompts."""
    decode: float
    """Of the bandwidth, decoding."""
    train: float
    """Of the multiplications, training."""
    parallel: float
    """What remains of the above where several devices share a model."""


def scale_measured(rate: float, *, measured_parameters: float, num_parameters: float) -> float | None:
    """A rate measured on one model, for another, in inverse proportion to their sizes.

    Returns:
        Tokens a second; None where the sizes differ by more than `LARGEST_RATIO`.

    >>> scale_measured(5000.0, measured_parameters=1.7e6, num_parameters=3.4e6)
    2500.0
    >>> scale_measured(5000.0, measured_parameters=1.7e6, num_parameters=7.6e9) is None
    True
    """
    ratio = measured_parameters / num_parameters
    return rate * ratio if 1 / LARGEST_RATIO <= ratio <= LARGEST_RATIO else None


def derive_prefill_rate(
    shape: ModelShape, peak: Peak, efficiency: Efficiency, *, num_devices: int, tensor_parallel_size: int
) -> float:
    """Prompt tokens a second of all copies together, without any that is cached."""
    share = efficiency.prefill * (efficiency.parallel if tensor_parallel_size > 1 else 1.0)
    return num_devices * peak.teraflops * 1e12 * share / (2 * shape.num_parameters)


def derive_decode_rate(
    shape: ModelShape,
    peak: Peak,
    efficiency: Efficiency,
    serving: Serving,
    *,
    rows_at_once: int,
    mean_tokens: float,
    num_copies: int,
) -> float:
    """Completion tokens a second of all copies together.

    Args:
        shape: the model's.
        peak: of one device.
        efficiency: what of it is reached.
        serving: how a copy is held.
        rows_at_once: rows that one copy decodes together, at least 1.
        mean_tokens: of a row in the cache.
        num_copies: data-parallel copies.
    """
    size = serving.tensor_parallel_size
    cache = count_cache_bytes(shape, weight_bytes=serving.weight_bytes, tensor_parallel_size=size)
    read = shape.num_parameters * serving.weight_bytes / size + rows_at_once * mean_tokens * cache
    multiplied = 2 * shape.num_parameters * rows_at_once / size
    share = efficiency.parallel if size > 1 else 1.0
    seconds = read / (peak.gigabytes_per_second * 1e9 * efficiency.decode * share)
    seconds += multiplied / (peak.teraflops * 1e12 * efficiency.prefill * share)
    return num_copies * rows_at_once / seconds


def count_batched_seconds(
    rows: float,
    tokens: float,
    *,
    limit: int,
    batch_size: int,
    rate: float,
    rows_measured: int,
    step_seconds: float,
    more_context: float = 0.0,
    context_seconds: float = 0.0,
) -> float:
    """Seconds of decoding in batches that rows leave as they end, so that the last steps of a batch have few rows.

    A step takes a time of its own, for reading the weights, and one for each row. Both follow from a step of one row
    and one of many. A batch takes as many steps as its longest row has tokens; lengths are taken as those of an
    exponential distribution, whose largest of n is 1 + ln(n) means, and are cut at the limit.

    Args:
        rows: of the stage, above 0.
        tokens: new tokens of all rows.
        limit: tokens at which a row is cut.
        batch_size: rows decoded together.
        rate: tokens a second that were measured.
        rows_measured: the rows that it was measured with.
        step_seconds: of a step of one row.
        more_context: tokens before a new one, mean over the stage, above those of the measurement; below 0 for fewer.
        context_seconds: that each of these takes in a row's part of a step.

    >>> # 64 rows in 0.1 s a step and one in 0.037 s: a step takes 0.036 s, and each row 0.001 s.
    >>> given = {"batch_size": 64, "rate": 640.0, "rows_measured": 64, "step_seconds": 0.037}
    >>> round(count_batched_seconds(64, 64 * 100, limit=100, **given), 3)
    10.0
    >>> round(count_batched_seconds(64, 64 * 20, limit=100, **given), 3)
    4.88
    >>> round(count_batched_seconds(64, 64 * 100, limit=100, more_context=100, context_seconds=2e-6, **given), 3)
    11.28
    """
    each = max(0.0, (rows_measured / rate - step_seconds) / max(1, rows_measured - 1))
    fixed = max(0.0, step_seconds - each)
    each = max(0.0, each + more_context * context_seconds)
    mean = tokens / rows
    steps = min(float(limit), mean * (1 + math.log(max(1.0, min(rows, batch_size)))))
    return tokens * each + math.ceil(rows / batch_size) * max(steps, mean) * fixed


def count_passes(training: Training) -> int:
    """Multiplications and additions a parameter and trained token: 2 forward, 4 backward, and what is read beside.

    >>> count_passes(Training(max_length=8)), count_passes(Training(max_length=8, is_preference=True))
    (6, 8)
    """
    passes = 2 + (2 if training.lora_rank is not None else 4)
    passes += 2 if training.gradient_checkpointing else 0
    return passes + 2 * training.passes_beside


def scale_by_passes(rate: float, *, measured: Training, training: Training) -> float:
    """A rate that one way of training was measured at, for another one of the same model and machine.

    >>> scale_by_passes(400.0, measured=Training(max_length=8), training=Training(max_length=8, is_preference=True))
    300.0
    """
    return rate * count_passes(measured) / count_passes(training)


def derive_train_rate(shape: ModelShape, peak: Peak, efficiency: Efficiency, training: Training) -> float:
    """Tokens a second that are trained on, over all processes; a pair's both sides count."""
    passes = count_passes(training)
    share = efficiency.train * (efficiency.parallel if training.num_processes > 1 else 1.0)
    return training.num_processes * peak.teraflops * 1e12 * share / (passes * shape.num_parameters)


def add_known(*values: float | None) -> float | None:
    """The sum, or None where one of them is unknown.

    >>> add_known(1.0, None) is None
    True
    """
    return None if any(value is None for value in values) else sum(value for value in values if value is not None)


def count_hours(num_tokens: float, rate: float | None) -> float | None:
    """Hours that tokens take; None where the rate is unknown and there are any.

    >>> count_hours(7200, 2.0)
    1.0
    """
    if not num_tokens:
        return 0.0
    return None if rate is None else num_tokens / rate / 3600
