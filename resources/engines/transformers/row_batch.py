"""The rows of a batch under way, and the passes of a model that read them."""
# ruff: noqa: TID253 (imported once a model is loaded)

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from transformers.cache_utils import DynamicCache

from lance_assets.algorithms.forecast.precision import FEWEST_PARAMETERS
from resources.engines.transformers.growing_cache import (
    GROUPED_ATTENTION,
    GrowingLayer,
    build_growing_cache,
    copy_rows,
    holds_no_rows,
    join_rows,
    keeps_all,
)
from resources.engines.transformers.prefixes import part_alike, plan_reading

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LEAST_SHARED = 256
"""Tokens that prompts have in common before a small model reads them apart from the rest. It rounds otherwise in the
last bits and takes a pass more, which a template of a few sentences, as small models have, is not worth."""
LEAST_SHARED_BY_LARGE = 32
"""The same of a model of `FEWEST_PARAMETERS` or more, whose passes take longer than what is left of them."""
NUM_MASKED = 16
"""Masked tokens that are tried: so far away, a token that is seen farther away is seen little."""


@dataclass
class RowBatch:
    """The rows under way, and what the model needs of them for its next step."""

    model: "PreTrainedModel"
    cache: DynamicCache
    rows: torch.Tensor
    """int64 [num_rows]: which prompt each one continues."""
    mask: torch.Tensor
    """int64 [num_rows, length]: 1 where a token is, 0 where padding."""
    positions: torch.Tensor
    """int64 [num_rows, 1]: of each one's last token."""
    logits: torch.Tensor
    """[num_rows, vocabulary]: of each one's next token."""
    shared: list[int]
    """Of each prompt the tokens that were read for an earlier one."""
    num_columns: int
    """Columns of the mask that are the prompts': those behind them are the new tokens', one a step."""

    @property
    def can_fork(self) -> bool:
        """Whether a row can go on from an earlier token of its own, with what it had behind it masked."""
        return keeps_all(self.cache) and passes_over_holes(self.model)

    def step(self, tokens: torch.Tensor) -> None:
        """Read one new token a row."""
        self.mask = torch.cat([self.mask, self.mask.new_ones((len(self.rows), 1))], dim=1)
        self.positions = self.positions + 1
        self.logits = _read(self.model, self.cache, tokens.unsqueeze(-1), self.mask, self.positions)

    def keep(self, places: torch.Tensor) -> None:
        """Let all other rows go."""
        self.cache.batch_select_indices(places)
        self.rows, self.mask, self.positions = (kept[places] for kept in (self.rows, self.mask, self.positions))

    def fork(
        self, places: Sequence[int], kept: Sequence[int], pieces: Sequence[Sequence[int]], pad_id: int
    ) -> "RowBatch":
        """Another batch, whose rows go on from earlier tokens of this one's; this one stays as it is.

        Args:
            places: of each new row the place here of the row that it goes on from; `can_fork` is true.
            kept: how many of that row's new tokens it keeps.
            pieces: token ids that it reads behind them, one or more.
            pad_id: any token id.
        """
        chosen = torch.tensor(places, device=self.mask.device)
        cache, mask = copy_rows(self.cache, chosen), self.mask[chosen]
        for row, number in enumerate(kept):
            # What the row had behind them, or was given after it had ended, is not seen.
            mask[row, self.num_columns + number :] = 0
        logits, mask, positions = _read_behind(self.model, cache, mask, pieces, pad_id)
        rows = torch.arange(len(places), device=mask.device)
        begun = (mask, positions, logits)
        # All but the pieces was read before.
        known = [int(own) - len(piece) for own, piece in zip(mask.sum(dim=1), pieces, strict=True)]
        return RowBatch(self.model, cache, rows, *begun, known, mask.shape[1])


