"""How tokens are drawn: greedily, or from the softmax by one random stream per item and sample."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from probe.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from probe.items import Item

RANKED = 64
"""Tokens ranked before all are: nearly every draw is one of the most probable."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: greedily at temperature 0, else from the top-p mass of the softmax."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    n_samples: int = 1

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.n_samples < 1:
            raise InputError(f"max_new_tokens={self.max_new_tokens}, n_samples={self.n_samples}; expected at least 1")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise InputError(f"temperature={self.temperature}, top_p={self.top_p}; expected >= 0 and in (0, 1]")
        if self.temperature == 0 and self.n_samples > 1:
            raise InputError(f"n_samples={self.n_samples} at temperature 0 would be the same text each time")
        if "" in self.stop:
            raise InputError("an empty stop string stops at once; leave it out")


def sample(
    logits: Float[Tensor, "row vocab"], sampling: Sampling, uniform: Float[Tensor, " row"]
) -> Int[Tensor, " row"]:
    """Ids at the given quantiles of softmax(logits / temperature) cut to its top-p mass.

    Ids are ranked by probability first, so that a draw near a boundary moves to a token of like weight. Only the most
    probable are ranked where the draw is clearly one of them.

    Args:
        logits: of the next token.
        sampling: temperature, top_p, seed and lengths.
        uniform: a quantile in [0, 1) for each row.
    """
    probs = torch.softmax(logits.double() / sampling.temperature, -1)
    if probs.shape[-1] <= 2 * RANKED:
        return ranked(probs, sampling.top_p, uniform)
    top, at = probs.topk(RANKED, -1)
    ids, is_in = _among(top, at, sampling.top_p, uniform, probs.sum(-1))
    if not bool(is_in.all()):
        ids[~is_in] = ranked(probs[~is_in], sampling.top_p, uniform[~is_in])
    return ids


def _among(
    top: Float[Tensor, "row rank"],
    at: Int[Tensor, "row rank"],
    top_p: float,
    uniform: Float[Tensor, " row"],
    total: Float[Tensor, " row"],
) -> tuple[Int[Tensor, " row"], Tensor]:
    """Ids drawn of the highest ranks, and whether each is certain: more probable than the last of them, which may tie
    with others that are not here."""
    by_id = at.argsort(-1)
    top, order = top.gather(-1, by_id).sort(dim=-1, descending=True, stable=True)  # equal ones: the lower id first
    at = at.gather(-1, by_id).gather(-1, order)
    below = top.cumsum(-1)
    kept = top.masked_fill(below - top >= top_p, 0.0).cumsum(-1)
    is_cut = (below[:, -1] - top[:, -1]) >= top_p  # the mass ends within these ranks
    mass = torch.where(is_cut, kept[:, -1], total)
    chosen = torch.searchsorted(kept, (uniform.double() * mass)[:, None], right=True)
    last = (kept < kept[:, -1:]).sum(-1, keepdim=True)
    chosen = torch.minimum(chosen, last)
    is_in = (is_cut | (top_p >= 1.0)) & (top.gather(-1, chosen) > top[:, -1:])[:, 0] & (chosen < last)[:, 0]
    return at.gather(-1, chosen)[:, 0], is_in


def ranked(probs: Float[Tensor, "row vocab"], top_p: float, uniform: Float[Tensor, " row"]) -> Int[Tensor, " row"]:
    """Ids at the given quantiles, all ranked.

    Args:
        probs: probabilities, which need not sum to 1.
        top_p: mass that may be drawn from.
        uniform: a quantile in [0, 1) for each row.
    """
    ranked, ids = torch.sort(probs, dim=-1, descending=True, stable=True)
    below = ranked.cumsum(-1)
    kept = ranked.masked_fill(below - ranked >= top_p, 0.0).cumsum(-1)
    chosen = torch.searchsorted(kept, (uniform.double() * kept[:, -1])[:, None], right=True)
    last = (kept < kept[:, -1:]).sum(-1, keepdim=True)
    return ids.gather(1, torch.minimum(chosen, last))[:, 0]


def uniforms(item: Item, number: int, sampling: Sampling) -> Float[Tensor, " step"]:
    """Quantiles of a sample's tokens: one stream per (seed, item, sample), whatever else is computed beside it.

    Args:
        item: whose sample.
        number: which sample of it, from 0.
        sampling: temperature, top_p, seed and lengths.
    """
    digest = hashlib.sha256(f"{sampling.seed}|{item.id}|{number}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.rand(sampling.max_new_tokens, generator=generator, dtype=torch.float64)
