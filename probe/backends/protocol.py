"""What a backend is: a forward pass that shows the sites on its way.

The seam is cut at the forward pass: a backend finds the tensors and hands each to a `Visit` in the
shape `probe.sites.KINDS` gives. What is read, edited and at which positions is decided above it, once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from probe.backends.place import Map
    from probe.sites import Site

Visit = Callable[[Tensor], Tensor | None]
"""Gets a site's tensor; returns the tensor to go on with, or None to leave it."""

Rows: TypeAlias = Tensor | Literal["all"] | None
"""Where logits are wanted: everywhere, at one position per item (an index [item]), or nowhere."""


@dataclass(frozen=True)
class Tokens:
    """What a forward pass reads. With a cache, `mask` also covers the cached positions."""

    ids: Int[Tensor, "item pos"]
    mask: Bool[Tensor, "item key_pos"]
    position_ids: Int[Tensor, "item pos"]
    cache: Any = None


class Backend(Protocol):
    """One way to run a model. `visits` maps whole sites (no head) to what to do with their tensor."""

    name: str
    is_remote: bool
    owed: Callable[[], object] | None
    """What has to be done before attention is first looked into (its proofs)."""

    @property
    def config(self) -> Any: ...

    @property
    def plain(self) -> Any:
        """The same weights as a plain Hugging Face module, not wrapped (what `probe.replay` calls)."""
        ...

    @property
    def map(self) -> Map:
        """Where the sites are in the module tree."""
        ...

    def sites(self) -> frozenset[Site]: ...

    def why_absent(self, site: Site) -> str | None:
        """Why the model has no such site, where more can be said than that it has none."""
        ...

    def module_outputs(self) -> frozenset[Site]:
        """Sites that equal the output of the module of their name (no post-norm in between)."""
        ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device:
        """Where inputs are put."""
        ...

    def run(self, tokens: Tokens, visits: Mapping[Site, Visit], rows: Rows) -> Tensor | None:
        """Logits [item pos vocab], [item vocab] at `rows`, or None (the unembedding is not computed)."""
        ...

    def forward(self, tokens: Tokens, visits: Mapping[Site, Visit]) -> Float[Tensor, "item pos d_model"]:
        """Final hidden state, after the final norm; `head` turns it into logits."""
        ...

    def new_cache(self) -> Any:
        """An empty key-value cache for `Tokens.cache`."""
        ...

    def head(self, hidden: Float[Tensor, "... d_model"]) -> Float[Tensor, "... vocab"]:
        """Logits of normed hidden states, the family's soft cap included."""
        ...

    def final_norm(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]: ...

    def kept_head(self) -> Callable[[Tensor], Tensor]:
        """Residual states to logits by copies of the final norm and the unembedding."""
        ...

    def unembed_weights(self) -> tuple[Float[Tensor, "d_model vocab"], Float[Tensor, " vocab"] | None]: ...

    def parameters(self) -> Mapping[str, Tensor]:
        """What is held in memory, packed or not: for telling models apart, not for reading weights."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """The parameters under their Hugging Face names; views, tied ones under each name."""
        ...

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Put other weights of the same shapes in place."""
        ...
