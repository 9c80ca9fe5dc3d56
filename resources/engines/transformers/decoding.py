"""A decode loop for batches of rows of unequal length, in place of `model.generate`.

No library offers this on a CPU: `generate` keeps finished rows in the batch until the last one ends, so one runaway row
makes all of them cost `max_new_tokens` steps. With equal greedy tokens, it differs:
1. Finished rows leave the batch (and the cache) once they are an eighth of it.
2. Equal prompts of a batch, such as the four completions of one prompt, are read by the model once. So is what all
   prompts of a batch begin with, and what groups of them begin with (`prefixes`): a review by LANCE's full template
   shares 527 of 690 tokens with the next one, a request for a new prompt 1,741 of 1,761, and the endings of three
   reviews of one completion all but the reviews.
3. Keys and values are written in place (`GrowingLayer`). Transformers' `DynamicCache` concatenates at every step, and
   its `StaticCache` is made for a length and a batch known beforehand, attends over all of it, and lets no row leave.
   Layers of other kinds than full attention (sliding windows, linear attention) stay transformers' own.
4. A query of one token on a CPU attends by two batched products (`attend_grouped`). Transformers repeats keys and
   values for every query head before it calls torch's sdpa, whose CPU kernel is made for long queries. Here the query
   heads of a group are folded into the query length, which is the same sum without the copy. In a decode step of 256
   rows of 100 tokens (6 heads on 3, 32 wide) sdpa takes 2.7 ms a layer, and this 1.2 ms (two cores).
5. There, what all prompts of a batch begin with is kept once (`Begun`) and not for each row, and all rows attend to it
   in one product, as Hydragen does on GPUs (arXiv 2402.05099). Reading a copy for each row takes most of a step where
   little else is in a prompt.
"""
# ruff: noqa: TID253 (imported once a model is loaded)

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from resources.engines.sampling import SeededTopP, penalise_repetition
from resources.engines.transformers.prefixes import find_least_shared, plan_reading

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

FINISHED_SHARE = 1 / 8
"""Of the rows in the batch: below it, computing finished rows costs less than copying the cache of the others."""
GROUPED_ATTENTION = "grouped_decode"
ROOM = 64
"""Tokens of room that are added when there is none."""


