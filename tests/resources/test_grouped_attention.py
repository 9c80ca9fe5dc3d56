"""Attention by two batched products equals transformers' sdpa."""

from types import SimpleNamespace

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from resources.engines.transformers.grouped_attention import attend_grouped
from resources.engines.transformers.growing_cache import Begun

BOOL = torch.rand((3, 1, 1, 9), generator=torch.Generator().manual_seed(1)) > 0.3
BOOL[..., -1] = True
MASKS = {"none": None, "bool": BOOL, "additive": torch.zeros(BOOL.shape).masked_fill(~BOOL, float("-inf"))}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize(("num_heads", "num_groups"), [(6, 3), (6, 1), (4, 4)])
@pytest.mark.parametrize("has_room", [False, True])
def test_one_token_attends_as_sdpa(mask, num_heads, num_groups, has_room):
    random = torch.Generator().manual_seed(0)
    query = torch.randn((3, num_heads, 1, 8), generator=random)
    key, value = (torch.randn((3, num_groups, 20 if has_room else 9, 8), generator=random)[:, :, :9] for _ in range(2))
    module = SimpleNamespace(num_key_value_groups=num_heads // num_groups, is_causal=True)
    given = (module, query, key, value, mask)
    ours, _ = attend_grouped(*given, scaling=8**-0.5)
    theirs, _ = sdpa_attention_forward(*given, scaling=8**-0.5)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("mask", ["none", "bool", "additive"])
@pytest.mark.parametrize("query_length", [1, 4, 20])
def test_what_all_rows_begin_with_is_as_if_each_had_it(mask, query_length):
    random = torch.Generator().manual_seed(0)
    query = torch.randn((3, 6, query_length, 8), generator=random)
    key, value = (torch.randn((3, 2, 9, 8), generator=random) for _ in range(2))
    begun = Begun(*(torch.randn((1, 2, 13, 8), generator=random) for _ in range(2)))
    seen = torch.rand((3, 1, query_length, 22), generator=random) > 0.3
    seen[..., -1] = True
    given = {"none": None, "bool": seen, "additive": torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))}[mask]
    module = SimpleNamespace(num_key_value_groups=3, is_causal=False)
    theirs, _ = sdpa_attention_forward(module, query, *begun.put_before(key, value), given, scaling=8**-0.5)
    key.begun = begun
    begun.is_read = False
    ours, _ = attend_grouped(module, query, key, value, given, scaling=8**-0.5)
    assert begun.is_read
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("query_length", [2, 16])
@pytest.mark.parametrize("has_begun", [False, True])
def test_a_few_tokens_attend_as_sdpa_to_what_lies_before_each(query_length: int, has_begun: bool) -> None:
    random = torch.Generator().manual_seed(0)
    query = torch.randn((3, 6, query_length, 8), generator=random)
    key, value = (torch.randn((3, 2, 30, 8), generator=random) for _ in range(2))
    begun = Begun(*(torch.randn((1, 2, 13, 8), generator=random) for _ in range(2)))
    number = 43 if has_begun else 30
    before = torch.arange(number) <= torch.arange(number - query_length, number).unsqueeze(-1)
    # A row's first tokens are padding.
    seen = before & (torch.arange(number) >= torch.tensor([0, 3, 7])[:, None, None, None])
    both = begun.put_before(key, value) if has_begun else (key, value)
    module = SimpleNamespace(num_key_value_groups=3, is_causal=True)
    theirs, _ = sdpa_attention_forward(module, query, *both, seen, scaling=8**-0.5)
    if has_begun:
        key.begun = begun
    ours, _ = attend_grouped(module, query, key, value, seen, scaling=8**-0.5)
    assert ours.is_contiguous()
    torch.testing.assert_close(ours, theirs)
