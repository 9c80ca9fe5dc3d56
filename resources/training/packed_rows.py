"""A batch as one row of tokens without padding, in which each row of the batch attends to itself alone.

Products are then as large as the batch, and no time goes into padding. Several completions of one prompt, as those of a
preference pair, lie behind it once. TRL's `padding_free` does this for SFT by flash attention, which has no CPU kernel,
and torch's flex attention has to be compiled; here torch's own attention is called once for each row.
"""
# ruff: noqa: TID253 (runs in the trainer's process)

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import accumulate

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv

from resources.models.shared_context import ContextRow, find_predictors, lay_out_row

PACKED_ATTENTION = "packed_rows"
_TOLERANCE = 1e-4
_SLOW_BELOW = 512
"""Tokens below which torch's attention on a CPU is slower in bfloat16 than in float32: with gradients 4.5 against
2.3 ms for 9 heads of 200 tokens, and the same for 512."""


@dataclass(frozen=True)
class Piece:
    """A stretch of the packed row that attends alike."""

    length: int
    """Its tokens, 1 or more."""
    context_length: int = 0
    """Tokens at the beginning of the last piece of its own that it sees beside itself; 0 where it sees itself alone."""


@dataclass(frozen=True)
class PackedRows:
    """What a model is given, and where each token of a completion is predicted."""

    input_ids: torch.Tensor
    """int64 [1, num_tokens]."""
    positions: torch.Tensor
    """int64 [1, num_tokens]: the place of each token in its own row."""
    pieces: list[Piece]
    """In order; together they are the packed row."""
    predictors: torch.Tensor
    """int64 [num_expected]: the place that predicts each token of each completion, in order."""
    expected: torch.Tensor
    """int64 [num_expected]: the tokens of the completions."""
    lengths: list[int]
    """Tokens of each completion."""


_PACKED: ContextVar[PackedRows] = ContextVar("packed_rows")


def pack(rows: Sequence[ContextRow], *, device: torch.device | str = "cpu") -> PackedRows:
    """Lay rows out behind each other.

    Args:
        rows: one or more, each a prompt and its completions.
        device: of the tensors.
    """
    laid_out = [lay_out_row(*row) for row in rows]
    starts = [0, *accumulate(len(tokens) for tokens, _, _ in laid_out)]
    predictors, expected, lengths = find_predictors(rows)
    pieces = []
    for context, continuations in rows:
        first, *others = (len(continuation) - 1 for continuation in continuations)
        pieces += [Piece(len(context) + first), *(Piece(length, len(context)) for length in others if length)]
    return PackedRows(
        input_ids=torch.tensor([[token for tokens, _, _ in laid_out for token in tokens]], device=device),
        positions=torch.tensor([[place for _, places, _ in laid_out for place in places]], device=device),
        pieces=pieces,
        predictors=torch.tensor([starts[row] + place for row, place in predictors], device=device),
        expected=torch.tensor(expected, device=device),
        lengths=lengths,
    )


def read_packed(model: PreTrainedModel, packed: PackedRows) -> torch.Tensor:
    """The states [num_expected, hidden] that predict the completions.

    Args:
        model: one of which `can_pack` is true, and which does not compute activations anew in its backward pass.
        packed: its rows.
    """
    with _attending(model, packed):
        states = model.base_model(input_ids=packed.input_ids, position_ids=packed.positions, use_cache=False)
    picked: torch.Tensor = states.last_hidden_state[0].index_select(0, packed.predictors)
    return picked


def can_pack(model: PreTrainedModel) -> bool:
    """Whether a model gives packed rows the states that it gives each alone; two short rows are tried.

    Args:
        model: on a CPU, in eval mode, attending by sdpa.
    """
    rows: list[ContextRow] = [([3, 4, 5], [[6, 7, 8], [9, 6, 4]]), ([5, 3], [[4, 4]])]
    packed = pack(rows, device=model.device)
    alone = [torch.tensor([[*context, *one]]) for context, continuations in rows for one in continuations]
    places = [range(len(context) - 1, len(context) + len(one) - 1) for context, parts in rows for one in parts]
    with torch.inference_mode():
        expected = [
            model.base_model(input_ids=tokens.to(model.device), use_cache=False).last_hidden_state[0, list(place)]
            for tokens, place in zip(alone, places, strict=True)
        ]
        try:
            found = read_packed(model, packed)
        except (TypeError, ValueError, RuntimeError, LookupError):
            # An architecture with an attention of its own.
            return False
    scale = float(torch.cat(expected).abs().max())
    return torch.allclose(found, torch.cat(expected), rtol=_TOLERANCE, atol=_TOLERANCE * scale)


@contextmanager
def _attending(model: PreTrainedModel, packed: PackedRows) -> Iterator[None]:
    AttentionInterface.register(PACKED_ATTENTION, attend_packed)
    before = model.config._attn_implementation
    token = _PACKED.set(packed)
    # Transformers builds no mask for an attention that is registered without one.
    model.config._attn_implementation = PACKED_ATTENTION
    try:
        yield
    finally:
        model.config._attn_implementation = before
        _PACKED.reset(token)


def attend_packed(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each piece, and to its context.

    Args:
        module: the attention layer.
        query: [1, num_heads, num_tokens, head_dim].
        key: [1, num_kv_heads, num_tokens, head_dim].
        value: the same shape.
        attention_mask: not read.
        dropout: share of the weights, in training.
        scaling: of the products; None for torch's.

    Returns:
        [1, num_tokens, num_heads, head_dim], and None for the weights.
    """
    pieces = _PACKED.get().pieces
    groups = getattr(module, "num_key_value_groups", 1)
    lengths = [piece.length for piece in pieces]
    # One split has one gradient for all pieces, where a slice each would have as many of the whole length.
    given = [query, repeat_kv(key, groups), repeat_kv(value, groups)]
    if max(lengths) < _SLOW_BELOW:
        given = [one.float() for one in given]
    parts = [one.split(lengths, dim=2) for one in given]
    found, first = [], None
    for piece, own_query, own_key, own_value in zip(pieces, *parts, strict=True):
        mask = None
        if piece.context_length:
            assert first is not None, "a piece with a context follows the one that holds it"
            seen = [one.narrow(2, 0, piece.context_length) for one in first]
            own_key, own_value = torch.cat([seen[0], own_key], dim=2), torch.cat([seen[1], own_value], dim=2)
            shape = (piece.length, piece.context_length + piece.length)
            mask = torch.ones(shape, dtype=torch.bool, device=query.device).tril(piece.context_length)
        else:
            first = (own_key, own_value)
        # Autocast would cast what is float32.
        with torch.autocast(query.device.type, enabled=False):
            found.append(
                torch.nn.functional.scaled_dot_product_attention(
                    own_query, own_key, own_value, mask, dropout, is_causal=mask is None, scale=scaling
                )
            )
    return torch.cat(found, dim=2).transpose(1, 2).to(query.dtype).contiguous(), None
