"""A key-value cache with room ahead, so that a decode step writes one token instead of copying all that came before.

Transformers has two: `DynamicCache` concatenates at every step, and `StaticCache` is made for a length and a batch
known beforehand, attends over all of it, and lets no row leave. This one is `DynamicCache` with another layer of full
attention; layers of other kinds (sliding windows, linear attention) stay transformers' own.
"""
# ruff: noqa: TID253 (imported by the decode loop once a model is loaded)

from typing import TYPE_CHECKING, Any

from transformers.cache_utils import DynamicCache, DynamicLayer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

ROOM = 64
"""Tokens of room that are added when there is none."""


class GrowingLayer(DynamicLayer):
    """One layer's keys and values, views [num_rows, num_heads, length, head_dim] of a store that has room for more."""

    def __init__(self, **options: Any) -> None:
        """Hold nothing; the first update tells the shapes."""
        super().__init__(**options)
        self._stores: tuple[torch.Tensor, ...] = ()
        self._length = 0

    def update(
        self, key_states: "torch.Tensor", value_states: "torch.Tensor", *_: object, **__: object
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """Write new tokens behind those there, and give all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._stores = tuple(_make_room(new[:, :, :0], new.shape[2]) for new in (key_states, value_states))
        end = self._length + key_states.shape[2]
        if end > self._stores[0].shape[2]:
            self._stores = tuple(_make_room(store[:, :, : self._length], end) for store in self._stores)
        for store, new in zip(self._stores, (key_states, value_states), strict=True):
            store[:, :, self._length : end] = new
        self._show(end)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Tokens held."""
        return self._length

    def batch_select_indices(self, indices: "torch.Tensor") -> None:
        """Keep these rows, in this order; a row may be named more than once."""
        if self._length:
            self._stores = tuple(_make_room(kept[indices], self._length + 1) for kept in (self.keys, self.values))
            self._show(self._length)

    def _show(self, length: int) -> None:
        self._length = length
        self.keys, self.values = (store[:, :, :length] for store in self._stores)


def _make_room(held: "torch.Tensor", length: int) -> "torch.Tensor":
    """A store for `length` tokens, rounded up, that begins with those held."""
    store = held.new_empty((*held.shape[:2], -(-length // ROOM) * ROOM, held.shape[3]))
    store[:, :, : held.shape[2]] = held
    return store


def build_growing_cache(config: "PreTrainedConfig") -> DynamicCache:
    """An empty cache for a model of this config."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
