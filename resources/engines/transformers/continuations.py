"""How likely a model finds several continuations of one context, as multiple choice asks it.

A context is read once for all of its continuations: they lie behind it in one row, each with the positions that it
would have alone, and a mask hides them from each other. Logits are computed where a continuation is predicted, and
nowhere else. lm-evaluation-harness 0.4.13 reads the context again with each continuation of more than one token, and
computes the logits of every position.
"""
# ruff: noqa: TID253 (imported once a model is loaded)

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from resources.engines.transformers.decoding import GROUPED_ATTENTION, GrowingLayer, build_growing_cache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Asked = tuple[Sequence[int], Sequence[Sequence[int]]]
"""The token ids of a context, one or more, and of its continuations, each of one or more."""
BLOCK_LOGITS = 1 << 24
"""Logits held at once: 64 MiB of float32, and a few copies."""


def count_block(head: torch.nn.Module) -> int:
    """Positions whose logits are computed at once by an output embedding, 1 or more."""
    return max(1, BLOCK_LOGITS // int(head.weight.shape[0]))


def reads_together(model: "PreTrainedModel") -> bool:
    """Whether continuations can lie in one row: the model looks at all tokens that a mask of our own allows.

    Layers with a sliding window or a state of their own count places, and flash attention takes no such mask.
    """
    has_mask = model.config._attn_implementation in ("sdpa", GROUPED_ATTENTION)
    return has_mask and all(type(layer) is GrowingLayer for layer in build_growing_cache(model.config).layers)


def has_plain_head(model: "PreTrainedModel") -> bool:
    """Whether logits are the output embedding of the last states, and no more, unlike in Granite and Gemma 2."""
    input_ids = torch.arange(4, device=model.device).unsqueeze(0)
    with torch.inference_mode():
        states = model.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state
        computed = model.get_output_embeddings()(states)
        returned = model(input_ids=input_ids, use_cache=False).logits
    return torch.allclose(computed.float(), returned.float(), rtol=1e-3, atol=1e-3)


def score_continuations(
    model: "PreTrainedModel", asked: Sequence[Asked], *, pad_id: int
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
    with torch.inference_mode():
        states = _read_rows(model, rows, pad_id)
        scores = iter(_score_states(model, rows, states))
    return [[next(scores) for _ in continuations] for _, continuations in asked]


def _read_rows(model: "PreTrainedModel", rows: Sequence[Asked], pad_id: int) -> torch.Tensor:
    """The states [num_rows, length, hidden] behind the final norm of each context and what lies behind it."""
    parts = [_lay_out(*row) for row in rows]
    length = max(len(tokens) for tokens, _, _ in parts)
    input_ids = torch.full((len(rows), length), pad_id)
    positions = torch.zeros((len(rows), length), dtype=torch.int64)
    owners = torch.full((len(rows), length), -1)
    for row, (tokens, places, owned_by) in enumerate(parts):
        input_ids[row, : len(tokens)] = torch.tensor(tokens)
        positions[row, : len(tokens)] = torch.tensor(places)
        owners[row, : len(tokens)] = torch.tensor(owned_by)
    inputs = {"input_ids": input_ids.to(model.device)}
    # With one continuation in each row plain causal attention hides what must be hidden, padding on the right too.
    if bool((owners > 1).any()):
        owners = owners.to(model.device)
        causal = torch.ones((length, length), dtype=torch.bool, device=model.device).tril()
        seen = (owners[:, None, :] == 0) | (owners[:, None, :] == owners[:, :, None])
        inputs |= {"position_ids": positions.to(model.device), "attention_mask": (causal & seen).unsqueeze(1)}
    states: torch.Tensor = model.get_decoder()(**inputs, use_cache=False).last_hidden_state
    return states


def _lay_out(context: Sequence[int], continuations: Sequence[Sequence[int]]) -> tuple[list[int], list[int], list[int]]:
    """One row: its tokens, the position of each, and 0 for the context's or the number of its continuation.

    The last token of a continuation predicts nothing that is asked for, so it is left out.
    """
    tokens, positions, owners = list(context), list(range(len(context))), [0] * len(context)
    for number, continuation in enumerate(continuations, start=1):
        read = continuation[:-1]
        tokens += read
        positions += range(len(context), len(context) + len(read))
        owners += [number] * len(read)
    return tokens, positions, owners


def _score_states(model: "PreTrainedModel", rows: Sequence[Asked], states: torch.Tensor) -> list[tuple[float, bool]]:
    """Of each continuation, row by row, the sum of its log-probabilities and whether it is the likeliest."""
    places: list[tuple[int, int]] = []
    expected: list[int] = []
    lengths: list[int] = []
    for row, (context, continuations) in enumerate(rows):
        after = len(context)
        for continuation in continuations:
            # The context's last token predicts the first, and each token of the continuation the next one.
            num_read = len(continuation) - 1
            places += [(row, len(context) - 1), *((row, place) for place in range(after, after + num_read))]
            expected += continuation
            lengths.append(len(continuation))
            after += num_read
    at_row, at_place = torch.tensor(places, device=states.device).T
    tokens = torch.tensor(expected, device=states.device)
    logprobs, is_likeliest = [], []
    head = model.get_output_embeddings()
    block = count_block(head)
    for part, own in zip(states[at_row, at_place].split(block), tokens.split(block), strict=True):
        found = head(part).float().log_softmax(dim=-1)
        logprobs.append(found.gather(-1, own.unsqueeze(-1)).squeeze(-1).double())
        is_likeliest.append(found.argmax(dim=-1) == own)
    by_continuation = zip(torch.cat(logprobs).split(lengths), torch.cat(is_likeliest).split(lengths), strict=True)
    return [(float(values.sum()), bool(same.all())) for values, same in by_continuation]
