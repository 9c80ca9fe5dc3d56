"""Several continuations of one context in one row of tokens, so that a model reads the context once for all of them.

The continuations lie behind the context, each with the positions that it would have alone, and a mask hides them from
each other. Evaluation scores the choices of a question so, and training the two sides of a preference pair.
"""
# ruff: noqa: TID253 (imported once a model is loaded)

from collections.abc import Sequence
from dataclasses import dataclass

import torch

ContextRow = tuple[Sequence[int], Sequence[Sequence[int]]]
"""The token ids of a context, one or more, and of its continuations, each of one or more."""


@dataclass(frozen=True)
class SharedRows:
    """What a model is given, and where each token of a continuation is predicted."""

    input_ids: torch.Tensor
    """int64 [num_rows, length], padded on the right."""
    positions: torch.Tensor
    """int64 [num_rows, length]: the place that each token would have behind its context alone."""
    mask: torch.Tensor | None
    """bool [num_rows, 1, length, length], true where a token sees another; None where plain causal attention does."""
    at_row: torch.Tensor
    """int64 [num_expected]: the row that predicts each token of each continuation, in order."""
    at_place: torch.Tensor
    """int64 [num_expected]: its place in the row."""
    expected: torch.Tensor
    """int64 [num_expected]: the tokens of the continuations."""
    lengths: list[int]
    """Tokens of each continuation."""


def lay_out(rows: Sequence[ContextRow], *, pad_id: int, device: torch.device | str = "cpu") -> SharedRows:
    """Lay contexts and continuations out, a context a row.

    Args:
        rows: one or more.
        pad_id: any token id; padding is on the right, and nothing that is read sees it.
        device: of the tensors.
    """
    parts = [lay_out_row(*row) for row in rows]
    length = max(len(tokens) for tokens, _, _ in parts)
    input_ids = torch.full((len(rows), length), pad_id)
    positions = torch.zeros((len(rows), length), dtype=torch.int64)
    owners = torch.full((len(rows), length), -1)
    for row, (tokens, places, owned_by) in enumerate(parts):
        input_ids[row, : len(tokens)] = torch.tensor(tokens)
        positions[row, : len(tokens)] = torch.tensor(places)
        owners[row, : len(tokens)] = torch.tensor(owned_by)
    mask = None
    # With one continuation in each row plain causal attention hides what must be hidden, padding on the right too.
    if bool((owners > 1).any()):
        owners = owners.to(device)
        causal = torch.ones((length, length), dtype=torch.bool, device=device).tril()
        seen = (owners[:, None, :] == 0) | (owners[:, None, :] == owners[:, :, None])
        mask = (causal & seen).unsqueeze(1)
    predictors, expected, lengths = find_predictors(rows)
    at_row, at_place = torch.tensor(predictors, device=device).T
    return SharedRows(
        input_ids.to(device),
        positions.to(device),
        mask,
        at_row,
        at_place,
        torch.tensor(expected, device=device),
        lengths,
    )


def lay_out_row(context: Sequence[int], continuations: Sequence[Sequence[int]]) -> tuple[list[int], ...]:
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


def find_predictors(rows: Sequence[ContextRow]) -> tuple[list[tuple[int, int]], list[int], list[int]]:
    """The row and place that predict each token of the continuations, those tokens, and how many each has."""
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
    return places, expected, lengths
