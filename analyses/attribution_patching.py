"""Gradient estimates of every patch from two runs and one backward pass, and how far they can be trusted here.

Definition: the effect of denoising a site (clean value into the corrupt run) is estimated to first order,
    sum over coordinates of (clean - corrupt) x dM/dsite at the corrupt run (AtP). With steps > 1 the gradient is the
    mean over runs whose embeddings go from corrupt to clean (integrated gradients on the inputs). With the QK fix,
    q and k are carried through the softmax exactly: z is recomputed with the clean q (or k) and its change
    multiplied by dM/dz. The largest estimates and as many random others are then patched exactly (replay), and
    Spearman's rank correlation over the random ones is reported.
Units: nats per token (M is the mean teacher-forced log-probability of the answer's tokens); the correlation has none.
Source: arXiv 2310.10348 (attribution patching), 2403.00745 (AtP*, the QK fix), 2403.17806 (integrated gradients).
Does not show: an effect where the metric is curved along the patch: saturated softmaxes and norms make estimates
    too small or of the wrong sign, and effects of opposite sign cancel. What is not verified is a guess.
Control: the exact effects of the verified cells; their rank correlation with the estimates.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.analysis import analysis, progress
from analyses.core.result import Result
from probe.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from probe import Edit, Model, Prompts, Site, TokenBatch
    from probe.replay import Clean, Metric

QK = ("q", "k")
CELL = ["site", "layer", "head", "pos"]


@analysis
def attribution_patching(
    model: Model,
    prompts: Prompts,
    *,
    sites: tuple[str, ...] = ("attn_out", "mlp_out", "z"),
    layers: tuple[int, ...] = (),
    positions: Literal["each", "all_prompt"] = "all_prompt",
    steps: int = 1,
    qk_fix: bool = True,
    verify: int = 20,
    corrupt: Literal["column", "rotate"] = "column",
    template: Literal["none", "chat"] = "none",
    boundary: Literal["concat", "offsets"] = "concat",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Estimated effect of denoising every site, with the exact effect of some and the rank correlation.

    Rows: item, group, answer_kind, site, layer, head, pos (missing unless positions=each), estimate, exact (missing
    where not verified), chosen (top, random or no).

    Args:
        sites: kinds to attribute: attn_out, mlp_out, z, q, k, v (per head), resid_pre, resid_post, mlp_post.
        layers: blocks; all if none are named.
        positions: each prompt token by itself, or the sum over them (patched together when verified).
        steps: 1 for the gradient at the corrupt run; more for integrated gradients over that many runs.
        qk_fix: carry q and k through the softmax exactly.
        verify: how many of the largest estimates, and how many random others, are patched exactly; 0 for none.
        corrupt: where corrupt prompts come from: the items' column of that name, or another item (rotate).
        template: put prompts through the tokenizer's chat template, or not.
        boundary: tokenise prompt and answer apart (concat) or jointly (offsets).
        batch_size: items per forward pass.
        seed: of the random choice and of the bootstrap over items.
    """
    from analyses.core.patching import chosen_sites
    from analyses.core.prompt_pairs import paired_batches

    if steps < 1 or verify < 0:
        raise InputError(f"steps={steps}, verify={verify}; expected at least 1 step and 0 verified cells")
    plan: dict[str, Any] = {"batch_size": batch_size, "template": template, "boundary": boundary}
    pairs, warnings = paired_batches(model, prompts, corrupt, **plan)
    places = chosen_sites(model, sites, layers, ())
    runs = [_Pair(model, clean, other) for clean, other in pairs]
    estimates = [
        pair.estimates(places, positions, steps, qk_fix)
        for pair in progress(runs, "attribution patching", total=len(runs))
    ]
    table = pd.concat(estimates, ignore_index=True)
    cells = _chosen(table, verify, seed)
    exact = pd.concat([pair.exact(cells) for pair in runs]) if verify else None
    table = _with_exact(table, cells, exact)
    return Result.of(table, _aggregate(table, seed), verdict=_verdict(table), warnings=warnings)


