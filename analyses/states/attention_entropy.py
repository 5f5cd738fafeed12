"""How spread each attention head's attention is, and how many heads are collapsed or overloaded.

Definition: for a query at position q of its item, H = -sum_k a_qk ln a_qk over its attention weights, divided by
    ln(number of keys it can reach): q + 1 under a causal mask, fewer in a sliding window. The first query reaches
    one key and is not measured. A head is collapsed where its mean normalised entropy is below `collapsed_below`,
    overloaded where above `overloaded_above`; the shares are over heads.
Units: normalised entropy in [0, 1] (0 = one key, 1 = uniform over what can be reached); raw entropy in nats.
Source: arXiv 2501.03489 (raw, against ln of the context; dividing by the reachable keys is the causal correction).
Does not show: what a head attends to, or whether it matters: a head that always attends to the first token has
    entropy near 0 and may do nothing. The bands are conventions, not tests.
Control: the same heads at the base checkpoint; other items; a uniform head has 1 and a one-hot head 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

import probe
from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import curve, heatmap
from analyses.core.result import Result
from analyses.core.stats import estimate, resample_counts
from analyses.core.work import Case, Work, passes
from probe.errors import InputError
from probe.lazily import torch

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from torch import Tensor

    from probe import Model, Prompts, TokenBatch


def _finished(table: pd.DataFrame, options: Mapping[str, Any]) -> Result:
    """The result from the rows of all items."""
    table = table.sort_values(["item", "answer_kind", "layer", "head"], kind="stable", ignore_index=True)
    bands = (options["collapsed_below"], options["overloaded_above"])
    return Result.of(table, _aggregate(table, *bands, options["seed"]))


def _work(case: Case) -> Work:
    """One pass; a row a head."""
    return passes(case, "none", rows=case.n_layers * case.size.shape.n_heads, row_bytes=12)


@analysis(work=_work, by_item=_finished, reads=lambda _: ("pattern", "last_state"))
def attention_entropy(
    model: Model,
    prompts: Prompts,
    *,
    collapsed_below: float = 0.05,
    overloaded_above: float = 0.9,
    template: Literal["none", "chat"] = "none",
    boundary: Literal["joint", "concat", "offsets"] = "joint",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Normalised attention entropy of every head, and the shares of collapsed and overloaded heads.

    Rows: item, group, answer_kind, layer, head, attention_entropy (mean over the item's queries, of what each can
    reach), attention_entropy_nats, n_queries. Arrays over layer, head, group with intervals over items;
    collapsed_share and overloaded_share over all heads and by layer.

    Args:
        collapsed_below: normalised entropy under which a head counts as collapsed.
        overloaded_above: normalised entropy over which it counts as overloaded.
    """

    if not 0 <= collapsed_below <= overloaded_above <= 1:
        raise InputError(
            f"bands {collapsed_below}, {overloaded_above}: expected 0 <= collapsed_below <= overloaded_above <= 1"
        )
    plan = {"batch_size": batch_size, "template": template, "boundary": boundary}
    parts = [_heads(model, batch) for batch in reading.batches(model, prompts, "attention entropy", **plan)]
    table = pd.concat(parts, ignore_index=True)
    chosen = {"collapsed_below": collapsed_below, "overloaded_above": overloaded_above, "seed": seed}
    return _finished(table, chosen)


def _heads(model: Model, batch: TokenBatch) -> pd.DataFrame:
    """Rows of one batch; each layer's pattern [item, head, pos, key_pos] is reduced as it passes and not kept."""
    n_queries = (batch.mask.sum(-1) - 1).cpu().numpy()
    parts: list[pd.DataFrame] = []
    for layer, (raw, normalised) in _reduced(model, batch).items():
        n_items, n_heads = raw.shape
        index = np.repeat(np.arange(n_items), n_heads)
        columns = {
            "item": [batch.items[i].id for i in index],
            "group": [batch.items[i].group for i in index],
            "answer_kind": [batch.items[i].answer_kind for i in index],
            "layer": layer,
            "head": np.tile(np.arange(n_heads), n_items),
            "attention_entropy": normalised.ravel(),
            "attention_entropy_nats": raw.ravel(),
            "n_queries": n_queries[index],
        }
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _reduced(model: Model, batch: TokenBatch) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Entropies [item, head] of every layer that attends, from one pass: an edit that looks and changes nothing.

    Raises:
        InputError: no attention to read, or weights that do not sum to 1 over the keys (an attention sink beside them).
    """

    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def looking_at(layer: int) -> Any:
        def look(pattern: Tensor) -> None:
            off = float((pattern.float().sum(-1) - 1).abs().masked_fill(~real, 0.0).max())
            if off > 0.05:
                raise InputError(
                    f"block {layer}: attention weights over the keys miss 1 by up to {off:.2f} (the family puts the "
                    "rest on a sink beside the keys), so they have no entropy of their own"
                )
            raw, normalised = head_entropy(pattern, batch.mask.to(pattern.device))
            found[layer] = raw.cpu().numpy(), normalised.cpu().numpy()

        return look

    layers = [site.layer or 0 for site in model.sites("pattern")] or [int(model.site("pattern.0").layer or 0)]
    real = batch.mask[:, None].to(model.device)
    looks = [probe.look(probe.Site("pattern", layer), looking_at(layer)) for layer in layers]
    # The last state is read to be refused where it is not finite: a softmax of NaN may have been made 0.
    model.run(batch, read=[probe.Site("resid_post", model.shape.n_layers - 1)], edits=looks, logits="none")
    return {layer: found[layer] for layer in layers}


def head_entropy(pattern: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over each item's queries of entropy (nats) and of entropy / ln(reachable keys), each [item, head].

    What a query can reach is read off the weights: a key it may not attend to has weight exactly 0. Where softmax
    underflows to 0 on a key that could be reached, causality (position + 1) sets the number, up to the widest row.
    """
    weights = pattern.float()
    entropy = torch.special.entr(weights).sum(-1)
    position = (mask.long().cumsum(-1) - 1).clamp(min=0)
    # A sliding window shows as rows that all heads of all items leave empty further back.
    window = _window(weights, mask)
    reachable = (position + 1).clamp(max=window)
    counted = mask & (reachable > 1)
    scale = reachable.clamp(min=2).float().log().unsqueeze(1)
    kept = counted.unsqueeze(1).float()
    n = kept.sum(-1)
    means = [torch.where(kept > 0, x, 0.0).sum(-1) / n.where(n > 0, torch.nan) for x in (entropy, entropy / scale)]
    return means[0], means[1]


