"""Key-value caches whose rows join and whose columns go: what continuous batching needs of them.

Rows are left-padded to one width and end at the same column, so a cache joins another by columns of zeros at its left,
which the mask hides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

KEYS_AND_VALUES = ("DynamicLayer", "DynamicSlidingWindowLayer", "Roomy")


def can_join(cache: Any) -> bool:
    """Whether all this cache holds is keys and values by token (no running state, no compressed or packed form)."""
    return all(type(layer).__name__ in KEYS_AND_VALUES for layer in cache.layers)


def join(cache: Any, other: Any) -> None:
    """Put the rows of `other` behind those of `cache`, both padded at the left to the wider one's columns."""
    for mine, new in zip(cache.layers, other.layers, strict=True):
        if new.is_initialized:
            width = max(mine.keys.shape[-2], new.keys.shape[-2])
            mine.keys = torch.cat([_padded(mine.keys, width), _padded(new.keys, width)])
            mine.values = torch.cat([_padded(mine.values, width), _padded(new.values, width)])
            _count(mine, max(mine.get_seq_length(), new.get_seq_length()))


def trim(cache: Any, columns: int) -> None:
    """Take away the first columns, which no row reads."""
    for layer in cache.layers:
        if layer.is_initialized:
            left = layer.get_seq_length() - columns
            kept = min(left, layer.keys.shape[-2])
            layer.keys, layer.values = layer.keys[..., -kept:, :], layer.values[..., -kept:, :]
            _count(layer, left)


def _count(layer: Any, columns: int) -> None:
    """A sliding layer counts its columns; the others have them."""
    if layer.is_sliding:
        layer.cumulative_length = columns


def _padded(x: Float[Tensor, "row head pos d"], width: int) -> Float[Tensor, "row head width d"]:
    return torch.nn.functional.pad(x, (0, 0, width - x.shape[-2], 0))
