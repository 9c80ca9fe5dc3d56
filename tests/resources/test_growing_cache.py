"""The cache with room ahead gives what transformers' own gives."""

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