def _read(
    model: "PreTrainedModel",
    cache: DynamicCache,
    input_ids: torch.Tensor,
    mask: torch.Tensor,
    positions: torch.Tensor,
) -> torch.Tensor:
    """The logits [num_rows, vocabulary] behind the last of these tokens."""
    inputs = {"input_ids": input_ids, "attention_mask": mask, "position_ids": positions}
    logits: torch.Tensor = model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    return logits[:, -1]


def _pad_left(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    # Padding is on the left, so that the last position of every row holds its newest token, where the next one is read.
    length = max(map(len, prompts))
    input_ids = torch.full((len(prompts), length), pad_id)
    mask = torch.zeros((len(prompts), length), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        input_ids[row, length - len(prompt) :] = torch.tensor(prompt)
        mask[row, length - len(prompt) :] = 1
    return input_ids, mask


def _read_behind(
    model: "PreTrainedModel", cache: DynamicCache, mask: torch.Tensor, pieces: Sequence[Sequence[int]], pad_id: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Read a piece of each row behind what the cache holds: the logits, the mask and the last token's position."""
    parts = part_alike([len(piece) for piece in pieces]) if reads_in_parts(model, cache) else []
    if len(parts) <= 1:
        return _read_padded(model, cache, mask, pieces, pad_id)
    places = [torch.tensor(part, device=mask.device) for part in parts]
    copies = [copy_rows(cache, chosen) for chosen in places]
    found = [
        _read_padded(model, copied, mask[chosen], [pieces[place] for place in part], pad_id)
        for copied, chosen, part in zip(copies, places, parts, strict=True)
    ]
    join_rows(cache, list(zip(places, copies, strict=True)))
    num_held = mask.shape[1]
    width = max(own.shape[1] for _, own, _ in found)
    joined = mask.new_zeros((len(pieces), width))
    for chosen, (_, own, _) in zip(places, found, strict=True):
        joined[chosen, :num_held] = own[:, :num_held]
        joined[chosen, width - own.shape[1] + num_held :] = own[:, num_held:]
    back = torch.cat(places).argsort()
    logits, positions = (torch.cat([one[kind] for one in found])[back] for kind in (0, 2))
    return logits, joined, positions


def is_slow_to_pad(model: "PreTrainedModel") -> bool:
    """Whether padding costs a model more than a pass more: a large one on a CPU.

    A GPU reads thousands of tokens in the time of a pass. A small model would round otherwise for little.
    """
    return model.device.type == "cpu" and model.num_parameters() >= FEWEST_PARAMETERS


def reads_in_parts(model: "PreTrainedModel", cache: DynamicCache) -> bool:
    """Whether rows of unlike lengths are read in several passes: by a large model on a CPU, from their beginning.

    What rows hold already would be copied twice.
    """
    return is_slow_to_pad(model) and holds_no_rows(cache)


def _read_padded(
    model: "PreTrainedModel", cache: DynamicCache, mask: torch.Tensor, pieces: Sequence[Sequence[int]], pad_id: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same in one pass."""
    input_ids, own = (tensor.to(mask.device) for tensor in _pad_left(pieces, pad_id))
    # A prompt's first token has position 0 however much padding is before it; that of padding does not matter.
    positions = (own.cumsum(dim=1) - 1).clamp(min=0) + mask.sum(dim=1, keepdim=True)
    mask = torch.cat([mask, own], dim=1)
    return _read(model, cache, input_ids, mask, positions), mask, positions[:, -1:]


def find_least_shared(num_parameters: int) -> int:
    """Tokens that are worth reading apart, for a model of so many parameters."""
    return LEAST_SHARED if num_parameters < FEWEST_PARAMETERS else LEAST_SHARED_BY_LARGE


def read_prompts(model: "PreTrainedModel", prompts: Sequence[tuple[int, ...]], pad_id: int) -> RowBatch:
    """A batch with one row a prompt, of which equal ones, and what others begin with, were read once."""
    cache, device = build_growing_cache(model.config), model.device
    # Layers of other kinds than full attention count places and not positions: the padding that lies between what is
    # shared and the rest would take room of a sliding window.
    least_shared = find_least_shared(model.num_parameters()) if keeps_all(cache) else None
    reading = plan_reading(prompts, least_shared=least_shared)
    if len(reading.levels) > 1 and not passes_over_holes(model):
        reading = plan_reading(prompts, least_shared=None)
    keeps_once = reading.begins_alike and keeps_begins(model)
    mask = torch.zeros((1, 0), dtype=torch.int64, device=device)
    logits = positions = mask
    for number, level in enumerate(reading.levels):
        parents = torch.tensor(level.parents, device=device)
        if number == 1 and keeps_once:
            for layer in cache.layers:
                layer.keep_once()
        elif number:
            # Each goes on in its own way, behind keys and values of its own.
            cache.batch_select_indices(parents)
        logits, mask, positions = _read_behind(model, cache, mask[parents], level.pieces, pad_id)
    source = torch.tensor(reading.rows, device=device)
    # Equal prompts continue in different ways too, and prompts of one group were read side by side.
    if reading.rows != list(range(len(prompts))):
        cache.batch_select_indices(source)
    rows = torch.arange(len(prompts), device=device)
    begun = (mask[source], positions[source], logits[source])
    return RowBatch(model, cache, rows, *begun, reading.shared, mask.shape[1])


_PASSES_OVER_HOLES: "WeakKeyDictionary[PreTrainedModel, bool]" = WeakKeyDictionary()


def passes_over_holes(model: "PreTrainedModel") -> bool:
    """Whether masked tokens between others change nothing, tried once on a few.

    A model whose attention goes by the place of a token and not by its position, as MPT's does, sees the others farther
    away.
    """
    if model not in _PASSES_OVER_HOLES:
        found = []
        for num_masked in (0, NUM_MASKED):
            cache = build_growing_cache(model.config)
            tokens = torch.arange(2 + num_masked, device=model.device).unsqueeze(0) % 3
            mask = torch.ones((1, 3 + num_masked), dtype=torch.int64, device=model.device)
            mask[:, 2 : 2 + num_masked] = 0
            places = torch.arange(3 + num_masked, device=model.device).unsqueeze(0)
            with torch.inference_mode():
                _read(model, cache, tokens, mask[:, :-1], places[:, :-1])
                found.append(_read(model, cache, tokens[:, 1:2], mask, places[:, 2:3]))
        allowed = torch.finfo(found[0].dtype).eps ** 0.5 * float(found[0].abs().max())
        _PASSES_OVER_HOLES[model] = float((found[0] - found[1]).abs().max()) <= allowed
    return _PASSES_OVER_HOLES[model]


_KEEPS_BEGINS: "WeakKeyDictionary[PreTrainedModel, bool]" = WeakKeyDictionary()


def keeps_begins(model: "PreTrainedModel") -> bool:
    """Whether every layer of a model attends by `attend_grouped` to what rows begin with, tried once on two tokens.

    A model may attend in a way of its own, or make other keys of those that its cache gives it.
    """
    if model not in _KEEPS_BEGINS:
        cache = build_growing_cache(model.config)
        tokens = torch.zeros((1, 1), dtype=torch.int64, device=model.device)
        ones = torch.ones((1, 2), dtype=torch.int64, device=model.device)
        can = model.config._attn_implementation == GROUPED_ATTENTION
        if can:
            _read(model, cache, tokens, ones[:, :1], tokens)
            begun = [layer.keep_once() for layer in cache.layers if isinstance(layer, GrowingLayer)]
            try:
                _read(model, cache, tokens, ones, tokens + 1)
            except (RuntimeError, ValueError):
                # Keys and mask are not of one length.
                can = False
            can = can and len(begun) == len(cache.layers) and all(one.is_read for one in begun)
        _KEEPS_BEGINS[model] = can
    return _KEEPS_BEGINS[model]
