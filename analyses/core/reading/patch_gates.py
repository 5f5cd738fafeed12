"""What the patching analyses share: the same tokens on both sides, where to patch, and gates before any number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from probe import Site, patch
from probe.errors import InputError, ProbeError
from probe.prompts import SPANS
from probe.replay import clean_metric, replay
from probe.sites import GLOBAL_KINDS, KINDS

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from probe import Edit, Model, Prompts, Site, TokenBatch
    from probe.replay import Clean, Metric

SMALLEST_GAP = 1e-3
"""Nats per token between two unpatched runs below which a share of that gap is noise (NaN)."""

FLOOR_FP32 = 1e-5
"""How far a fast fp32 effect may be from one full forward pass per patch (proved in the tests)."""


def same_ids(base: Model, tuned: Model, prompts: Prompts, **plan: Any) -> list[TokenBatch]:
    """The batches both checkpoints read.

    Args:
        base: one checkpoint.
        tuned: the other.
        prompts: the items.
        plan: how batches are made, as in `Model.batches`.

    Raises:
        InputError: items whose ids differ between the two tokenizers; all are listed.
    """
    ours, theirs = base.batches(prompts, **plan), tuned.batches(prompts, **plan)
    by_item = [
        {
            i.key: (b.ids[n][b.mask[n]].tolist(), b.span[n][b.mask[n]].tolist())
            for b in batches
            for n, i in enumerate(b.items)
        }
        for batches in (ours, theirs)
    ]
    differ = [key for key, value in by_item[0].items() if by_item[1][key] != value]
    if differ:
        listed = ", ".join("/".join(key) for key in sorted(differ))
        raise InputError(
            f"base and tuned read {len(differ)} item(s) as other tokens, so no position of one is a position of the "
            f"other: {listed}. Use one tokenizer and template for both, or remove them"
        )
    return ours


def place(batch: TokenBatch, positions: str, at: Sequence[int]) -> str | Bool[Tensor, "item pos"]:
    """Positions as an edit takes them: by name, or a mask of the `at` given, counted within each item's prompt.

    Args:
        batch: items with their prompts marked.
        positions: positions by name, taken where `at` is empty.
        at: positions within each prompt (0: its first token, -1: its last).
    """
    if not at:
        return positions
    out = torch.zeros_like(batch.mask)
    for row, columns in enumerate(prompt_columns(batch)):
        out[row, [columns[p] for p in at]] = True
    return out


def prompt_columns(batch: TokenBatch) -> list[list[int]]:
    """Columns of each item's prompt tokens (its template's included), in order."""
    wanted = torch.tensor([SPANS.index("prompt"), SPANS.index("template")])
    return [row.nonzero().flatten().tolist() for row in torch.isin(batch.span.long().cpu(), wanted)]


def refuse_outside(batches: Sequence[TokenBatch], at: Sequence[int]) -> None:
    """Refuse positions that some prompts do not have.

    Raises:
        InputError: with all such items.
    """
    counts = {i.id: len(c) for b in batches for i, c in zip(b.items, prompt_columns(b), strict=True)}
    bad = [f"{i} ({n} prompt tokens)" for i, n in sorted(counts.items()) if any(not -n <= p < n for p in at)]
    if bad:
        raise InputError(f"positions {list(at)} are outside the prompt of {', '.join(bad)}; 0 is its first token")


def chosen_sites(model: Model, kinds: Sequence[str], layers: Sequence[int], heads: Sequence[int]) -> list[Site]:
    """Sites of these kinds, one per head where the kind has heads.

    Without `layers`: in every block that has the kind (blocks of a hybrid differ).

    Args:
        model: whose sites.
        kinds: kinds of sites, as resid_post or z.
        layers: blocks from 0, all where none is named.
        heads: heads from 0 of kinds that have heads, all where none is named.

    Raises:
        InputError: a kind, layer or head this model does not have.
    """

    found: list[Site] = []
    for kind in kinds:
        if kind not in KINDS or "pos" not in KINDS[kind][:2] or kind in ("ln_final", "logits"):
            known = [k for k, d in KINDS.items() if d[1] == "pos" and k not in ("ln_final", "logits")]
            raise InputError(f"site {kind!r} cannot be patched by position; expected some of {', '.join(known)}")
        if kind in GLOBAL_KINDS:
            found.append(model.site(Site(kind)))
            continue
        there = [s.layer for s in model.sites(kind) if s.layer is not None]
        for layer in layers or there or range(model.shape.n_layers):
            whole = model.site(Site(kind, layer))
            if not {"head", "kv_head"} & set(whole.dims):
                found.append(whole)
                continue
            n = model.shape.n_kv_heads if kind in ("k", "v") else model.shape.n_heads
            found += [model.site(Site(kind, layer, head)) for head in heads or range(n)]
    if not found:
        raise InputError("no site to patch: name at least one kind, for example mlp_out")
    return found


@dataclass(frozen=True)
class Gate:
    """What was checked before any effect was computed: the floor below which an effect is rounding."""

    self_patch: float
    fast_vs_full: float
    floor: float


def gate(clean: Clean, metric: Metric, edits: Sequence[Edit]) -> Gate:
    """Prove on one batch that a run patched with its own values changes nothing, and that replay is exact.

    `edits`: real patches, a few of which are also run as full forward passes.

    Args:
        clean: the unedited run of one batch.
        metric: what is read off the logits, one number an item.
        edits: real patches, a few of which are also run as full forward passes.

    Raises:
        ProbeError: either proof fails.
    """

    own = [patch(e.site, clean.value(e.site), e.positions) for e in edits]
    before = clean_metric(clean, metric)
    self_patch = _largest(full_run(clean, metric, own) - before)
    sample = [edits[n] for n in sorted({0, len(edits) // 2, len(edits) - 1})]
    fast = replay(clean, sample, metric)
    exact = torch.stack([full_run(clean, metric, [e]) for e in sample])
    off = _largest(fast - exact)
    single = clean.decoder.dtype == torch.float32
    floor = FLOOR_FP32 if single else max(self_patch, off)
    allowed = 1e-4 if single else 0.5
    for name, value in (("patching a run with its own values", self_patch), ("fast against full patching", off)):
        if not value <= allowed:
            raise ProbeError(f"gate: {name} changed the metric by {value:.3g}, at most {allowed:g} is rounding")
    return Gate(self_patch, off, floor)


def _largest(x: Tensor) -> float:
    kept = x[~x.isnan()]
    return float(kept.abs().max()) if len(kept) else 0.0


def full_run(clean: Clean, metric: Metric, edits: Sequence[Edit]) -> Float[Tensor, " item"]:
    """The metric of one ordinary edited forward pass of the model, everything computed.

    Args:
        clean: the unedited run of one batch.
        metric: what is read off the logits, one number an item.
        edits: edits of the one run.
    """
    logits = clean.model.run(clean.batch, edits=edits).logits
    assert logits is not None
    return metric_of(logits, metric)


def metric_of(logits: Float[Tensor, "item pos vocab"], metric: Metric) -> Float[Tensor, " item"]:
    """The metric of every item from the logits of a whole batch."""
    out = torch.full((len(logits),), float("nan"))
    rows = metric.rows.to(logits.device)
    for n in range(len(out)):
        pos = rows[n].nonzero().flatten()
        if len(pos):
            out[n] = metric.score(logits[n, pos], torch.full_like(pos, n), pos).mean()
    return out


def share(change: np.ndarray, gap: np.ndarray, smallest: float = SMALLEST_GAP) -> np.ndarray:
    """change / gap, NaN where the gap is too small to be divided by.

    Args:
        change: what a patch changed, in the units of the metric.
        gap: what there was to change, in the same units.
        smallest: size of a gap below which nothing is divided.
    """
    safe = np.abs(gap) >= smallest
    return np.divide(change, gap, out=np.full(np.shape(change), np.nan), where=safe) + 0.0  # no -0.0


def contrasted_groups(names: Sequence[str], wanted: Sequence[str]) -> tuple[str, str] | None:
    """The groups a contrast compares, first minus second: the ones named, or the only two there are.

    Raises:
        InputError: a group no item has.
    """
    there = sorted(set(names))
    if wanted:
        if len(wanted) != 2 or not set(wanted) <= set(there):
            raise InputError(f"contrast {list(wanted)}: expected two of the groups {there}")
        return wanted[0], wanted[1]
    return (there[0], there[1]) if len(there) == 2 else None
