"""How much each head attends to the named evidence: read layer by layer from one pass, no pattern kept."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import probe
from analyses.attention import _spans
from probe.errors import InputError
from probe.lazily import torch
from probe.tokens import SPANS

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from probe import Model, Prompts, TokenBatch


def named(prompts: Prompts, evidence: str, tags: tuple[str, ...]) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """Character spans of the evidence of every item.

    Raises:
        InputError: one tag alone, or items that name no evidence.
    """
    if len(tags) not in (0, 2):
        raise InputError(f"tags={tags}: expected what opens and what closes the evidence, two texts")
    spans = {item.key: _spans.characters(item, evidence, tags) for item in prompts.items}
    bare = [item.id for item in prompts.items if not spans[item.key]]
    if bare:
        columns = sorted({c for i in prompts.items for c in i.meta})
        raise InputError(
            f"{len(bare)} item(s) name no evidence ({', '.join(bare[:5])}): give a column {evidence!r} (text, or start "
            f"and stop characters; there are {columns}), or --tags"
        )
    return spans


def heads(model: Model, batch: TokenBatch, spans: Mapping[Any, Any], queries: str, seed: int) -> pd.DataFrame:
    """Rows of one batch; each layer's pattern [item, head, pos, key_pos] is reduced as it passes and not kept."""
    answered = [SPANS.index(n) for n in ("rationale", "answer", "straddle")]
    offsets, lengths = batch.offsets.tolist(), batch.mask.sum(-1).tolist()
    inside: list[np.ndarray] = []
    asked: list[np.ndarray] = []
    for n, item in enumerate(batch.items):
        own = slice(offsets[n], offsets[n] + lengths[n])
        ids, span = batch.ids[n, own].tolist(), batch.span[n, own].tolist()
        first = next(p for p, s in enumerate(span) if s in answered)
        inside.append(_spans.tokens(model, item, ids, spans[item.key], first))
        asked.append(np.arange(first - 1, len(ids) - 1) if queries == "answer" else np.array([first - 1]))
    found: dict[int, list[np.ndarray]] = {}

    def looking_at(layer: int) -> Any:
        def look(pattern: Tensor) -> None:
            found[layer] = [
                measures(pattern[n, :, offsets[n] :, offsets[n] :], asked[n], inside[n], _shift(batch, n, seed))
                for n in range(len(batch.items))
            ]

        return look

    layers = [site.layer or 0 for site in model.sites("pattern")] or [int(model.site("pattern.0").layer or 0)]
    looks = [probe.look(probe.Site("pattern", layer), looking_at(layer)) for layer in layers]
    model.run(batch, read=[probe.Site("resid_post", model.shape.n_layers - 1)], edits=looks, logits="none")
    rows = []
    for layer in layers:
        for n, item in enumerate(batch.items):
            named = {"item": item.id, "group": item.group, "answer_kind": item.answer_kind, "layer": layer}
            values = dict(zip(("mass", "auroc", "shuffled", "vas"), found[layer][n], strict=True))
            heads = {"head": np.arange(found[layer][n].shape[1]), "n_evidence": int(inside[n].sum())}
            rows.append(pd.DataFrame({**named, **heads, **values}))
    return pd.concat(rows, ignore_index=True)


def _shift(batch: TokenBatch, n: int, seed: int) -> float:
    """How far the evidence of an item is moved, as a share of its keys: its own, whatever batch it is in."""
    return float(np.random.default_rng([seed, zlib.crc32(batch.items[n].id.encode())]).random())


def measures(
    pattern: Float[Tensor, "head pos key_pos"],
    queries: np.ndarray,
    inside: Bool[np.ndarray, " key_pos"],
    shift: float,
) -> Float[np.ndarray, "measure head"]:
    """mass, auroc, shuffled and vas of every head, mean over queries; NaN where no key is evidence or none is not."""
    sums: list[Tensor] = []
    for query in queries.tolist():
        weights = pattern[:, query, 1 : query + 1].float()
        marked = torch.as_tensor(inside[1 : query + 1], device=weights.device)
        if not marked.any() or marked.all():
            sums.append(torch.full((4, len(weights)), torch.nan, device=weights.device))
            continue
        moved = marked.roll(1 + int(shift * (len(marked) - 1)))
        on = weights[:, marked].sum(-1)
        mass = on / weights.sum(-1).where(weights.sum(-1) > 0, torch.nan)
        sums.append(torch.stack([mass, auroc(weights, marked), auroc(weights, moved), on]))
    return torch.stack(sums).nanmean(0).cpu().double().numpy()


def auroc(weights: Float[Tensor, "head key_pos"], marked: Bool[Tensor, " key_pos"]) -> Float[Tensor, " head"]:
    """P(weight of a marked key > weight of another), ties one half."""
    own, others = weights[:, marked].contiguous(), weights[:, ~marked].sort(-1).values.contiguous()
    below = sum(torch.searchsorted(others, own, right=right).float() for right in (False, True))
    return (below / (2 * others.shape[-1])).mean(-1)  # type: ignore[union-attr]
