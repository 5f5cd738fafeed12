"""Attention of joined rows: each lane's queries over its own new keys and the frozen keys before them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from probe import devices

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Lane:
    """Rows of one run and one item inside a joined stream.

    `positions`: of the queries, ascending. `start`: first position whose key is new; all from there to the last
    query (or, where fewer queries than keys are wanted, to `stop`) are. None: every key is the clean one.
    """

    item: int
    positions: tuple[int, ...]
    start: int | None
    stop: int

    @property
    def shape(self) -> tuple[int, int, tuple[int, ...]]:
        """Lanes of equal shape are stacked."""
        return (-1 if self.start is None else self.start, self.stop, self.positions)


@dataclass(frozen=True)
class Frozen:
    """Clean keys and values [item kv_head pos d_head] and the additive or boolean mask [item 1 pos key_pos]."""

    k: Tensor
    v: Tensor
    mask: Tensor | None

    def bias(self, items: Tensor, positions: Sequence[int], stop: int, device: torch.device) -> Tensor:
        """The mask rows of queries at `positions` over keys before `stop` [lane|1 1 query key].

        Args:
            items: items of the lanes.
            positions: padded positions of the queries.
            stop: first key position that is left out.
            device: where the result lies.
        """
        at = torch.tensor(positions, device=device)
        if self.mask is None:  # the kernel was told "causal" instead
            return torch.arange(stop, device=device)[None, :].le(at[:, None])[None, None]
        mask = self.mask[items if self.mask.shape[0] > 1 else items[:1] * 0]
        return mask[:, :, at, :stop]


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float, softcap: float | None) -> Tensor:
    """z [lane head query d_head] of q [lane head query d_head], k and v [lane kv_head key d_head].

    Args:
        q: queries [lane head query d_head], rotated.
        k: keys [lane kv_head key d_head], rotated.
        v: values [lane kv_head key d_head].
        bias: what is added to scores, or True where keys are seen [lane|1 1 query key].
        scale: factor of the scores.
        softcap: bound of the scores (tanh), None for none.
    """
    if softcap is not None:
        return explicit(q, k, v, bias, scale, softcap)
    groups = q.shape[1] // k.shape[1]
    if groups > 1 and not devices.takes_grouped_heads(q.device):
        k, v, groups = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), 1
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale, enable_gqa=groups > 1)


def explicit(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float, softcap: float | None) -> Tensor:
    """The same, step by step.

    Args:
        q: queries [lane head query d_head], rotated.
        k: keys [lane kv_head key d_head], rotated.
        v: values [lane kv_head key d_head].
        bias: what is added to scores, or True where keys are seen [lane|1 1 query key].
        scale: factor of the scores.
        softcap: bound of the scores (tanh), None for none.
    """
    return weigh(softmax(scores(q, k, bias, scale, softcap), q.dtype), v)


def scores(q: Tensor, k: Tensor, bias: Tensor, scale: float, softcap: float | None) -> Tensor:
    """Scores [lane head query key], capped and masked, before the softmax.

    Args:
        q: queries [lane head query d_head], rotated.
        k: keys [lane kv_head key d_head], rotated.
        bias: what is added to scores, or True where keys are seen [lane|1 1 query key].
        scale: factor of the scores.
        softcap: bound of the scores (tanh), None for none.
    """
    out = q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).transpose(-1, -2) * scale
    if softcap is not None:
        out = torch.tanh(out / softcap) * softcap
    if bias.dtype == torch.bool:
        bias = torch.zeros_like(bias, dtype=out.dtype).masked_fill(~bias, torch.finfo(out.dtype).min)
    return out + bias


def softmax(masked: Tensor, dtype: torch.dtype) -> Tensor:
    """The pattern of masked scores."""
    return F.softmax(masked, dim=-1, dtype=torch.float32).to(dtype)


def weigh(pattern: Tensor, v: Tensor) -> Tensor:
    """z [lane head query d_head] of a pattern [lane head query key]."""
    return pattern @ v.repeat_interleave(pattern.shape[1] // v.shape[1], 1)


def joined(lanes: Sequence[Lane], frozen: Frozen, keys: tuple[Tensor, Tensor] | None = None) -> Callable[..., Tensor]:
    """The attention function for a stream of lanes, those of equal shape next to each other.

    `keys`: new keys and values [1 kv_head row d_head] computed beforehand, for every position from each lane's
    start to its stop, where the stream's own rows are only some of these.

    Args:
        lanes: the lanes, those of equal shape next to each other.
        frozen: the unedited run's keys, values and mask.
        keys: new keys and values computed beforehand.
    """

    def run(q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None) -> Tensor:
        k, v = keys or (k, v)
        out = q.new_empty(1, q.shape[2], q.shape[1], v.shape[-1])  # [1 row head d_head]
        row = key = 0
        for (start, stop, positions), members in groupby(lanes, key=lambda lane: lane.shape):
            items = torch.tensor([lane.item for lane in members], device=q.device)
            count, n = len(items), len(positions)
            rows = slice(row, row + count * n)
            new = slice(key, key + count * (n if start < 0 else stop - start))
            all_k, all_v = frozen.k[items, :, :stop], frozen.v[items, :, :stop]
            if start >= 0:
                all_k = torch.cat([all_k[:, :, :start], _stack(k, new, count)], 2)
                all_v = torch.cat([all_v[:, :, :start], _stack(v, new, count)], 2)
            bias = frozen.bias(items, positions, stop, q.device)
            z = attend(_stack(q, rows, count), all_k, all_v, bias, scale, softcap)
            out[0, rows].view(count, n, *out.shape[2:]).copy_(z.transpose(1, 2))
            row, key = rows.stop, new.stop
        return out

    return run


def _stack(x: Tensor, rows: slice, count: int) -> Tensor:
    """[1 head row d] -> [lane head query d]."""
    return x[0, :, rows].unflatten(1, (count, -1)).transpose(0, 1)
