"""Edits: what replaces the values at a site during a forward pass, and their constructors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from probe.errors import InputError
from probe.lazily import torch
from probe.sites import Site
from probe.tokens import SPANS

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from probe.tokens import TokenBatch

    Positions = (
        Literal["all", "all_prompt", "last_prompt", "from_last_prompt"] | Bool[Tensor, "item pos"] | Sequence[int]
    )

Phase = Literal["prefill", "every_step"]

_NAMED = ("all", "all_prompt", "last_prompt", "from_last_prompt")


@dataclass(frozen=True)
class Edit:
    """A change at one site.

    `function` gets the site's tensor (one head's, if the site names a head; the dimensions of
    `site.dims`) and returns a new tensor of the same shape; it must not write into its argument.
    Only the chosen positions take the new values. `positions`: `all` real tokens, `all_prompt`
    (template and prompt), `last_prompt`, `from_last_prompt` (every position that predicts a token of the
    answer), a mask [item pos], or positions within each item (0 = its first real token, -1 = its last).
    `phase` matters in generation only: `prefill` edits the prompt's pass; `every_step` edits generated
    tokens too, where `positions` reaches them (`all`, `from_last_prompt`; the others name prompt tokens).
    `looks`: the function is shown the whole tensor, and whatever it returns changes nothing (see `look`).
    """

    site: Site
    function: Callable[[Tensor], Tensor]
    positions: Positions = "all"
    phase: Phase = "every_step"
    looks: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", Site.parse(self.site))
        if isinstance(self.positions, str) and self.positions not in _NAMED:
            raise InputError(
                f"positions={self.positions!r}; expected {', '.join(_NAMED)}, a mask [item pos] or a sequence of "
                "positions within the item"
            )
        if self.phase not in ("prefill", "every_step"):
            raise InputError(f"phase={self.phase!r}; expected 'prefill' or 'every_step'")

    @property
    def reaches_generated(self) -> bool:
        """True if generated tokens are edited too."""
        named = isinstance(self.positions, str) and self.positions in ("all", "from_last_prompt")
        return named and self.phase == "every_step"


def look(site: Site | str, see: Callable[[Tensor], object]) -> Edit:
    """An edit that changes nothing: `see` is called with the site's tensor as it passes."""

    def shown(x: Tensor) -> Tensor:
        see(x)
        return x

    return Edit(Site.parse(site), shown, looks=True)


def patch(site: Site | str, value: Tensor, positions: Positions = "all", phase: Phase = "every_step") -> Edit:
    """An edit that puts `value` (the site's shape, or one that broadcasts to it) in place.

    Args:
        site: where, a `Site` or its name.
        value: what takes its place, in the units of the site.
        positions: `all`, named positions, or a mask [item pos].
        phase: every step of a generation, or the prompt alone.
    """
    place = Site.parse(site)
    what = f"patch at {place} {list(place.dims)}"

    def put(x: Tensor) -> Tensor:
        # Plain torch and builtins only: this function may be sent to a server that lacks this package.
        if value.ndim > x.ndim or any(v not in (1, n) for v, n in zip(value.shape[::-1], x.shape[::-1])):
            raise ValueError(f"{what}: a value of shape {tuple(value.shape)} does not fit {tuple(x.shape)}")
        return value.to(x).expand_as(x)

    return Edit(place, put, positions, phase)


def zero(site: Site | str, positions: Positions = "all", phase: Phase = "every_step") -> Edit:
    """An edit that sets the site to 0 (zero ablation).

    Args:
        site: where, a `Site` or its name.
        positions: `all`, named positions, or a mask [item pos].
        phase: every step of a generation, or the prompt alone.
    """
    return Edit(Site.parse(site), lambda x: x.new_zeros(x.shape), positions, phase)


def mean(site: Site | str, value: Tensor, positions: Positions = "all", phase: Phase = "every_step") -> Edit:
    """An edit that puts a mean the caller measured in place (mean ablation).

    Args:
        site: where, a `Site` or its name.
        value: the mean, of the site's shape or one that broadcasts to it.
        positions: `all`, named positions, or a mask [item pos].
        phase: every step of a generation, or the prompt alone.
    """
    return patch(site, value, positions, phase)


