"""One gradient per item, whole where that fits in memory, else sketched; only one and the rows kept are in memory.

A sketch adds every entry, with a random sign, to one of `dims` sums (count sketch): inner products stay unbiased, and
a cosine c of two sketches is off by sqrt((1 + c^2) / dims) on average.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from analyses.core import reading
from probe.errors import InputError
from probe.lazily import torch

if TYPE_CHECKING:
    from torch import Tensor

    from probe import Model, Prompts, TokenBatch
    from probe.weights import Slot

WHOLE = 250_000_000  # numbers held at once: items x parameters (1 GB)
AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Gradients:
    """Gradients of items [item, dim]; `dims`: numbers of a sketch, 0 where they are whole."""

    values: np.ndarray[Any, Any]
    dims: int

    @property
    def cosine_error(self) -> float:
        """Standard deviation that sketching adds to a cosine near 0; 0 of whole gradients."""
        return self.dims**-0.5 if self.dims else 0.0

    def gram(self, other: Gradients | None = None) -> np.ndarray[Any, Any]:
        """Inner products of all pairs, in float64."""
        right = self if other is None else other
        total = np.zeros((len(self.values), len(right.values)))
        for start in range(0, self.values.shape[1], AT_ONCE // 64):
            part = slice(start, start + AT_ONCE // 64)
            total += self.values[:, part].astype(np.float64) @ right.values[:, part].astype(np.float64).T
        return total


class Leaves:
    """The parameters whose gradients are taken: the chosen parts of the chosen layers, each stored value once."""

    def __init__(self, model: Model, parts: tuple[str, ...], layers: tuple[int, ...]) -> None:
        from probe.weights import places, select

        have, own = places(model), model.weights()
        self.slots: list[tuple[Tensor, list[Slot]]] = []
        seen: dict[int, int] = {}
        for place in select(model, parts, layers or None):
            for slot in have[place]:
                weight = own[slot.name]
                if id(weight) not in seen:
                    seen[id(weight)] = len(self.slots)
                    self.slots.append((weight, [slot]))
                elif slot.index is not None:
                    self.slots[seen[id(weight)]][1].append(slot)
        if not all(w.is_floating_point() for w, _ in self.slots):
            raise InputError("gradients of packed weights are not defined; give the checkpoint in floating point")
        self.size = sum(slot.read(w.detach()).numel() for w, slots in self.slots for slot in slots)

    def gradient(self, value: Tensor) -> Iterator[Tensor]:
        """The gradient of a number, as flat pieces in a fixed order."""
        given = torch.autograd.grad(value, [w for w, _ in self.slots], allow_unused=True)
        found = cast("Sequence[Tensor | None]", given)
        for (weight, slots), g in zip(self.slots, found, strict=True):
            for slot in slots:
                yield slot.read(torch.zeros_like(weight) if g is None else g).detach().flatten().float().cpu()


def sketched(pieces: Iterable[Tensor], dims: int, seed: int) -> Tensor:
    """The count sketch of a vector that comes in pieces; the same seed gives the same map."""
    stream = torch.Generator().manual_seed(seed)
    out = torch.zeros(dims)
    for piece in pieces:
        for part in piece.split(AT_ONCE):
            where = torch.randint(dims, part.shape, generator=stream)
            sign = torch.randint(2, part.shape, generator=stream) * 2 - 1
            out.index_add_(0, where, part * sign)
    return out


def collected(leaves: Leaves, values: Iterable[Tensor], n: int, dims: int, seed: int) -> Gradients:
    """Gradients of `n` numbers that come one by one.

    Args:
        leaves: with respect to what.
        values: numbers with their graph; each is let go before the next is asked for.
        n: how many there are.
        dims: numbers of a sketch; 0: whole where items x parameters stay below 250 million, else 4,096.
        seed: of the sketch.
    """
    dims = dims or (0 if n * leaves.size <= WHOLE else 4096)
    out = np.zeros((n, dims or leaves.size), np.float32)
    for row, value in enumerate(values):
        pieces = leaves.gradient(value)
        out[row] = (sketched(pieces, dims, seed) if dims else torch.cat(list(pieces))).numpy()
    if not np.isfinite(out).all():
        raise InputError("a gradient is not finite; load the model in float32")
    return Gradients(out, dims)


def answer_losses(model: Model, batches: Iterable[TokenBatch]) -> Iterator[Tensor]:
    """Mean negative log-likelihood of each item's answer (rationale included), with its graph; one item a batch."""
    for batch in batches:
        yield answer_loss(reading, model, batch)


def answer_loss(reading: Any, model: Model, batch: TokenBatch) -> Tensor:
    """Mean negative log-likelihood of the answers of a batch, per token, in nats."""
    tokens = reading.scored(batch)
    tokens = tokens.where(tokens.in_span("rationale", "answer"))
    logits = model.run(batch, logits="all", grad=True).logits
    logp = tokens.rows(logits).float().log_softmax(-1)
    return -logp.gather(-1, tokens.target.to(logp.device)[:, None]).mean()


def of_prompts(
    model: Model, prompts: Prompts, leaves: Leaves, dims: int, seed: int, named: Callable[..., Any], template: Any
) -> tuple[Gradients, list[Any]]:
    """The gradient of every item's answer loss, and the items in that order.

    Args:
        model: read, not changed.
        prompts: the items.
        leaves: with respect to what.
        dims: of the sketch, as in `collected`.
        seed: of the sketch.
        named: progress over batches.
        template: as in `Model.batches`.
    """
    batches = model.batches(prompts, batch_size=1, template=template)
    return collected(leaves, answer_losses(model, named(batches)), len(batches), dims, seed), [
        b.items[0] for b in batches
    ]
