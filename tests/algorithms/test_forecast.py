"""Memory, disk and rates of Qwen2-7B worked by hand, and what must hold for every model."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.forecast.costs import (
    GIB,
    ModelShape,
    Serving,
    Training,
    count_cache_bytes,
    count_checkpoint_bytes,
    count_layer_bytes,
    count_trained_parameters,
    forecast_serving,
    forecast_training,
)
from lance_assets.algorithms.forecast.machine_rates import (
    Efficiency,
    Peak,
    add_known,
    count_hours,
    derive_decode_rate,
    derive_prefill_rate,
    derive_train_rate,
    scale_measured,
)

QWEN2_7B = ModelShape(
    num_parameters=7_615_616_512,
    layer_parameters=233_057_792,
    lora_parameters_per_rank=2_523_136,
    num_layers=28,
    hidden_size=3584,
    intermediate_size=18944,
    num_heads=28,
    num_kv_heads=4,
    head_dim=128,
    vocab_size=152064,
    max_positions=131072,
)
PEAK = Peak(teraflops=1000.0, gigabytes_per_second=3000.0)
FULL = Efficiency(prefill=1.0, decode=1.0, train=1.0, parallel=1.0)


def test_cache_of_a_token() -> None:
    """2 (keys, values) x 28 layers x 4 heads x 128 x 2 bytes = 57,344; over two GPUs half, over eight one head each."""
    assert count_cache_bytes(QWEN2_7B, weight_bytes=2) == 57_344
    assert count_cache_bytes(QWEN2_7B, weight_bytes=2, tensor_parallel_size=2) == 28_672
    assert count_cache_bytes(QWEN2_7B, weight_bytes=2, tensor_parallel_size=8) == 14_336


def test_serving_on_80_gb() -> None:
    """Weights 15,231,233,024 bytes = 14.185 GiB; 256 rows of 1,024 tokens of 57,344 bytes = 14 GiB exactly."""
    serving = Serving(weight_bytes=2, max_rows=256, longest_row=8192)
    memory = forecast_serving(QWEN2_7B, serving, mean_tokens=1024, budget_gib=71.1, runtime_gib=2.0)
    assert memory.weights_gib == pytest.approx(15_231_233_024 / GIB)
    assert memory.cache_gib == pytest.approx(14.0)
    assert memory.rows_at_once == 256
    assert memory.total_gib == pytest.approx(14.185 + 14 + 2, abs=1e-3)


def test_serving_takes_fewer_rows_where_the_cache_has_no_room() -> None:
    """24 GB: 21.15 - 14.185 - 2 = 4.965 GiB, at 56 MiB a row of 1,024 tokens: 90 rows."""
    serving = Serving(weight_bytes=2, max_rows=256, longest_row=8192)
    memory = forecast_serving(QWEN2_7B, serving, mean_tokens=1024, budget_gib=21.15, runtime_gib=2.0)
    assert memory.rows_at_once == 90
    assert memory.total_gib <= 21.15


def test_serving_does_not_fit_where_the_longest_row_has_no_room() -> None:
    serving = Serving(weight_bytes=2, max_rows=256, longest_row=131072)
    memory = forecast_serving(QWEN2_7B, serving, mean_tokens=1024, budget_gib=21.15, runtime_gib=2.0)
    assert memory.rows_at_once == 0
    assert memory.total_gib == pytest.approx(14.185 + 7 + 2, abs=1e-3)


def test_full_training_takes_16_bytes_a_parameter() -> None:
    """121,849,864,192 bytes = 113.48 GiB on one GPU, an eighth of it on each of eight; DPO's reference 4 bytes more."""
    alone = forecast_training(QWEN2_7B, Training(max_length=2048), runtime_gib=2.0)
    assert alone.states_gib == pytest.approx(7_615_616_512 * 16 / GIB)
    eight = Training(max_length=2048, num_processes=8, is_sharded=True, gradient_checkpointing=True)
    sharded = forecast_training(QWEN2_7B, eight, runtime_gib=2.0)
    assert sharded.states_gib == pytest.approx(7_615_616_512 * 2 / GIB)
    preferring = forecast_training(QWEN2_7B, replace(eight, is_preference=True), runtime_gib=2.0)
    assert preferring.states_gib == pytest.approx(7_615_616_512 * 2.5 / GIB)
    assert alone.total_gib > 79 > preferring.total_gib
    # without FSDP more processes hold no less each
    copies = forecast_training(QWEN2_7B, Training(max_length=2048, num_processes=8), runtime_gib=2.0)
    assert copies == alone


def test_lora_trains_rank_times_the_widths() -> None:
    """Rank 8: 8 x 2,523,136 = 20,185,088 parameters of 16 bytes, beside 4 bytes of each frozen one: 28.67 GiB."""
    assert count_trained_parameters(QWEN2_7B, 8) == 20_185_088
    training = Training(max_length=2048, lora_rank=8, gradient_checkpointing=True)
    memory = forecast_training(QWEN2_7B, training, runtime_gib=2.0)
    assert memory.states_gib == pytest.approx((20_185_088 * 16 + 7_615_616_512 * 4) / GIB)
    assert memory.copies_gib == pytest.approx(233_057_792 * 2 / GIB)
    assert memory.total_gib < 79