def scale(
    site: Site | str,
    alpha: float,
    neurons: Sequence[int] | None = None,
    positions: Positions = "all",
    phase: Phase = "every_step",
) -> Edit:
    """An edit that multiplies the site by `alpha`, or only `neurons` (indices of its last dimension).

    Args:
        site: where, a `Site` or its name.
        alpha: the factor; 1 changes nothing.
        neurons: indices of the last dimension that are multiplied; all by default.
        positions: `all`, named positions, or a mask [item pos].
        phase: every step of a generation, or the prompt alone.

    Examples:
        >>> import torch
        >>> scale("mlp_post.0", 0.5, neurons=[1]).function(torch.ones(3))
        tensor([1.0000, 0.5000, 1.0000])
    """

    def scaled(x: Tensor) -> Tensor:
        if neurons is None:
            return x * alpha
        out = x.clone()
        out[..., list(neurons)] *= alpha
        return out

    return Edit(Site.parse(site), scaled, positions, phase)


def add(
    site: Site | str,
    vector: Tensor,
    positions: Positions = "all",
    phase: Phase = "every_step",
) -> Edit:
    """An edit that adds `vector` (broadcast to the site's shape) to the site (steering).

    Args:
        site: where, a `Site` or its name.
        vector: what is added [d_model] or of a shape that broadcasts to the site, in its units.
        positions: `all`, named positions, or a mask [item pos].
        phase: every step of a generation, or the prompt alone.
    """
    return Edit(Site.parse(site), lambda x: x + vector.to(x), positions, phase)


def project_out(site: Site | str, direction: Tensor, positions: Positions = "all", phase: Phase = "every_step") -> Edit:
    """An edit that removes the span of `direction` ([d] or [k d], need not be orthonormal).

    Args:
        site: where, a `Site` or its name.
        direction: [d] or [k d] of any length above 0.
        positions: `all`, named positions, or a mask [item pos].
        phase: every step of a generation, or the prompt alone.

    Examples:
        >>> import torch
        >>> project_out("resid_post.0", torch.tensor([2.0, 0.0])).function(torch.tensor([[3.0, 4.0]]))
        tensor([[0., 4.]])
    """
    rows = torch.atleast_2d(direction).detach().double()
    if not bool((rows.norm(dim=-1) > 0).all()):
        raise InputError("project_out: a direction is 0 (norm 0 has no direction)")
    basis = torch.linalg.qr(rows.T).Q

    def projected(x: Tensor) -> Tensor:
        q = basis.to(x)
        return x - (x @ q) @ q.T

    return Edit(Site.parse(site), projected, positions, phase)


def selected(edit: Edit, batch: TokenBatch) -> Bool[Tensor, "item pos"]:
    """True where the edit applies: always within real tokens, never on padding."""
    mask = batch.mask
    if isinstance(edit.positions, torch.Tensor):
        if edit.positions.shape != mask.shape or edit.positions.dtype != torch.bool:
            raise InputError(
                f"edit at {edit.site}: positions is {edit.positions.dtype}{tuple(edit.positions.shape)}; "
                f"expected bool{tuple(mask.shape)} [item pos]"
            )
        return edit.positions.to(mask.device) & mask
    in_prompt = (batch.span == SPANS.index("prompt")) | (batch.span == SPANS.index("template"))
    if edit.positions == "all":
        return mask
    if edit.positions == "all_prompt":
        return in_prompt
    if edit.positions == "last_prompt":
        index = torch.arange(mask.shape[1], device=mask.device)
        return index == batch.last_prompt[:, None]
    if edit.positions == "from_last_prompt":
        index = torch.arange(mask.shape[1], device=mask.device)
        return (index >= batch.last_prompt[:, None]) & mask
    return _within_item(edit, [int(p) for p in edit.positions], batch)


def _within_item(edit: Edit, positions: list[int], batch: TokenBatch) -> Bool[Tensor, "item pos"]:
    length = batch.mask.sum(-1)
    out = torch.zeros_like(batch.mask)
    for position in positions:
        index = length + position if position < 0 else torch.full_like(length, position)
        bad = (index < 0) | (index >= length)
        if bool(bad.any()):
            ids = [batch.items[i].id for i in bad.nonzero().flatten().tolist()]
            raise InputError(f"edit at {edit.site}: position {position} does not exist in items {ids[:5]}")
        out[torch.arange(len(out), device=out.device), batch.offsets + index] = True
    return out
