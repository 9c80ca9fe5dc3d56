"""The attention of one new token a row on a CPU, or of a few, by two batched products.

Transformers repeats keys and values for every query head before it calls torch's sdpa, whose CPU kernel is made for
long queries. Here the query heads of a group are folded into the query length, which is the same sum without the copy.
In a decode step of 256 rows of 100 tokens (6 heads on 3, 32 wide) sdpa takes 2.7 ms a layer, and this 1.2 ms (two
cores). What all rows begin with is attended to by all of them in one product, as Hydragen does on GPUs (arXiv
2402.05099).
"""
# ruff: noqa: TID253 (imported once a model is loaded)

from typing import TYPE_CHECKING

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from resources.engines.transformers.growing_cache import GROUPED_ATTENTION, Begun

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FEW_TOKENS = 16
"""Tokens behind a prompt that are read as fast padded as not: up to so many attend by products, and torch's kernel is
faster for more."""


def attend_grouped(
    module: "torch.nn.Module",
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: object,
) -> tuple[torch.Tensor, None]:
    """Transformers' sdpa attention, where a few tokens attend by batched products.

    Args:
        module: the attention layer.
        query: [num_rows, num_heads, query_length, head_dim].
        key: [num_rows, num_key_value_heads, length, head_dim], with an attribute `begun` where all rows begin alike.
        value: as `key`.
        attention_mask: bool or additive [num_rows, 1, query_length, all], where all counts what rows begin with; or
            None.
        options: what else the layer passes; with `position_bias` or `cache` it is transformers' own that attends, as in
            all but float32.

    Returns:
        [num_rows, query_length, num_heads, head_dim], and None for the weights.
    """
    num_rows, num_heads, query_length, head_dim = query.shape
    num_groups = key.shape[1]
    begun: Begun | None = getattr(key, "begun", None)
    is_plain = query.dtype == torch.float32 and not {"position_bias", "cache"} & options.keys()
    is_shared_mask = attention_mask is None or attention_mask.shape[1] == 1
    num_before = 0 if begun is None else begun.length
    # Prompts are what torch's kernel is made for. Without a mask, which of a few tokens sees which is not said.
    lies_behind = attention_mask is not None and num_before + key.shape[2] > query_length
    is_short = query_length == 1 or (query_length <= FEW_TOKENS and lies_behind)
    # The other cases are not covered by the products below.
    if not is_short or not is_plain or not is_shared_mask or value.shape[-1] != head_dim:
        if begun is not None:
            key, value = begun.put_before(key, value)
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    # Query heads that share a key head lie next to each other, so they can be read as several queries of one head.
    num_folded = num_heads // num_groups * query_length
    folded = (query * options["scaling"]).reshape(num_rows * num_groups, num_folded, head_dim)
    scores = torch.bmm(folded, key.flatten(0, 1).transpose(1, 2)).view(num_rows, num_groups, -1, key.shape[2])
    if begun is not None:
        begun.is_read = True
        # The queries of all rows are those of one, which reads what they begin with once.
        shape = (num_rows, num_groups, num_folded, -1)
        asked = folded.view(shape).transpose(0, 1).reshape(num_groups, num_rows * num_folded, head_dim)
        before = torch.bmm(asked, begun.keys[0].transpose(1, 2)).view(num_groups, num_rows, num_folded, -1)
        scores = torch.cat([before.transpose(0, 1), scores], dim=-1)
    if attention_mask is not None:
        by_token = scores.view(num_rows, num_groups, -1, query_length, scores.shape[-1])
        if attention_mask.dtype == torch.bool:
            by_token.masked_fill_(~attention_mask.unsqueeze(2), float("-inf"))
        else:
            by_token += attention_mask.unsqueeze(2)
    weights = scores.softmax(dim=-1)
    attended = torch.bmm(weights[..., num_before:].flatten(0, 1), value.flatten(0, 1))
    if begun is not None:
        asking = weights[..., :num_before].transpose(0, 1).reshape(num_groups, num_rows * num_folded, num_before)
        before = torch.bmm(asking, begun.values[0]).view(num_groups, num_rows, num_folded, head_dim)
        attended = attended + before.transpose(0, 1).reshape(attended.shape)
    return attended.view(num_rows, num_heads, query_length, head_dim).transpose(1, 2).contiguous(), None


def use_grouped_attention(model: "PreTrainedModel") -> None:
    """Switch a model that attends by sdpa on a CPU to `attend_grouped`; leave any other as it is."""
    if model.config._attn_implementation != "sdpa" or model.device.type != "cpu":
        return
    AttentionInterface.register(GROUPED_ATTENTION, attend_grouped)
    # Transformers builds no mask for an attention whose name it does not find here.
    AttentionMaskInterface.register(GROUPED_ATTENTION, sdpa_mask)
    model.set_attn_implementation(GROUPED_ATTENTION)
