"""A key-value cache that grows in place: transformers' own layers copy all they hold for every token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers.cache_utils import DynamicCache, DynamicLayer

if TYPE_CHECKING:
    from torch import Tensor

ROOM = 64
"""Columns a layer has to spare when it is copied: one copy in so many tokens."""


class Roomy(DynamicLayer):
    """A layer that holds every token, in memory with room at its end."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._held: dict[str, Tensor] = {}

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens, the new ones at the end; views, valid until rows or columns change."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._with("keys", self.keys, key_states)
        self.values = self._with("values", self.values, value_states)
        return self.keys, self.values

    def _with(self, name: str, now: Any, new: Tensor) -> Tensor:
        n = now.shape[-2] if now.numel() else 0
        end, whole = n + new.shape[-2], self._held.get(name)
        is_own = whole is not None and n > 0 and now.data_ptr() == whole.data_ptr() and now.shape[0] == whole.shape[0]
        if whole is None or not is_own or whole.shape[-2] < end:
            whole = new.new_empty((*new.shape[:-2], end + ROOM, new.shape[-1]))
            if n:
                whole[..., :n, :] = now
            self._held[name] = whole
        whole[..., n:end, :] = new
        return whole[..., :end, :]


def roomy(config: Any) -> DynamicCache:
    """An empty cache whose layers of full attention grow in place."""
    cache = DynamicCache(config=config)
    cache.layers = [Roomy() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    if getattr(cache, "layer_class_to_replicate", None) is DynamicLayer:
        cache.layer_class_to_replicate = Roomy
    return cache
