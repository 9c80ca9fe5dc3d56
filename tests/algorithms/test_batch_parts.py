"""In how many parts a batch is computed, and in which precision: worked by hand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_assets.algorithms.forecast.batch_parts import FILLED_SHARE, PART_SHARE, choose_num_parts
from lance_assets.algorithms.forecast.costs import ModelShape, Training, forecast_training
from lance_assets.algorithms.forecast.precision import FEWEST_PARAMETERS, choose_precision

SMOL = ModelShape(
    num_parameters=134_515_008,
    layer_parameters=3_540_096,
    lora_parameters_per_rank=30 * (576 * 2 + 2 * (576 + 192) + 576 * 2 + 3 * (576 + 1536)),
    num_layers=30,
    hidden_size=576,
    intermediate_size=1536,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    vocab_size=49_152,
    max_positions=8192,
)
FLOAT32 = Training(max_length=512, activation_bytes=4)


def choose(training: Training = FLOAT32, *, batch_size: int = 8, memory: float = 23.5, device: str = "cpu") -> int:
    return choose_num_parts(
        SMOL, training, batch_size=batch_size, device=device, memory_gib=memory, runtime_gib=0.5
    )  # fmt: skip


def test_a_part_takes_a_quarter_of_a_machine() -> None:
    """A token takes 30 x 48,768 bytes of activations and 49,152 x 16 of logits, 2.25 MB: 1.07 GiB a row of 512.

    A quarter of 23.5 GiB is 5.9 GiB, which has room for five such rows: 2 parts of a batch of 8.
    """
    assert choose() == 2
    assert choose(memory=4 * 8.6) == 1
    assert choose(memory=4 * 8.5) == 2
    assert choose(replace(FLOAT32, max_length=128)) == 1
    # of less room than a row takes, one row
    assert choose(memory=2.0) == 8


def test_a_larger_vocabulary_makes_smaller_parts() -> None:
    wide = replace(SMOL, vocab_size=262_144)
    assert choose_num_parts(wide, FLOAT32, batch_size=8, device="cpu", memory_gib=23.5, runtime_gib=0.5) == 4


def test_logits_in_blocks_leave_room_for_larger_parts() -> None:
    """2^26 logits take 1 GiB, and a row of 512 tokens 0.70 GiB of activations: 8 rows 6.6 GiB, 7 rows 5.9."""
    bounded = replace(FLOAT32, has_bounded_logits=True)
    assert choose(bounded, memory=4 * 6.6) == 1
    assert choose(bounded, memory=4 * 6.5) == 2
    scaled = replace(SMOL, scales_logits=True)
    assert choose_num_parts(scaled, bounded, batch_size=8, device="cpu", memory_gib=4 * 6.6, runtime_gib=0.5) == 2


def test_the_states_need_their_room_too() -> None:
    """An H100's half has room for 4 rows of 2,048 tokens of a model whose states fill the rest; only 1 has really."""
    large = replace(SMOL, num_parameters=4_000_000_000, layer_parameters=130_000_000)
    training = Training(max_length=2048)
    parts = choose_num_parts(large, training, batch_size=8, device="cuda", memory_gib=79, runtime_gib=2.0)
    assert parts > choose(training, memory=79, device="cuda")


def test_pairs_are_computed_all_together_or_one_by_one() -> None:
    """Parts of DPO count alike; in parts of 2 pairs a last batch of 3 would count its last pair twice."""
    pairs = replace(FLOAT32, is_preference=True)
    assert [choose(pairs, memory=memory) for memory in (23.5, 4 * 9.0, 4 * 18.0)] == [8, 8, 1]


def test_processes_divide_the_batch() -> None:
    assert choose(replace(FLOAT32, num_processes=4)) == 1
    with pytest.raises(ValueError, match="batch_size 8 must be a multiple of the 3 processes"):
        choose(replace(FLOAT32, num_processes=3))


@given(
    st.integers(1, 24), st.sampled_from([1, 2, 4]), st.sampled_from([64, 512, 2048]), st.floats(1, 200), st.booleans()
)
def test_parts_are_the_fewest_that_have_room(
    rows: int, processes: int, length: int, memory: float, pairs: bool
) -> None:
    training = replace(FLOAT32, max_length=length, num_processes=processes, is_preference=pairs)
    parts = choose(training, batch_size=rows * processes, memory=memory)
    assert rows % parts == 0

    def has_room(number: int) -> bool:
        needed = forecast_training(SMOL, replace(training, rows_at_once=rows // number), runtime_gib=0.5)
        part = needed.activations_gib + needed.logits_gib
        return part <= PART_SHARE["cpu"] * memory and needed.total_gib <= FILLED_SHARE * memory

    assert parts == rows or has_room(parts)
    fewer = [number for number in range(1, parts) if rows % number == 0 and not (pairs and number > 1)]
    assert not any(has_room(number) for number in fewer)


@pytest.mark.parametrize(
    ("wanted", "device", "number", "has", "chosen"),
    [
        ("auto", "cpu", FEWEST_PARAMETERS, True, "bfloat16_autocast"),
        ("auto", "cpu", FEWEST_PARAMETERS - 1, True, "float32"),
        ("auto", "cpu", FEWEST_PARAMETERS, False, "float32"),
        ("auto", "cuda", 1000, True, "bfloat16_autocast"),
        ("auto", "cuda", 1000, False, "float32"),
        ("float32", "cuda", 10**9, True, "float32"),
        ("bfloat16_autocast", "cpu", 1000, False, "bfloat16_autocast"),
    ],
)
def test_auto_is_what_the_device_has_instructions_for(
    wanted: str, device: str, number: int, *, has: bool, chosen: str
) -> None:
    assert choose_precision(wanted, device=device, num_parameters=number, has_bfloat16=has) == chosen
