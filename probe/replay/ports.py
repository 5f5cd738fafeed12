"""The sites inside a block that replay reads and changes, at the modules where a backend visits them too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from probe.backends.hooks import Port, attached
from probe.sites import KINDS, Site

if TYPE_CHECKING:
    from torch import Tensor, nn

    from probe.backends.place import Map

Change: TypeAlias = "Callable[[Tensor], Tensor | None]"
"""Gets the site's tensor [item pos ...] and returns the changed one, or None to leave it."""

_BETWEEN_BLOCKS = ("resid_pre", "resid_mid", "resid_post")


def ports(hf_model: nn.Module, where: Map, layer: int) -> dict[str, Port]:
    """The ports of one block by kind of site (attn_scores and pattern are seen in the attention function).

    Args:
        hf_model: the model.
        where: where sites lie in it.
        layer: the block, from 0.
    """
    here = {kind: where.places.get(Site(kind, layer)) for kind in KINDS if _is_inside(kind)}
    return {kind: Port(hf_model.get_submodule(p.path), p) for kind, p in here.items() if p is not None}


def _is_inside(kind: str) -> bool:
    return kind not in (*_BETWEEN_BLOCKS, "embed", "ln_final", "logits", "attn_scores", "pattern")


@contextmanager
def changed(found: Mapping[str, Port], changes: Mapping[str, Change], n_items: int = 1) -> Iterator[None]:
    """Within the block, each change is applied at its port, in a pass of `n_items` items.

    Args:
        found: kind of site -> its port.
        changes: kind of site -> what is done to it.
        n_items: items in the pass.
    """
    with attached({found[kind]: change for kind, change in changes.items()}, n_items):
        yield