def _window(weights: Tensor, mask: Tensor) -> int:
    """Longest distance, in real tokens, over which any head of the layer gives any weight; plus one."""
    n = weights.shape[-1]
    distance = torch.arange(n, device=weights.device)[:, None] - torch.arange(n, device=weights.device)[None]
    real = mask.unsqueeze(1) & mask.unsqueeze(2)
    used = (weights.amax(1) > 0) & real
    return int(distance.expand_as(used)[used].max()) + 1 if bool(used.any()) else 1


def _aggregate(table: pd.DataFrame, low: float, high: float, seed: int) -> xr.Dataset:

    by = ["layer", "head", "group", "answer_kind"]
    labels = {
        "attention_entropy": ("fraction", "attention entropy / ln(reachable keys)"),
        "attention_entropy_nats": ("nats", "attention entropy"),
    }
    parts = [estimate(table, n, by, units=u, long_name=text, seed=seed) for n, (u, text) in labels.items()]
    return xr.merge([*parts, _shares(table, low, high, seed)])


def _shares(table: pd.DataFrame, low: float, high: float, seed: int) -> xr.Dataset:
    """Share of heads whose mean over items is in each band; an item draw moves the means, hence the shares."""

    data = xr.Dataset()
    cells = table.groupby(["answer_kind", "group"], sort=True)
    kinds, groups = (sorted(table[c].unique()) for c in ("answer_kind", "group"))
    layers = sorted(table["layer"].unique())
    shape = (len(layers), len(groups), len(kinds))
    found = {f"{n}{s}": np.full(shape, np.nan) for n in BANDS for s in ("", "_ci_low", "_ci_high", "_n")}
    for (kind, group), rows in cells:
        grid = rows.pivot(index="item", columns=["layer", "head"], values="attention_entropy").dropna()
        x = grid.to_numpy()
        if not len(x):
            continue
        counts = np.concatenate([np.ones((1, len(x))), resample_counts(len(x), 500, seed)])
        means = (counts @ x) / len(x)
        inside = {"collapsed_share": means < low, "overloaded_share": means > high}
        at = (slice(None), groups.index(group), kinds.index(kind))
        of_layer = grid.columns.get_level_values("layer").to_numpy()
        for name, hits in inside.items():
            share = np.stack([hits[:, of_layer == layer].mean(1) for layer in layers], axis=1)
            bounds = np.quantile(share[1:], [0.025, 0.975], axis=0) if len(x) > 1 else np.full((2, len(layers)), np.nan)
            for suffix, values in zip(("", "_ci_low", "_ci_high", "_n"), (share[0], *bounds, len(x)), strict=True):
                found[f"{name}{suffix}"][at] = values
    for name, values in found.items():
        dtype = int if name.endswith("_n") else float
        data[name] = (("layer", "group", "answer_kind"), np.nan_to_num(values).astype(int) if dtype is int else values)
    for name, label in BANDS.items():
        data[name].attrs = {"units": "fraction", "long_name": label}
    return data.assign_coords(layer=layers, group=np.asarray(groups, object), answer_kind=np.asarray(kinds, object))


BANDS = {"collapsed_share": "share of collapsed heads", "overloaded_share": "share of overloaded heads"}


def figures(result: Result) -> dict[str, Figure]:
    """Heads by layer as a map, and the shares over layers (over steps, where there are several)."""

    rows = result.summary()
    panels = [d for d in ("step", "group", "answer_kind") if d in rows]
    entropy = rows[rows["quantity"] == "attention_entropy"]
    title = "Attention entropy / ln(reachable keys)"
    drawn = {"heads": heatmap(entropy, x="head", y="layer", facet=panels, signed=False, title=title)}
    shares = rows[rows["quantity"].isin(BANDS)]
    x, color = ("step", "layer") if "step" in rows else ("layer", "group")
    facet = ["quantity", *(d for d in ("group", "answer_kind") if d in rows and d != color)]
    drawn["shares"] = curve(
        shares, x=x, color=color, facet=facet, title="Collapsed and overloaded heads, 95 % interval over items"
    )
    return drawn
