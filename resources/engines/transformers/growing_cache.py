"""The keys and values of rows of unequal length, written in place, with what all rows begin with kept once.

Transformers' `DynamicCache` concatenates at every step, and its `StaticCache` is made for a length and a batch known
beforehand, attends over all of it, and lets no row leave. Layers of other kinds than full attention (sliding windows,
linear attention) stay transformers' own.
"""
# ruff: noqa: TID253 (imported once a model is loaded)

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

GROUPED_ATTENTION = "grouped_decode"
"""The attention that reads `Begun`, by its name in transformers (`grouped_attention`)."""
ROOM = 64
"""Tokens of room that are added when there is none."""


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

    @property
    def num_own(self) -> int:
        """Tokens of each row's own that are held."""
        return self._length

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows, in this order; a row may be named more than once."""
        # Before the first update there are no stores, and their shape is not known.
        if self._length:
            self._stores = tuple(_make_room(kept[indices], self._length + 1) for kept in (self.keys, self.values))
            self._show(self._length)

    def copy_rows(self, indices: torch.Tensor) -> "GrowingLayer":
        """Another layer with these rows, in this order; this one stays as it is."""
        copied = copy.copy(self)
        copied.batch_select_indices(indices)
        return copied

    def join(self, parts: "Sequence[tuple[torch.Tensor, GrowingLayer]]") -> None:
        """Hold the rows of other layers, each with its last token at the end and zeros before its first.

        Args:
            parts: indices of rows here, each of which is in one part, and the layer that has them, behind nothing but
                what this layer keeps once. The layers are emptied.
        """
        if not all(part._stores for _, part in parts):
            return
        num_rows, length = sum(len(indices) for indices, _ in parts), max(part._length for _, part in parts)
        (_, first), *_ = parts
        # Not only room: what is masked is multiplied by 0, and anything may lie in memory.
        self._stores = tuple(
            store.new_zeros((num_rows, store.shape[1], -(-length // ROOM) * ROOM, store.shape[3]))
            for store in first._stores
        )
        for indices, part in parts:
            for store, own in zip(self._stores, (part.keys, part.values), strict=True):
                store[indices, :, length - part._length : length] = own
            # Whoever joins all layers of a cache would have everything twice.
            part._stores = tuple(store.new_empty((0, *store.shape[1:])) for store in part._stores)
            part._show(part._length)
        self.is_initialized = True
        self._show(length)

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


def keeps_all(cache: DynamicCache) -> bool:
    """Whether every layer keeps every token; a sliding window drops some, and has places of its own."""
    return all(type(layer) is GrowingLayer for layer in cache.layers)


def holds_no_rows(cache: DynamicCache) -> bool:
    """Whether a cache `keeps_all`, and nothing of rows' own yet; what all rows begin with may be kept once."""
    return all(isinstance(layer, GrowingLayer) and not layer.num_own for layer in cache.layers)


def join_rows(cache: DynamicCache, parts: Sequence[tuple[torch.Tensor, DynamicCache]]) -> None:
    """Let a cache that `holds_no_rows` hold those of others, as `GrowingLayer.join` does."""
    for place, layer in enumerate(cache.layers):
        assert isinstance(layer, GrowingLayer), "only of a cache that keeps all"
        own = [(indices, part.layers[place]) for indices, part in parts]
        layer.join([(indices, one) for indices, one in own if isinstance(one, GrowingLayer)])


def copy_rows(cache: DynamicCache, indices: torch.Tensor) -> DynamicCache:
    """Another cache with these rows, of one that `keeps_all`."""
    copied = copy.copy(cache)
    copied.layers = [layer.copy_rows(indices) for layer in cache.layers if isinstance(layer, GrowingLayer)]
    return copied
