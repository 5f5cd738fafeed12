"""Trace: what one pass gave, with the tokens beside the tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from probe.errors import InputError
from probe.html import table
from probe.sites import KINDS, Site
from probe.token_text import token_texts

if TYPE_CHECKING:
    from torch import Tensor

    from probe.tokens import TokenBatch


@dataclass(frozen=True, repr=False)
class Trace:
    """What a run gave: the logits asked for and the values at each site read (after any edit there).

    `trace["resid_post.3"]`, `trace["resid_post", 3]` and `trace["blocks.3.hook_resid_post"]` are the same tensor, in
    the dimensions of `Site.dims`. `tokens` lie along their position axis.
    """

    logits: Tensor | None
    activations: dict[Site, Tensor] = field(default_factory=dict[Site, "Tensor"])
    batch: TokenBatch | None = None
    tokenizer: Any = field(default=None, compare=False)

    def __getitem__(self, site: Site | str | tuple[str, int]) -> Tensor:
        key = Site(*site) if isinstance(site, tuple) else Site.parse(site)
        if key not in self.activations:
            raise InputError(f"{key} was not read in this run; read were: {', '.join(map(str, self.activations))}")
        return self.activations[key]

    def __contains__(self, site: object) -> bool:
        return isinstance(site, Site | str) and Site.parse(site) in self.activations

    def __iter__(self) -> Iterator[Site]:
        return iter(self.activations)

    def __len__(self) -> int:
        return len(self.activations)

    def keys(self) -> list[Site]:
        """The sites read."""
        return list(self.activations)

    def items(self) -> list[tuple[Site, Tensor]]:
        """Each site read, with its value."""
        return list(self.activations.items())

    def stack(self, kind: str) -> Tensor:
        """The values of all sites of a kind that were read, [layer, ...] in the order of the layers.

        Raises:
            InputError: none was read.
        """
        found = sorted(site for site in self.activations if site.kind == kind)
        if not found:
            read = sorted({site.kind for site in self.activations}, key=list(KINDS).index)
            raise InputError(f"no {kind!r} was read; kinds read: {', '.join(read) or 'none'}. Read it: read={kind!r}")
        return torch.stack([self.activations[site] for site in found])

    @property
    def tokens(self) -> list[list[str]]:
        """Text of each token, `[item][pos]` as the tensors are; "" on padding."""
        if self.batch is None:
            return []
        rows = zip(self.batch.ids.tolist(), self.batch.mask.tolist(), strict=True)
        return [
            [t if real else "" for t, real in zip(token_texts(self.tokenizer, ids), mask, strict=True)]
            for ids, mask in rows
        ]

    def _rows(self) -> list[tuple[str, str, str]]:
        """Site, dimensions and shape of everything held."""
        logits = {Site("logits"): self.logits} if self.logits is not None else {}
        held = [(s, v) for s, v in {**self.activations, **logits}.items()]
        return [
            (str(s), " ".join(s.dims) if v.ndim == len(s.dims) else "item vocab", " x ".join(map(str, v.shape)))
            for s, v in held
        ]

    def __repr__(self) -> str:
        lines = [f"  {site:<16} [{dims}] {shape}" for site, dims, shape in self._rows()]
        return "\n".join([f"Trace of {len(self.batch) if self.batch else '?'} item(s)", *lines])

    def _repr_html_(self) -> str:
        texts = "".join(self.tokens[0]) if self.tokens else ""
        caption = f"Trace of {len(self.tokens)} item(s); the first: {texts[:120]!r}"
        return table(self._rows(), ("site", "dimensions", "shape"), caption)
