"""Visits: reading and editing one site's tensor, the same for every backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from probe.errors import InputError, ProbeError
from probe.interventions import Edit, selected
from probe.sites import READ_ONLY, Site

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from probe.tokens import TokenBatch


@dataclass
class Visitor:
    """What to do at one whole site: apply edits in order, then keep the value if it is wanted."""

    site: Site
    keep: bool
    keep_graph: bool = False
    edits: list[tuple[Edit, Bool[Tensor, "item pos"] | None]] = field(
        default_factory=list["tuple[Edit, Tensor | None]"]
    )
    seen: Tensor | None = None
    count: int = 0

    @property
    def looks(self) -> bool:
        """Whether something looks on here, and nothing is changed."""
        return bool(self.edits) and all(edit.looks for edit, _ in self.edits)

    def __call__(self, x: Tensor) -> Tensor | None:
        """The edited tensor, or None if nothing is edited here."""
        self.count += 1
        new = x
        for edit, mask in self.edits:
            changed = _apply(edit, None if edit.looks else mask, new)
            new = new if edit.looks else changed
        if self.keep:
            self.seen = new if self.keep_graph else new.detach()
        return None if self.looks or not self.edits else new

    def value(self, site: Site) -> Tensor:
        """The kept value: all heads, or the one the site names."""
        if self.seen is None:
            raise ProbeError(f"{site} was not kept")
        return self.seen if site.head is None else self.seen.select(site.head_dim, site.head)


def visitors(
    read: Sequence[Site],
    edits: Sequence[Edit],
    batch: TokenBatch,
    resolve: Callable[[Site | str], Site],
    *,
    keep_graph: bool = False,
) -> dict[Site, Visitor]:
    """One visitor per whole site that is read or edited."""
    wanted = {site.whole for site in read}
    out = {site: Visitor(site, keep=True, keep_graph=keep_graph) for site in wanted}
    for edit in edits:
        site = resolve(edit.site).whole
        if site.kind in READ_ONLY:
            raise InputError(
                f"{edit.site} can be read, not edited: the router chooses its experts inside the module that gives "
                f"it; edit {Site('mlp_out', site.layer)}, what the chosen experts add, or resid_mid before them"
            )
        visitor = out.setdefault(site, Visitor(site, keep=False, keep_graph=keep_graph))
        visitor.edits.append((edit, selected(edit, batch)))
    return out


def check_passed(visits: Mapping[Site, Visitor]) -> None:
    """Raise if a site asked for was not passed exactly once: what was asked for there was not done."""
    for site, visitor in visits.items():
        if visitor.count != 1:
            raise ProbeError(
                f"{site} was passed {visitor.count} times in one forward pass, expected 1: what was asked for "
                "there was not done"
            )


def _apply(edit: Edit, mask: Bool[Tensor, "item pos"] | None, x: Tensor) -> Tensor:
    """The tensor with the edit's new values where its mask is True (None: everywhere)."""
    site = edit.site
    part = x if site.head is None else x.select(site.head_dim, site.head)
    new = _called(edit, part) if mask is None else _where(edit, mask, part)
    return new if site.head is None else x.select_scatter(new, site.head_dim, site.head)


def _where(edit: Edit, mask: Bool[Tensor, "item pos"], part: Tensor) -> Tensor:
    before = part.clone() if part.is_inference() else part._version  # pyright: ignore[reportPrivateUsage]
    new = _called(edit, part)
    if _written(part, before):
        raise InputError(
            f"edit at {edit.site}: its function wrote into its argument, which would change positions that were "
            "not selected; return a new tensor (start from x.clone())"
        )
    shape = [1] * part.ndim
    shape[0], shape[edit.site.dims.index("pos")] = mask.shape
    return torch.where(mask.view(shape).to(part.device), new, part)


def _called(edit: Edit, part: Tensor) -> Tensor:
    try:
        new = edit.function(part)
    except ValueError as error:
        raise InputError(f"edit at {edit.site}: {error}") from error
    if new.shape != part.shape:
        raise InputError(
            f"edit at {edit.site}: the function gave {tuple(new.shape)}; expected {tuple(part.shape)} "
            f"{list(edit.site.dims)}"
        )
    return new.to(part.dtype)


def _written(x: Tensor, before: Tensor | int) -> bool:
    """True if `x` was written into since (inference tensors, of generation, count no versions)."""
    if isinstance(before, torch.Tensor):
        return not torch.equal(x.nan_to_num(), before.nan_to_num())
    return x._version != before  # pyright: ignore[reportPrivateUsage]
