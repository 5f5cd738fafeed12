"""Gradients of a metric at every site of a corrupt run, and the first-order effects of clean values they give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from analyses.core.reading.patch_gates import prompt_columns
from probe import Edit, patch
from probe.replay import Clean, answer_logprob, attention, clean_metric, replay
from probe.sites import Site

if TYPE_CHECKING:
    from torch import Tensor

    from probe import Edit, Model, TokenBatch
    from probe.replay import Clean, Metric

QK = ("q", "k")
NUMBERS = ("layer", "head", "pos")


class PromptPair:
    """Clean and corrupt prompts of one batch."""

    def __init__(self, model: Model, clean: TokenBatch, corrupt: TokenBatch) -> None:

        self.model, self.batches = model, {"clean": clean, "corrupt": corrupt}
        self.metric: Metric = answer_logprob(clean)

    @cached_property
    def runs(self) -> dict[str, Clean]:
        """Both unedited runs as replay needs them (not needed for plain estimates)."""

        return {name: Clean(self.model, batch) for name, batch in self.batches.items()}

    def estimates(self, sites: Sequence[Site], positions: str, steps: int, qk_fix: bool) -> pd.DataFrame:
        """Rows of this batch."""
        wanted = {s.whole for s in sites}
        fixed = {s for s in wanted if s.kind in QK and qk_fix}
        read = sorted((wanted - fixed) | {Site("z", s.layer) for s in fixed})
        start = Site("resid_pre", 0)
        clean = self.model.run(self.batches["clean"], read=[start, *read], logits="none")
        corrupt, slopes = self._gradients(read, clean[start], steps)
        found: dict[Site, Tensor] = {}
        for site in wanted:
            if site in fixed:
                found[site] = self._through_softmax(site, slopes[Site("z", site.layer)], positions)
            else:
                found[site] = ((clean[site] - corrupt[site]) * slopes[site]).sum(-1)  # [item pos] or [item pos head]
        rows = [self._rows(s, found[s.whole] if s.head is None else found[s.whole][..., s.head], positions)
                for s in sites]  # fmt: skip
        return pd.concat(rows, ignore_index=True)

    def _gradients(
        self, read: Sequence[Site], clean_start: Tensor, steps: int
    ) -> tuple[dict[Site, Tensor], dict[Site, Tensor]]:
        """Values of the corrupt run, and dM/dsite: there, or averaged on the way from corrupt to clean embeddings."""
        first, slopes = self._backward(read, lambda x: x)
        if steps == 1:
            return first, slopes
        total = {site: torch.zeros_like(slope) for site, slope in slopes.items()}
        for step in range(steps):
            share = (step + 0.5) / steps
            _, slopes = self._backward(read, lambda x, a=share: x + a * (clean_start - x))
            for site, slope in slopes.items():
                total[site] += slope / steps
        return first, total

    def _backward(
        self, read: Sequence[Site], start: Callable[[Tensor], Tensor]
    ) -> tuple[dict[Site, Tensor], dict[Site, Tensor]]:
        """Values and gradients of one run of the corrupt prompts whose first residual state is `start` of its own."""

        batch, last = self.batches["corrupt"].to(self.model.device), Site("resid_post", self.model.shape.n_layers - 1)
        begin = Edit(Site("resid_pre", 0), lambda x: start(x).detach().requires_grad_())
        # An edit that changes nothing puts the very tensor that is read on the way to the metric.
        seen = [Edit(site, lambda x: x.clone()) for site in read]
        trace = self.model.run(batch, read=[*read, last], edits=[begin, *seen], logits="none", grad=True)
        item, pos = self.metric.rows.to(self.model.device).nonzero(as_tuple=True)
        with torch.enable_grad():
            backend = self.model.backend
            logits = backend.head(backend.final_norm(trace[last][item, pos]))
            scores = self.metric.score(logits.to(item.device), item, pos)
            count = torch.bincount(item, minlength=len(batch)).clamp(min=1)
            total = (scores / count[item]).sum()
        slopes: Any = torch.autograd.grad(total, [trace[s] for s in read], allow_unused=True)
        values = {s: trace[s].detach() for s in read}
        return values, {s: torch.zeros_like(values[s]) if g is None else g for s, g in zip(read, slopes, strict=True)}

    def _through_softmax(self, site: Site, slope: Tensor, positions: str) -> Tensor:
        """Effect [item pos head] of the clean run's q (or k), exact up to z and linear from there.

        A query changes z at its own position; a key at every later one, so keys are changed one position at a time
        (or all of the prompt's at once, whose joint effect is then put at its first position).
        """
        runs, layer = self.runs, int(site.layer or 0)
        (q, k, _), (new_q, new_k, _) = (runs[name].qkv[layer] for name in ("corrupt", "clean"))
        if site.kind == "q":
            return (self._moved(layer, new_q, k) * slope).sum(-1)
        columns = _prompt_mask(self.batches["clean"]).to(k.device)
        out = slope.new_zeros(*columns.shape, self.model.shape.n_heads)
        index = torch.arange(columns.shape[1], device=k.device)
        sets = [columns] if positions == "all_prompt" else [columns & (index == p) for p in index]
        for chosen in sets:
            keys = torch.where(chosen[:, None, :, None], new_k, k)
            effect = (self._moved(layer, q, keys) * slope).sum((1, 3))  # [item head]
            first = chosen & (chosen.cumsum(1) == 1)
            out += first[..., None] * effect[:, None]
        return out.unflatten(-1, (self.model.shape.n_kv_heads, -1)).sum(-1)

    def _moved(self, layer: int, q: Tensor, k: Tensor) -> Tensor:
        """Change of every head's z in the corrupt run under other queries or keys [item pos head d_head]."""

        corrupt = self.runs["corrupt"]
        old_q, old_k, v = corrupt.qkv[layer]
        scale, softcap = corrupt.scaling(layer)
        with torch.no_grad():
            attended = [
                attention.attend(a, b, v, corrupt.bias(layer), scale, softcap) for a, b in ((q, k), (old_q, old_k))
            ]
            x, call = corrupt.inputs[layer], corrupt.calls[layer]
            z = [corrupt.decoder.z_of(layer, x, call, a.transpose(1, 2)) for a in attended]
        return (z[0] - z[1]) * corrupt.batch.mask[..., None, None]

    def _rows(self, site: Site, values: Tensor, positions: str) -> pd.DataFrame:
        grid, batch = values.double().cpu().numpy(), self.batches["clean"]
        rows: list[dict[str, Any]] = []
        for n, (item, columns) in enumerate(zip(batch.items, prompt_columns(batch), strict=True)):
            names = {"item": item.id, "group": item.group, "answer_kind": item.answer_kind}
            at = {"site": site.kind, "layer": site.layer, "head": site.head}
            if positions == "each":
                rows += [{**names, **at, "pos": p, "estimate": grid[n, c]} for p, c in enumerate(columns)]
            else:
                rows.append({**names, **at, "pos": None, "estimate": grid[n, columns].sum()})
        return pd.DataFrame(rows).astype(dict.fromkeys(NUMBERS, "Int64"))

    def exact(self, cells: pd.DataFrame) -> pd.DataFrame:
        """The exact effect of the chosen cells on every item of this batch."""

        runs, batch = self.runs, self.batches["clean"]
        edits = [self._patch(cell) for cell in cells.itertuples()]
        values = (replay(runs["corrupt"], edits, self.metric) - clean_metric(runs["corrupt"], self.metric)).numpy()
        names = {"item": [i.id for i in batch.items], "answer_kind": [i.answer_kind for i in batch.items]}
        return pd.concat(
            pd.DataFrame({**names, "cell": number, "exact": row.astype(float)})
            for number, row in zip(cells["cell"], values, strict=True)
        )

    def _patch(self, cell: Any) -> Edit:

        site = Site(str(cell.site), *(None if pd.isna(v) else int(v) for v in (cell.layer, cell.head)))
        where: Any = "all_prompt"
        if not pd.isna(cell.pos):
            where = self.batches["clean"].mask & False
            for row, own in enumerate(prompt_columns(self.batches["clean"])):
                where[row, own[int(cell.pos) : int(cell.pos) + 1]] = True
        return patch(site, self.runs["clean"].value(site), where)


def _prompt_mask(batch: TokenBatch) -> Tensor:
    """True at each item's prompt tokens [item pos]."""
    mask = batch.mask & False
    for row, columns in enumerate(prompt_columns(batch)):
        mask[row, columns] = True
    return mask