class _Pair:
    """Clean and corrupt prompts of one batch."""

    def __init__(self, model: Model, clean: TokenBatch, corrupt: TokenBatch) -> None:
        from probe.replay import answer_logprob

        self.model, self.batches = model, {"clean": clean, "corrupt": corrupt}
        self.metric: Metric = answer_logprob(clean)

    @cached_property
    def runs(self) -> dict[str, Clean]:
        """Both unedited runs as replay needs them (not needed for plain estimates)."""
        from probe.replay import Clean

        return {name: Clean(self.model, batch) for name, batch in self.batches.items()}

    def estimates(self, sites: Sequence[Site], positions: str, steps: int, qk_fix: bool) -> pd.DataFrame:
        """Rows of this batch."""
        from probe import Site

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
        import torch

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

    def _backward(self, read: Sequence[Site], start: Any) -> tuple[dict[Site, Tensor], dict[Site, Tensor]]:
        """Values and gradients of one run of the corrupt prompts whose first residual state is `start` of its own."""
        import torch

        from probe import Edit, Site

        batch, last = self.batches["corrupt"].to(self.model.device), Site("resid_post", self.model.shape.n_layers - 1)
        begin = Edit(Site("resid_pre", 0), lambda x: start(x).detach().requires_grad_())
        # An edit that changes nothing puts the very tensor that is read on the way to the metric.
        seen = [Edit(site, lambda x: x.clone()) for site in read]
        trace = self.model.run(batch, read=[*read, last], edits=[begin, *seen], logits="none", grad=True)
        item, pos = self.metric.rows.to(self.model.device).nonzero(as_tuple=True)
        with torch.enable_grad():
            backend = self.model.backend
            scores = self.metric.score(backend.head(backend.final_norm(trace[last][item, pos])), item, pos)
            count = torch.bincount(item, minlength=len(batch)).clamp(min=1)
            total = (scores / count[item]).sum()
        slopes = torch.autograd.grad(total, [trace[s] for s in read], allow_unused=True)
        values = {s: trace[s].detach() for s in read}
        return values, {s: torch.zeros_like(values[s]) if g is None else g for s, g in zip(read, slopes, strict=True)}

    def _through_softmax(self, site: Site, slope: Tensor, positions: str) -> Tensor:
        """Effect [item pos head] of the clean run's q (or k), exact up to z and linear from there.

        A query changes z at its own position; a key at every later one, so keys are changed one position at a time
        (or all of the prompt's at once, whose joint effect is then put at its first position).
        """
        import torch

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
        from probe.replay import attention

        corrupt = self.runs["corrupt"]
        old_q, old_k, v = corrupt.qkv[layer]
        scale, softcap = corrupt.scaling(layer)
        z = [attention.attend(a, b, v, corrupt.bias(layer), scale, softcap) for a, b in ((q, k), (old_q, old_k))]
        return (z[0] - z[1]).transpose(1, 2) * corrupt.batch.mask[..., None, None]

    def _rows(self, site: Site, values: Tensor, positions: str) -> pd.DataFrame:
        from analyses.core.patching import prompt_columns

        grid, batch = values.double().cpu().numpy(), self.batches["clean"]
        rows: list[dict[str, Any]] = []
        for n, (item, columns) in enumerate(zip(batch.items, prompt_columns(batch), strict=True)):
            names = {"item": item.id, "group": item.group, "answer_kind": item.answer_kind}
            at = {"site": site.kind, "layer": site.layer, "head": site.head}
            if positions == "each":
                rows += [{**names, **at, "pos": p, "estimate": grid[n, c]} for p, c in enumerate(columns)]
            else:
                rows.append({**names, **at, "pos": None, "estimate": grid[n, columns].sum()})
        return pd.DataFrame(rows).astype(dict.fromkeys(CELL[1:], "Int64"))

    def exact(self, cells: pd.DataFrame) -> pd.DataFrame:
        """The exact effect of the chosen cells on every item of this batch."""
        from probe.replay import clean_metric, replay

        runs, batch = self.runs, self.batches["clean"]
        edits = [self._patch(cell) for cell in cells.itertuples()]
        values = (replay(runs["corrupt"], edits, self.metric) - clean_metric(runs["corrupt"], self.metric)).numpy()
        names = {"item": [i.id for i in batch.items], "answer_kind": [i.answer_kind for i in batch.items]}
        return pd.concat(
            pd.DataFrame({**names, "cell": number, "exact": row.astype(float)})
            for number, row in zip(cells["cell"], values, strict=True)
        )

    def _patch(self, cell: Any) -> Edit:
        from analyses.core.patching import prompt_columns
        from probe import Site, patch

        site = Site(str(cell.site), *(None if pd.isna(v) else int(v) for v in (cell.layer, cell.head)))
        where: Any = "all_prompt"
        if not pd.isna(cell.pos):
            where = self.batches["clean"].mask & False
            for row, own in enumerate(prompt_columns(self.batches["clean"])):
                where[row, own[int(cell.pos) : int(cell.pos) + 1]] = True
        return patch(site, self.runs["clean"].value(site), where)


def _prompt_mask(batch: TokenBatch) -> Tensor:
    """True at each item's prompt tokens [item pos]."""
    from analyses.core.patching import prompt_columns

    mask = batch.mask & False
    for row, columns in enumerate(prompt_columns(batch)):
        mask[row, columns] = True
    return mask


def _chosen(table: pd.DataFrame, verify: int, seed: int) -> pd.DataFrame:
    """Cells (site, layer, head, pos) to verify: the largest mean estimates, and as many random others."""
    mean = table.groupby(CELL, dropna=False, sort=True)["estimate"].mean().reset_index()
    mean = mean.sort_values("estimate", key=lambda v: -v.abs(), kind="stable", ignore_index=True)
    mean["cell"] = np.arange(len(mean))
    rest = np.arange(min(verify, len(mean)), len(mean))
    drawn = np.random.default_rng(seed).choice(rest, size=min(verify, len(rest)), replace=False)
    mean["chosen"] = np.where(mean["cell"] < verify, "top", "no")
    mean.loc[drawn, "chosen"] = "random"
    return mean[mean["chosen"] != "no"]


