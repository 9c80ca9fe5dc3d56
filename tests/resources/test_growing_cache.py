"""The cache with room ahead gives what transformers' own gives."""

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from resources.engines.transformers.growing_cache import ROOM, GrowingLayer


def test_updates_and_selections_equal_a_concatenated_cache():
    random = torch.Generator().manual_seed(0)
    growing, plain = GrowingLayer(), DynamicLayer()
    num_rows = 5
    for length, kept in ((7, [0, 0, 3, 4]), (1, [3, 1]), (ROOM, None), (1, [1, 0, 1]), (2 * ROOM, None)):
        keys, values = (torch.randn((num_rows, 2, length, 4), generator=random) for _ in range(2))
        for ours, theirs in zip(growing.update(keys, values), plain.update(keys, values), strict=True):
            assert torch.equal(ours, theirs)
        if kept is not None:
            growing.batch_select_indices(torch.tensor(kept))
            plain.batch_select_indices(torch.tensor(kept))
            num_rows = len(kept)
        assert growing.get_seq_length() == plain.get_seq_length()
        assert torch.equal(growing.keys, plain.keys)


@pytest.mark.parametrize("num_begun", [0, 5])
def test_joined_parts_end_together_behind_zeros(num_begun: int):
    random = torch.Generator().manual_seed(0)
    joined = GrowingLayer()
    if num_begun:
        joined.update(*(torch.randn((1, 2, num_begun, 4), generator=random) for _ in range(2)))
        joined.keep_once()
    parts, own = [], {}
    for rows, length in (([3, 0], 4), ([2], ROOM + 3), ([1, 4], 1)):
        part = joined.copy_rows(torch.tensor(rows))
        told = [torch.randn((len(rows), 2, length, 4), generator=random) for _ in range(2)]
        part.update(*told)
        own |= {row: (told[0][place], told[1][place]) for place, row in enumerate(rows)}
        parts.append((torch.tensor(rows), part))
    joined.join(parts)
    assert joined.num_own == ROOM + 3
    assert joined.get_seq_length() == ROOM + 3 + num_begun
    for row, told in own.items():
        for held, wanted in zip((joined.keys[row], joined.values[row]), told, strict=True):
            assert torch.equal(held[:, -wanted.shape[1] :], wanted)
            assert not held[:, : -wanted.shape[1]].any()
    # The parts hold nothing any more, and the next token goes on.
    assert all(part.keys.numel() == 0 for _, part in parts)
    step = torch.randn((5, 2, 1, 4), generator=random)
    keys, _ = joined.update(step, step)
    assert torch.equal(keys[:, :, -1:], step)


def test_layers_that_nothing_reached_are_joined_to_nothing():
    joined = GrowingLayer()
    joined.join([(torch.tensor([0]), GrowingLayer()), (torch.tensor([1]), GrowingLayer())])
    assert joined.get_seq_length() == 0


def test_an_empty_cache_selects_nothing():
    layer = GrowingLayer()
    layer.batch_select_indices(torch.tensor([0]))
    assert layer.get_seq_length() == 0


def test_a_step_copies_nothing_while_there_is_room():
    layer = GrowingLayer()
    layer.update(torch.ones((2, 1, 3, 4)), torch.ones((2, 1, 3, 4)))
    before = layer.keys.data_ptr()
    layer.update(torch.ones((2, 1, 1, 4)), torch.ones((2, 1, 1, 4)))
    assert layer.keys.data_ptr() == before
