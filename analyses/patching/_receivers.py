"""Gradients of a metric at what every part of a model reads: the input of each head's query, key and value, of MLPs.

The metric's gradient at a residual state is that of everything which reads it. Here each reader is told apart: the
gradient at its own output is carried back through its projection and its norm alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from analyses.patching._paths import PARTS, Receiver
from probe.replay import attention
from probe.replay.decoder import nothing
from probe.replay.ports import Change, changed

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from probe import Model
    from probe.replay import Clean, Metric

    Read = Float[Tensor, "receiver item pos d_model"]


def receivers(model: Model) -> list[Receiver]:
    """All that read the residual stream, in the order of the pass; keys and values by their own (grouped) heads."""
    shape, found = model.shape, list[Receiver]()
    for layer in range(shape.n_layers):
        for part in PARTS:
            heads = shape.n_heads if part == "q" else shape.n_kv_heads
            found += [Receiver(part, layer, head, part != "q") for head in range(heads)]
        found.append(Receiver("mlp", layer))
    return [*found, Receiver("final")]


@dataclass
class _Taps:
    """What one pass showed, in its graph: by layer what a block, its attention and its MLP had."""

    inputs: list[Tensor] = field(default_factory=list["Tensor"])
    qkv: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list["tuple[Tensor, Tensor, Tensor]"])
    attn_out: list[Tensor] = field(default_factory=list["Tensor"])
    mlp_out: list[Tensor] = field(default_factory=list["Tensor"])

    @property
    def last(self) -> Tensor:
        return self.inputs[-1]


def gradients(run: Clean, metric: Metric, starts: Sequence[Float[Tensor, "item pos d_model"]]) -> Read:
    """Gradients at every receiver's input, in the order of `receivers`, mean over passes from these first states.

    One state gives EAP (arXiv 2310.10348); several, on the way from corrupt to clean, its integrated gradients
    (arXiv 2403.17806).
    """
    total: Tensor | None = None
    for start in starts:
        with torch.enable_grad():
            one = torch.stack(list(_one(run, metric, start)))
        total = one if total is None else total.add_(one)
    if total is None:
        raise ValueError("no pass to take gradients of")
    return total / len(starts)


def _one(run: Clean, metric: Metric, start: Tensor) -> Iterator[Tensor]:
    taps = _pass(run, start.detach().requires_grad_())
    flat = [t for layer in range(run.n_layers) for t in (*taps.qkv[layer], taps.mlp_out[layer])]
    slopes = torch.autograd.grad(_value(run, metric, taps), [*flat, taps.last], materialize_grads=True)
    for layer in range(run.n_layers):
        own = slopes[4 * layer : 4 * layer + 4]
        yield from _of_heads(run, layer, taps.inputs[layer].detach(), own[:3])
        yield _of_mlp(run, layer, taps, own[3])
    yield slopes[-1]


def _pass(run: Clean, start: Tensor) -> _Taps:
    """The model from a given first state, block by block, in a graph."""
    taps, x = _Taps(), start
    for layer in range(run.n_layers):
        taps.inputs.append(x)
        x = _block(run, layer, x, taps)
    taps.inputs.append(x)
    return taps


def _block(run: Clean, layer: int, x: Tensor, taps: _Taps) -> Tensor:
    def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None) -> Tensor:
        taps.qkv.append((q, k, v))
        return attention.attend(q, k, v, run.bias(layer), scale, softcap).transpose(1, 2)

    def kept(into: list[Tensor]) -> Change:
        def keep(value: Tensor) -> Tensor:
            into.append(value.clone())
            return into[-1]

        return keep

    changes = {"attn_out": kept(taps.attn_out), "mlp_out": kept(taps.mlp_out)}
    with changed(run.ports(layer), changes, len(run.batch)):
        return run.decoder.block(layer, x, run.calls[layer], attend)


def _value(run: Clean, metric: Metric, taps: _Taps) -> Tensor:
    """Sum over items of the metric."""
    item, pos = metric.rows.to(taps.last.device).nonzero(as_tuple=True)
    scores = metric.score(run.decoder.head(taps.last[item, pos]), item, pos)
    count = torch.bincount(item, minlength=len(run.batch)).clamp(min=1)
    return (scores / count[item]).sum()


def _of_heads(run: Clean, layer: int, x: Tensor, slopes: Sequence[Tensor]) -> Iterator[Tensor]:
    """The gradient at a block's input through one head's query, key or value at a time."""
    x = x.requires_grad_()
    read = run.decoder.projections(layer, x, run.calls[layer])
    for value, slope in zip(read, slopes, strict=True):
        for head in range(value.shape[1]):
            (found,) = torch.autograd.grad(value[:, head], x, slope[:, head], retain_graph=True)
            yield found


def _of_mlp(run: Clean, layer: int, taps: _Taps, slope: Tensor) -> Tensor:
    """The gradient at what an MLP reads, through the MLP alone."""
    delta = torch.zeros_like(taps.inputs[layer]).requires_grad_()
    seen: list[Tensor] = []
    x, changes = taps.inputs[layer].detach(), dict[str, Change]()
    if run.model.sites("resid_mid"):
        attended = taps.attn_out[layer].detach()
        changes["attn_out"] = lambda _: attended + delta
    else:  # the MLP runs beside attention
        x = x + delta
    changes["mlp_out"] = seen.append
    with changed(run.ports(layer), changes, len(run.batch)):
        run.decoder.block(layer, x, run.calls[layer], nothing)
    (found,) = torch.autograd.grad(seen[0], delta, slope)
    return found