def _with_exact(table: pd.DataFrame, cells: pd.DataFrame, exact: pd.DataFrame | None) -> pd.DataFrame:
    # A merge does not match missing keys: they are -1 while it runs.
    keyed = table.assign(**{c: table[c].fillna(-1) for c in CELL[1:]})
    known = cells.assign(**{c: cells[c].fillna(-1) for c in CELL[1:]})
    keyed = keyed.merge(known[[*CELL, "cell", "chosen"]], on=CELL, how="left")
    keyed["chosen"] = keyed["chosen"].fillna("no")
    if exact is None:
        keyed["exact"] = np.nan
    else:
        keyed = keyed.merge(exact, on=["item", "answer_kind", "cell"], how="left")
    for column in CELL[1:]:
        keyed[column] = keyed[column].astype("Int64").mask(keyed[column] == -1)
    names = ["item", "group", "answer_kind", *CELL, "estimate", "exact", "chosen"]
    return keyed[names].sort_values([*CELL, "item", "answer_kind"], kind="stable", ignore_index=True)


def _agreement(table: pd.DataFrame, chosen: Sequence[str]) -> float:
    """Spearman's correlation of mean estimate and mean exact effect over the chosen cells; NaN below three."""
    from scipy.stats import spearmanr

    rows = table[table["chosen"].isin(chosen)]
    cells = rows.groupby(CELL, dropna=False)[["estimate", "exact"]].mean()
    if len(cells) < 3 or (cells.nunique() < 2).any():
        return float("nan")
    return float(spearmanr(cells["estimate"], cells["exact"]).statistic)


def _aggregate(table: pd.DataFrame, seed: int) -> xr.Dataset:
    """Mean estimate and exact effect per cell and group, and the rank correlations."""
    from analyses.core.stats import estimate

    rows = table.assign(layer=table["layer"].fillna(-1).astype(int))
    parts: list[xr.Dataset] = []
    for prefix, own in (("", rows[rows["head"].isna()]), ("head_", rows[rows["head"].notna()])):
        if own.empty:
            continue
        extra = [d for d in ("head", "pos") if own[d].notna().any()]
        by = ["site", "layer", *extra, "group", "answer_kind"]
        own = own.astype(dict.fromkeys(extra, int))
        names = {"estimate": "estimated change of the answer's log-probability", "exact": "exact change of it"}
        for column, long_name in names.items():
            label: dict[str, Any] = {"units": "nats/token", "long_name": long_name, "seed": seed}
            parts.append(estimate(own, column, by, name=f"{prefix}{column}", **label))
    data = xr.merge(parts, join="outer", compat="no_conflicts", combine_attrs="drop_conflicts")
    for name, chosen in (("random", ("random",)), ("all_verified", ("top", "random"))):
        data[f"rank_correlation_{name}"] = xr.DataArray(_agreement(table, chosen), attrs={"units": "1"})
    return data


def _verdict(table: pd.DataFrame) -> str | None:
    verified = table[table["chosen"] != "no"]
    if verified.empty:
        return None
    cells = verified.groupby(CELL, dropna=False)[["estimate", "exact"]].mean()
    signs = float((np.sign(cells["estimate"]) == np.sign(cells["exact"])).mean())
    rank = _agreement(table, ("random",))
    return f"rank correlation {rank:.2f} over random cells; sign right in {signs:.0%} of {len(cells)} verified cells"


def figures(result: Result) -> dict[str, Any]:
    """Estimates by layer (and head, or position), and estimate against exact effect of the verified cells."""
    from analyses.core.figures import curve, heatmap, scatter

    rows = result.summary()
    drawn: dict[str, Any] = {}
    for name in ("estimate", "head_estimate"):
        part = rows[rows["quantity"] == name]
        if part.empty:
            continue
        facet = [d for d in ("step", "group", "answer_kind", "site") if d in part and part[d].nunique() > 1]
        title = "Estimated effect of the patch (gradient, not verified): mean over items"
        across = next((d for d in ("pos", "head") if d in part and part[d].notna().any()), None)
        if across is None:
            drawn[name] = curve(part, x="layer", facet=facet or None, title=title, reference=0.0)
        else:
            more = ["head"] if across == "pos" and name == "head_estimate" else []
            drawn[name] = heatmap(part, x=across, y="layer", facet=[*facet, *more] or None, title=title)
    cells = result.table[result.table["chosen"] != "no"]
    if len(cells):
        mean = cells.groupby([*CELL, "chosen"], dropna=False)[["estimate", "exact"]].mean().reset_index()
        looks = {"x_title": "estimate (nats/token)", "y_title": "exact effect (nats/token)", "diagonal": True}
        title = "Estimate against exact effect of the verified cells"
        drawn["agreement"] = scatter(mean, x="estimate", y="exact", color="chosen", title=title, **looks)
    return drawn