def test_activations_and_logits_of_2048_tokens() -> None:
    """A token leaves (6.5 x 3,584 + 4 x 18,944) x 2 + 16 x 3,584 = 255,488 bytes a layer; 14 bytes a logit."""
    assert count_layer_bytes(QWEN2_7B, activation_bytes=2) == 255_488
    memory = forecast_training(QWEN2_7B, Training(max_length=2048), runtime_gib=0.0)
    assert memory.activations_gib == pytest.approx(2048 * 28 * 255_488 / GIB)
    assert memory.logits_gib == pytest.approx(2048 * 152_064 * 14 / GIB)
    less = forecast_training(QWEN2_7B, Training(max_length=2048, gradient_checkpointing=True), runtime_gib=0.0)
    assert less.activations_gib == pytest.approx(2048 * (28 * 3584 * 4 + 255_488) / GIB)


def test_a_checkpoint_on_disk() -> None:
    """Two bytes a parameter; with LoRA of rank 8 a float32 adapter of 20,185,088 parameters for each stage so far."""
    whole = count_checkpoint_bytes(QWEN2_7B, stored_bytes=2, lora_rank=None, num_stages=10)
    assert whole == 15_231_233_024
    adapted = count_checkpoint_bytes(QWEN2_7B, stored_bytes=2, lora_rank=8, num_stages=10)
    assert adapted == 15_231_233_024 + 20_185_088 * 4 * 10


def test_derived_rates() -> None:
    """At 10^15 multiplications a second: 10^15 / (2 x 7.6e9) prompt tokens, over 6 passes 1 / 6 of 10^15 / 7.6e9.

    A row alone decodes at the time of reading 15.23 GB and its 1,000 tokens of cache (57 MB) at 3 TB/s, 5.096 ms, and
    15.23e9 multiplications, 0.015 ms: 195.7 tokens/s.
    """
    number = QWEN2_7B.num_parameters
    prefill = derive_prefill_rate(QWEN2_7B, PEAK, FULL, num_devices=1, tensor_parallel_size=1)
    assert prefill == pytest.approx(1e15 / (2 * number))
    trained = derive_train_rate(QWEN2_7B, PEAK, FULL, Training(max_length=1))
    assert trained == pytest.approx(1e15 / (6 * number))
    lora = Training(max_length=1, lora_rank=8, gradient_checkpointing=True, is_preference=True)
    assert derive_train_rate(QWEN2_7B, PEAK, FULL, lora) == pytest.approx(1e15 / (8 * number))
    decode = derive_decode_rate(
        QWEN2_7B, PEAK, FULL, Serving(weight_bytes=2), rows_at_once=1, mean_tokens=1000, num_copies=1
    )
    assert decode == pytest.approx(195.7, abs=0.1)


def test_a_measured_rate_serves_models_of_like_size() -> None:
    assert scale_measured(5000.0, measured_parameters=1e6, num_parameters=4e6) == 1250.0
    assert scale_measured(5000.0, measured_parameters=1e6, num_parameters=0.25e6) == 20000.0
    assert scale_measured(5000.0, measured_parameters=1e6, num_parameters=4.1e6) is None


def test_the_unknown_is_no_zero() -> None:
    assert add_known(1.0, None, 2.0) is None
    assert add_known(1.0, 2.0) == 3.0
    assert count_hours(100.0, None) is None
    assert count_hours(0.0, None) == 0.0
    assert count_hours(3600.0, 2.0) == 0.5


@given(
    budget=st.floats(16.0, 200.0),
    mean=st.floats(1.0, 8192.0),
    rows=st.integers(1, 1024),
    size=st.sampled_from([1, 2, 4]),
)
def test_serving_never_takes_more_than_its_budget_unless_it_says_so(
    budget: float, mean: float, rows: int, size: int
) -> None:
    serving = Serving(weight_bytes=2, tensor_parallel_size=size, max_rows=rows, longest_row=8192)
    memory = forecast_serving(QWEN2_7B, serving, mean_tokens=mean, budget_gib=budget, runtime_gib=2.0)
    assert memory.rows_at_once <= rows
    if memory.rows_at_once:
        assert memory.total_gib <= budget * (1 + 1e-9)
    else:
        assert memory.total_gib > budget


@given(
    length=st.integers(8, 4096),
    rows=st.integers(1, 8),
    processes=st.sampled_from([1, 2, 8]),
    rank=st.none() | st.integers(1, 64),
    checkpointing=st.booleans(),
)
def test_training_grows_with_what_is_asked(
    length: int, rows: int, processes: int, rank: int | None, *, checkpointing: bool
) -> None:
    training = Training(length, rows, processes, processes > 1, rank, checkpointing)
    memory = forecast_training(QWEN2_7B, training, runtime_gib=2.0)
    parts = (memory.states_gib, memory.copies_gib, memory.activations_gib, memory.logits_gib)
    assert memory.total_gib == pytest.approx(sum(parts) + 2.0)
    longer = forecast_training(QWEN2_7B, replace(training, max_length=2 * length), runtime_gib=2.0)
    preferring = forecast_training(QWEN2_7B, replace(training, is_preference=True), runtime_gib=2.0)
    assert memory.total_gib < longer.total_gib
    assert memory.total_gib < preferring.total_gib
