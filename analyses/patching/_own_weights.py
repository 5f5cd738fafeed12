"""Which parts of a pair of checkpoints have the same weights: such a part passes on what was made before it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from probe.lazily import torch

if TYPE_CHECKING:
    from probe import Model
    from probe.sites import Site
    from probe.weights import Place, Slot

    Slots = dict[Place, tuple[Slot, ...]]


def unchanged(base: Model, tuned: Model, sites: Iterable[Site]) -> frozenset[tuple[str, int]]:
    """(kind, layer) of sites whose own weights, norms before them included, are equal in both checkpoints.

    Patched between the two they can only carry on what earlier parts do (downstream). Of the residual stream, all
    weights before it are its own. Nothing where an edit is open on either model: then weights do not tell.
    """
    from probe.weights import places

    if base.open_edits or tuned.open_edits:
        return frozenset()
    have = places(base)
    weights = base.weights(), tuned.weights()
    same: dict[Place, bool] = {}

    def is_same(place: Place) -> bool:
        if place not in same:
            same[place] = all(_equal(slot, *(w.get(slot.name) for w in weights)) for slot in have[place])
        return same[place]

    asked = {(s.kind, s.layer) for s in sites if s.layer is not None}
    return frozenset(at for at in asked if all(is_same(place) for place in _own(have, *at)))


def _equal(slot: Slot, first: torch.Tensor | None, second: torch.Tensor | None) -> bool:
    if first is None or second is None or first.shape != second.shape:
        return False
    a, b = (slot.read(x.detach()) for x in (first, second))
    return bool(torch.equal(a, b.to(a)))


def _own(have: Slots, kind: str, layer: int) -> list[Place]:
    """Places whose weights make what is read at a site, given what comes into its block (the stream: at all)."""
    in_block = [p for p in have if p.layer == layer]
    if not kind.startswith("resid_"):
        other = "attn." if kind.startswith("mlp") else "mlp."
        return [p for p in in_block if not p.part.startswith(other)]
    before = [p for p in have if p.part == "embed" or (p.layer is not None and p.layer < layer)]
    through = {"resid_pre": [], "resid_mid": [p for p in in_block if not p.part.startswith("mlp.")]}
    return before + through.get(kind, in_block)