class Constraint(Protocol):
    """Which tokens the rows may go on with, as `resources.engines.transformers.constraint.Constraint` says."""

    def mask(self, logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """The logits, minus infinity for what may not come next."""
        ...

    def advance(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Take note of a token of each row."""
        ...

    def is_whole(self, row: int) -> bool:
        """Whether the row may end."""
        ...


@dataclass(frozen=True)
class Decoded:
    """One row's completion."""

    tokens: list[int]
    """New token ids, a stop id included where there was one."""
    num_shared: int
    """Tokens of its prompt that the model read for a row earlier in the batch."""
    tail: list[tuple[int, list[tuple[int, float]]]]
    """The last tokens, each with the likeliest token ids there and their log-probabilities in nats."""
    is_stuck: bool = False
    """Whether it ended where no token went on and the constraint was not fulfilled."""


@dataclass
class _Batch:
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

    def step(self, tokens: torch.Tensor) -> None:
        """Read one new token a row."""
        self.mask = torch.cat([self.mask, self.mask.new_ones((len(self.rows), 1))], dim=1)
        self.positions = self.positions + 1
        self.logits = _read(self.model, self.cache, tokens.unsqueeze(-1), self.mask, self.positions)

    def keep(self, places: torch.Tensor) -> None:
        """Let all other rows go."""
        self.cache.batch_select_indices(places)
        self.rows, self.mask, self.positions = (kept[places] for kept in (self.rows, self.mask, self.positions))


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


def _read_prompts(model: "PreTrainedModel", prompts: Sequence[tuple[int, ...]], pad_id: int) -> _Batch:
    """A batch with one row a prompt, of which equal ones, and what others begin with, were read once."""
    cache, device = build_growing_cache(model.config), model.device
    # Layers of other kinds than full attention count places and not positions: the padding that lies between what is
    # shared and the rest would take room of a sliding window.
    sees_all = all(type(layer) is GrowingLayer for layer in cache.layers)
    reading = plan_reading(prompts, least_shared=find_least_shared(model.num_parameters()) if sees_all else None)
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
        input_ids, own = (tensor.to(device) for tensor in _pad_left(level.pieces, pad_id))
        mask = mask[parents]
        # A prompt's first token has position 0 however much padding is before it; that of padding does not matter.
        positions = (own.cumsum(dim=1) - 1).clamp(min=0) + mask.sum(dim=1, keepdim=True)
        mask = torch.cat([mask, own], dim=1)
        logits = _read(model, cache, input_ids, mask, positions)
    source = torch.tensor(reading.rows, device=device)
    # Equal prompts continue in different ways too, and prompts of one group were read side by side.
    if reading.rows != list(range(len(prompts))):
        cache.batch_select_indices(source)
    rows = torch.arange(len(prompts), device=device)
    return _Batch(model, cache, rows, mask[source], positions[source, -1:], logits[source], reading.shared)


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


def _note_prompts(prompts: Sequence[Sequence[int]], logits: torch.Tensor) -> torch.Tensor:
    """Which tokens each prompt has, bool [num_prompts, vocabulary] where the logits are."""
    seen = torch.zeros((len(prompts), logits.shape[-1]), dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        seen[row, torch.tensor(prompt)] = True
    return seen.to(logits.device)


def decode_batch(
    model: "PreTrainedModel",
    prompts: Sequence[Sequence[int]],
    sampler: SeededTopP,
    *,
    stop_ids: frozenset[int],
    pad_id: int,
    tail_tokens: int = 0,
    num_alternatives: int = 20,
    constraint: Constraint | None = None,
    ends: Callable[[list[int]], bool] | None = None,
) -> list[Decoded]:
    """Sample a completion for each prompt.

    Args:
        model: a causal language model in eval mode.
        prompts: token ids; equal ones are read once, as is what all begin with.
        sampler: with one sampling seed for each prompt, in order.
        stop_ids: tokens that end a completion.
        pad_id: any token id; padding is masked.
        tail_tokens: last tokens of each row whose alternatives are kept, beside a stop id.
        num_alternatives: likeliest tokens kept for each of them, by the model's own probabilities.
        constraint: what the completions must match, with one row for each prompt.
        ends: whether a row's tokens end its completion, beside a stop id; None where only that does.

    Returns:
        One for each prompt, in order.
    """
    completions: list[list[int]] = [[] for _ in prompts]
    tails: list[deque[tuple[int, list[tuple[int, float]]]]] = [deque(maxlen=tail_tokens + 1) for _ in prompts]
    finished: set[int] = set()
    stuck: set[int] = set()
    penalty = sampler.sampling.repetition_penalty
    with torch.inference_mode():
        batch = _read_prompts(model, [tuple(prompt) for prompt in prompts], pad_id)
        seen = _note_prompts(prompts, batch.logits) if penalty != 1.0 else None
        for step in range(sampler.sampling.max_new_tokens):
            logits = batch.logits if seen is None else penalise_repetition(batch.logits, seen[batch.rows], penalty)
            rows, going_on = batch.rows.tolist(), []
            if constraint is not None:
                logits = constraint.mask(logits, rows)
            # A draw is found by row and step, so a row draws the same tokens whichever others have left the batch.
            tokens = sampler.pick(logits, rows=batch.rows, step=step)
            if seen is not None:
                seen[batch.rows, tokens] = True
            choices = _find_choices(batch.logits, tokens, num_alternatives) if tail_tokens else None
            for place, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
                # Finished rows stay until they are enough to be worth copying the cache; what they are given is not
                # kept.
                if row in finished:
                    continue
                completions[row].append(token)
                if choices is not None:
                    tails[row].append(choices[place])
                if token in stop_ids or (ends is not None and ends(completions[row])):
                    finished.add(row)
                    if constraint is not None and token in stop_ids and not constraint.is_whole(row):
                        stuck.add(row)
                else:
                    going_on.append(place)
            # The last token needs no further pass of the model.
            if not going_on or step + 1 == sampler.sampling.max_new_tokens:
                break
            if len(rows) - len(going_on) >= FINISHED_SHARE * len(rows):
                places = torch.tensor(going_on, device=model.device)
                batch.keep(places)
                tokens = tokens[places]
            batch.step(tokens)
            if constraint is not None:
                constraint.advance(
                    [rows[place] for place in going_on], [completions[rows[place]][-1] for place in going_on]
                )
    return [
        Decoded(tokens, num_shared, list(tail), is_stuck=row in stuck)
        for row, (tokens, num_shared, tail) in enumerate(zip(completions, batch.shared, tails, strict=True))
    ]


def _find_choices(
    logits: torch.Tensor, tokens: torch.Tensor, num_alternatives: int
) -> list[tuple[int, list[tuple[int, float]]]]:
    """Each row's token with the likeliest ones at its place and, where it is none of them, itself."""
    # These are the model's own probabilities, before temperature and top_p.
    logprobs = logits.float().log_softmax(dim=-1)
    values, places = logprobs.topk(min(num_alternatives, logprobs.shape[-1]), dim=-1)
    own = logprobs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    found = []
    for token, value, top, top_values in zip(
        tokens.tolist(), own.tolist(), places.tolist(), values.tolist(), strict=True
    ):
        others = list(zip(top, top_values, strict=True))
        found.append((token, others if token in top else [*others, (token, value)]))
    return found


@dataclass
class Begun:
    """One layer's keys and values of what all rows begin with, [1, num_heads, length, head_dim]."""

    keys: torch.Tensor
    values: torch.Tensor
    is_read: bool = False
    """Whether an attention has read them."""

    @property
    def length(self) -> int:
        """Tokens."""
        return self.keys.shape[2]

    def put_before(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The keys and values of rows, each with these before its own."""
        self.is_read = True
        mine = (self.keys, self.values)
        both = [
            torch.cat([begun.expand(len(own), -1, -1, -1), own], dim=2)
            for begun, own in zip(mine, (keys, values), strict=True)
        ]
        return both[0], both[1]


class GrowingLayer(DynamicLayer):
    """One layer's keys and values, views [num_rows, num_heads, length, head_dim] of a store that has room for more."""

    def __init__(self, **options: Any) -> None:
        """Hold nothing; the first update shows the shapes."""
        super().__init__(**options)
        self._stores: tuple[torch.Tensor, ...] = ()
        self._length = 0
        self._begun: Begun | None = None

    def keep_once(self) -> Begun:
        """Keep what is held, of one row, as what any number of rows begin with; they are given by the next update.

        From then on `update` gives the rows' own keys and values alone, and the keys have an attribute `begun`, of
        which only `attend_grouped` knows (`keeps_begins`).
        """
        self._begun, self._stores, self._length = Begun(self.keys, self.values), (), 0
        return self._begun

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new tokens behind those there, and give all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if not self._stores:
            # An empty slice gives a store the shape, dtype and device of the states.
            self._stores = tuple(_make_room(new[:, :, :0], new.shape[2]) for new in (key_states, value_states))
        end = self._length + key_states.shape[2]
        if end > self._stores[0].shape[2]:
            self._stores = tuple(_make_room(store[:, :, : self._length], end) for store in self._stores)
        for store, new in zip(self._stores, (key_states, value_states), strict=True):
            store[:, :, self._length : end] = new
        self._show(end)
        if self._begun is not None:
            self.keys.begun = self._begun
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Tokens held."""
        return self._length + (0 if self._begun is None else self._begun.length)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows, in this order; a row may be named more than once."""
        # Before the first update there are no stores, and their shape is not known.
        if self._length:
            self._stores = tuple(_make_room(kept[indices], self._length + 1) for kept in (self.keys, self.values))
            self._show(self._length)

    def _show(self, length: int) -> None:
        self._length = length
        # Transformers reads a layer by these two attributes.
        self.keys, self.values = (store[:, :, :length] for store in self._stores)


def _make_room(held: torch.Tensor, length: int) -> torch.Tensor:
    """A store for `length` tokens, rounded up, that begins with those held."""
    # The length is rounded up, so that the cache is copied once in so many tokens and not at each one.
    store = held.new_empty((*held.shape[:2], -(-length // ROOM) * ROOM, held.shape[3]))
    store[:, :, : held.shape[2]] = held
    return store


def build_growing_cache(config: "PreTrainedConfig") -> DynamicCache:
    """An empty cache for a model of this config."""
    cache = DynamicCache(config=config)
    # Not isinstance: layers with a sliding window are subclasses, and drop old tokens by a rule of their own.
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def attend_grouped(
    module: "torch.nn.Module",
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: object,
) -> tuple[torch.Tensor, None]:
    """Transformers' sdpa attention, where a query of one token attends by batched products.

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
    # Prompts are what torch's kernel is made for; the other cases are not covered by the products below.
    if query_length > 1 or not is_plain or not is_shared_mask or value.shape[-1] != head_dim:
        if begun is not None:
            key, value = begun.put_before(key, value)
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    # Query heads that share a key head lie next to each other, so they can be read as several queries of one head.
    num_folded = num_heads // num_groups
    folded = (query * options["scaling"]).reshape(num_rows * num_groups, num_folded, head_dim)
    scores = torch.bmm(folded, key.flatten(0, 1).transpose(1, 2)).view(num_rows, num_groups, -1, key.shape[2])
    if begun is not None:
        begun.is_read = True
        # The queries of all rows are those of one, which reads what they begin with once.
        shape = (num_rows, num_groups, num_folded, -1)
        asked = folded.view(shape).transpose(0, 1).reshape(num_groups, num_rows * num_folded, head_dim)
        before = torch.bmm(asked, begun.keys[0].transpose(1, 2)).view(num_groups, num_rows, num_folded, -1)
        scores = torch.cat([before.transpose(0, 1), scores], dim=-1)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores.masked_fill_(~attention_mask, float("-inf"))
    elif attention_mask is not None:
        scores += attention_mask
    weights, num_before = scores.softmax(dim=-1), 0 if begun is None else begun.length
    attended = torch.bmm(weights[..., num_before:].flatten(0, 1), value.flatten(0, 1))
    if begun is not None:
        asking = weights[..., :num_before].transpose(0, 1).reshape(num_groups, num_rows * num_folded, num_before)
        before = torch.bmm(asking, begun.values[0]).view(num_groups, num_rows, num_folded, head_dim)
        attended = attended + before.transpose(0, 1).reshape(attended.shape)
    return attended.view(num_rows, 1, num_heads, head_dim), None


def use_grouped_attention(model: "PreTrainedModel") -> None:
    """Switch a model that attends by sdpa on a CPU to `attend_grouped`; leave any other as it is."""
    if model.config._attn_implementation != "sdpa" or model.device.type != "cpu":
        return
    AttentionInterface.register(GROUPED_ATTENTION, attend_grouped)
    # Transformers builds no mask for an attention whose name it does not find here.
    AttentionMaskInterface.register(GROUPED_ATTENTION, sdpa_mask)
    model.set_attn_implementation(GROUPED_ATTENTION)
