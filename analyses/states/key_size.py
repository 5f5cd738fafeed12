"""How large the MLP's keys are, by layer and group: which blocks are read from most, and for whom.

Definition: k = mlp_post, the input of the down projection, of a token; key_norm = |k|, key_mean = mean |k_i| over the
    block's neurons, top_share = share of sum |k_i| that its 10 largest neurons have. Each is taken at every position
    read and averaged over them, then over items. key_share = a layer's key_mean over the sum of all layers' of that
    item: where in depth keys are large, whatever their scale.
Units: key_norm and key_mean those of activations (not comparable across models); shares have none.
Source: arXiv 2601.11061 (its Figure 9: |k| by layer); keys: arXiv 2012.14913.
Does not show: what keys do: a large key of a neuron that writes nowhere is without effect. Blocks differ in scale by
    training, so a peak over layers is read against another group or checkpoint, not by itself.
Control: another group of items; the base checkpoint; steering the same neurons (mlp_key_steering).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.figures import curve
from analyses.core.reading.where_read import Pooling
from analyses.core.result import Result
from analyses.core.stats import clusters_of, estimate, group_max_t
from analyses.core.work import Case, Work
from analyses.states._part_claims import FEWEST, read_at

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from probe import Model, Prompts

TOP = 10
QUANTITIES = {
    "key_norm": ("activation units", "norm of the MLP's keys"),
    "key_mean": ("activation units", "mean size of a key"),
    "key_share": ("1", "share of a layer in the size of all keys"),
    "top_share": ("1", f"share of the {TOP} largest keys"),
}


def _work(case: Case) -> Work:
    """One pass; a row a block."""
    return Work(block_rows=case.full_pass, rows=case.n_layers, row_bytes=40, sites=4 * case.n_layers)


@analysis(work=_work, renamed={"positions": "at"}, reads=lambda _: ("mlp_post",))
def key_size(
    model: Model,
    prompts: Prompts,
    *,
    pooling: Pooling = "last_prompt",
    at: tuple[int, ...] = (),
    template: Literal["none", "chat"] = "none",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Norm, mean size, share over layers and concentration of MLP keys, by layer and group, with intervals over items.

    Rows: item, group, answer_kind, layer, key_norm, key_mean, key_share, top_share. Blocks without one row of neurons
    (routed experts) have none.

    Args:
        pooling: their keys are read.
        seed: the bootstrap of the claim.
    """
    from analyses.core.reading.pooled import position_weights

    sites = model.sites("mlp_post")
    if not sites:
        model.site("mlp_post.0")  # says why there is none
    rows: list[dict[str, object]] = []
    for batch in reading.batches(model, prompts, "keys", batch_size=batch_size, template=template):
        weights = position_weights(batch, pooling, at)
        trace = model.run(batch, read=sites, logits="none")
        for site in sites:
            w = weights.to(trace[site].device)
            for row, item in enumerate(batch.items):
                read = w[row] > 0
                named = {"item": item.id, "group": item.group, "answer_kind": item.answer_kind, "layer": site.layer}
                rows.append({**named, **sizes(trace[site][row, read].float(), w[row, read])})
    table = pd.DataFrame(rows).sort_values(["item", "answer_kind", "layer"], kind="stable")
    total = table.groupby(["item", "answer_kind"])["key_mean"].transform("sum")
    table["key_share"] = (table["key_mean"] / total.where(total > 0)).to_numpy()
    table = table[["item", "group", "answer_kind", "layer", *QUANTITIES]]
    by = ["layer", "group", "answer_kind"]
    data = xr.merge([estimate(table, q, by, seed=seed, units=u, long_name=t) for q, (u, t) in QUANTITIES.items()])
    return Result.of(table, data, claims=_claims(table, read_at(pooling, at), seed))


def sizes(keys: Any, weights: Any) -> dict[str, float]:
    """Each quantity of keys [pos, neuron], averaged over positions by weights that sum to 1."""
    size = keys.abs()
    total = size.sum(-1)
    top = size.topk(min(TOP, size.shape[-1]), dim=-1).values.sum(-1)
    values = {
        "key_norm": keys.norm(dim=-1),
        "key_mean": total / size.shape[-1],
        "top_share": top / total.clamp(min=1e-30),
    }
    return {name: float((value * weights).sum()) for name, value in values.items()}


def _claims(table: pd.DataFrame, at: str, seed: int) -> list[Claim]:
    """Where keys of one of two groups take a larger share; nothing of other numbers of groups."""
    groups = sorted(table["group"].unique())
    if len(groups) != 2:
        return []
    what = f"keys {at} lie at other layers for {groups[0]} than for {groups[1]}"
    grid = table.pivot_table(index="item", columns="layer", values="key_share")
    first = (table.groupby("item")["group"].first().reindex(grid.index) == groups[0]).to_numpy()
    units = np.asarray(clusters_of(grid.index) or list(grid.index), object)
    n = min(len(set(units[first])), len(set(units[~first])))
    if n < FEWEST or grid.shape[1] < 2:
        why, needs = f"a group has {n} items", f"at least {FEWEST} items of each, 2 layers"
        return [Claim("keys", UNJUDGED, what, why=why, needs=needs, n=n)]
    test = group_max_t(grid.to_numpy(), first, clusters=clusters_of(grid.index), seed=seed)
    best = test.argmax
    said: Fields = {
        "effect": float(test.value[best]), "low": float(test.low[best]), "high": float(test.high[best]),
        "p": float(test.p_cell[best]), "n": n, "family": f"{grid.shape[1]} layers", "control": str(groups[1]),
        "estimand": "share of a layer in the size of all keys, first minus second group",
        "place": f"layer {grid.columns[best]}", "caveat": "wording and length move keys too",
    }  # fmt: skip
    if not (test.low[best] > 0 or test.high[best] < 0):
        return [Claim("keys", NONE, what, **said)]
    word = "larger" if test.value[best] > 0 else "smaller"
    place = f"at layer {grid.columns[best]} {at}"
    return [Claim("keys", FOUND, f"keys {place} are relatively {word} for {groups[0]} than for {groups[1]}", **said)]


def figures(result: Result) -> dict[str, Figure]:
    """Each quantity over layers by group; with steps, one line a step."""
    rows = result.summary()
    facet = ["group", "answer_kind"] if "step" in rows else ["answer_kind"]
    color = "step" if "step" in rows else "group"
    return {
        name: curve(rows[rows["quantity"] == name], x="layer", color=color, facet=facet, title=label.capitalize())
        for name, (_, label) in QUANTITIES.items()
    }
