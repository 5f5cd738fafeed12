"""One place: which side of which module a site is, and how its tensor lies there; and the map of all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from probe import families
from probe.backends.softmax import Door
from probe.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

Layout = Literal["plain", "split", "heads_first", "picked", "in_place"]

WRITERS = ("attn_out", "mixer_out", "mlp_out")
"""Kinds that a block adds to the residual stream; with resid_pre they sum to resid_post."""


@dataclass(frozen=True)
class Place:
    """One side of a module, and how the site's tensor lies in what passes there.

    `split`: heads are joined in the last dimension. `heads_first`: [item, head, pos, d_head]. `picked`:
    `columns` of a fused projection (heads joined, if there are any). `in_place`: the model goes on with the same
    tensor on two paths (the skip path too), so an edit must be written into it. `index`: which of the module's
    arguments or results it is. `factor`: what the model multiplies it by before it is the site's value. `flat`:
    items and positions are joined. `is_rewritten`: the model writes into the tensor later in the same pass, so what
    is read is a copy.
    """

    path: str
    side: Literal["in", "out"]
    layout: Layout = "plain"
    n_heads: int = 0
    columns: Int[Tensor, " column"] | None = None
    index: int = 0
    factor: float = 1.0
    flat: bool = False
    is_rewritten: bool = False

    def view(self, x: Tensor, n_items: int = 1) -> Tensor:
        """The site's tensor, in the dimensions of `probe.sites.KINDS`."""
        x = x.clone() if self.is_rewritten else x
        if self.flat:
            x = x.unflatten(0, (n_items, -1))
        if self.factor != 1.0:
            return x * self.factor
        if self.layout == "heads_first":
            return x.transpose(1, 2)
        if self.layout == "picked":
            assert self.columns is not None
            x = x[..., self.columns]
            return x.unflatten(-1, (self.n_heads, -1)) if self.n_heads else x
        return x.unflatten(-1, (self.n_heads, -1)) if self.layout == "split" else x

    def write(self, new: Tensor, x: Tensor) -> Tensor:
        """What passes on in place of `x` when the site's tensor is `new`."""
        new = new.clone() if self.is_rewritten else new
        if self.factor != 1.0:
            return (new / self.factor).reshape(x.shape)
        if self.layout == "heads_first":
            return new.transpose(1, 2)
        if self.layout == "picked":
            assert self.columns is not None
            rows = (new.flatten(-2) if self.n_heads else new).reshape(*x.shape[:-1], -1)
            return x.index_copy(-1, self.columns.to(x.device), rows)
        if self.layout == "in_place":
            return x.copy_(new.reshape(x.shape))
        return new.flatten(-2).reshape(x.shape) if self.layout == "split" else new.reshape(x.shape)


@dataclass(frozen=True)
class Map:
    """Where the sites of a model are.

    Attributes:
        places: site -> place; `attn_scores` and `pattern` are not sides of modules (see `doors`).
        doors: block -> the softmax inside its attention, under the eager kernel.
        order: (kind, block) -> when it is passed, for every place.
        absent: (kind, block) -> why this block does not have it.
        attention: block -> path of its attention module.
        blocks: path of the list of blocks.
        trunk: path of the decoder that holds them and reads token ids.
        norm: path of the final norm (a site, ln_final, only where it is called for nothing else).
    """

    places: dict[Site, Place]
    doors: dict[int, Door]
    order: dict[Site, int]
    absent: dict[Site, str]
    attention: dict[int, str]
    blocks: str
    trunk: str
    norm: str

    def own_outputs(self) -> frozenset[Site]:
        """Sites that equal the output of the module of their name (no norm or factor in between)."""
        names = {*families.ATTENTION, *families.MLP}
        return frozenset(
            s
            for s, p in self.places.items()
            if s.kind == "resid_post" or (s.kind in WRITERS and p.factor == 1.0 and p.path.split(".")[-1] in names)
        )
