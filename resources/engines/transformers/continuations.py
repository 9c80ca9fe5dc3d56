"""How likely a model finds several continuations of one context, as multiple choice asks it.

A context is read once for all of its continuations (`resources.models.shared_context`). Logits are computed where a
continuation is predicted, and nowhere else. lm-evaluation-harness 0.4.13 reads the context again with each
continuation of more than one token, and computes the logits of every position.
"""
# ruff: noqa: TID253 (imported once a model is loaded)

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from lance_assets.algorithms.forecast.costs import LOGITS_AT_ONCE
from resources.engines.transformers.growing_cache import GROUPED_ATTENTION, build_growing_cache, keeps_all
from resources.models.shared_context import ContextRow, SharedRows, lay_out

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def count_block(head: torch.nn.Module, *, at_once: int | None = None) -> int:
    """Positions whose logits are computed at once by an output embedding, 1 or more.

    Args:
        head: the output embedding.
        at_once: logits that may be held; None for `LOGITS_AT_ONCE`.
    """
    return max(1, (at_once or LOGITS_AT_ONCE) // int(head.weight.shape[0]))


def reads_together(model: "PreTrainedModel") -> bool:
    """Whether continuations can lie in one row: the model looks at all tokens that a mask of our own allows.

    Layers with a sliding window or a state of their own count places, and flash attention takes no such mask.
    """
    return model.config._attn_implementation in ("sdpa", GROUPED_ATTENTION) and sees_everything(model.config)


def sees_everything(config: "PreTrainedConfig") -> bool:
    """Whether every layer of a model looks at all tokens of its mask."""
    return keeps_all(build_growing_cache(config))


def has_plain_head(model: "PreTrainedModel") -> bool:
    """Whether logits are the output embedding of the last states, and no more, unlike in Granite and Gemma 2."""
    input_ids = torch.arange(4, device=model.device).unsqueeze(0)
    with torch.inference_mode():
        states = model.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state
        computed = model.get_output_embeddings()(states)
        returned = model(input_ids=input_ids, use_cache=False).logits
    return torch.allclose(computed.float(), returned.float(), rtol=1e-3, atol=1e-3)


def score_continuations(
    model: "PreTrainedModel", asked: Sequence[ContextRow], *, pad_id: int
) -> list[list[tuple[float, bool]]]:
    """The log-likelihood of each continuation after its context.

    Args:
        model: a causal language model in eval mode, of which `has_plain_head` is true.
        asked: what is read together, one row each where `reads_together` is true, otherwise a row a continuation.
        pad_id: any token id; padding is masked.

    Returns:
        For each context and continuation, in order: the sum of its tokens' log-probabilities in nats, and whether each
        of its tokens is the likeliest at its place.
    """
    rows = list(asked)
    if not reads_together(model):
        rows = [(context, [continuation]) for context, continuations in asked for continuation in continuations]
    laid_out = lay_out(rows, pad_id=pad_id, device=model.device)
    with torch.inference_mode():
        states = _read_rows(model, laid_out)
        scores = iter(_score_states(model, laid_out, states))
    return [[next(scores) for _ in continuations] for _, continuations in asked]


def _read_rows(model: "PreTrainedModel", rows: SharedRows) -> torch.Tensor:
    """The states [num_rows, length, hidden] behind the final norm of each context and what lies behind it."""
    inputs = {"input_ids": rows.input_ids}
    if rows.mask is not None:
        inputs |= {"position_ids": rows.positions, "attention_mask": rows.mask}
    states: torch.Tensor = model.get_decoder()(**inputs, use_cache=False).last_hidden_state
    return states


def _score_states(model: "PreTrainedModel", rows: SharedRows, states: torch.Tensor) -> list[tuple[float, bool]]:
    """Of each continuation, row by row, the sum of its log-probabilities and whether it is the likeliest."""
    logprobs, is_likeliest = [], []
    head = model.get_output_embeddings()
    block = count_block(head)
    predicting = states[rows.at_row, rows.at_place]
    for part, own in zip(predicting.split(block), rows.expected.split(block), strict=True):
        found = head(part).float().log_softmax(dim=-1)
        logprobs.append(found.gather(-1, own.unsqueeze(-1)).squeeze(-1).double())
        is_likeliest.append(found.argmax(dim=-1) == own)
    lengths = rows.lengths
    by_continuation = zip(torch.cat(logprobs).split(lengths), torch.cat(is_likeliest).split(lengths), strict=True)
    return [(float(values.sum()), bool(same.all())) for values, same in by_continuation]
