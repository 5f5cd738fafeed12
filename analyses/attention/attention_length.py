"""Does attention spread out as the context grows? Entropy by how many keys a query reaches, and under scaled attention.

Definition: H = entropy of a query's attention over the keys that it reaches, n of them, mean over a layer's heads.
growth = slope of H on ln n over an item's queries: 1 for uniform attention, 0 for attention that keeps to as many keys.
scaled = H of the same logits times s(n) = max(1, ln n / ln trained): what scaling by the logarithm of the length would
make of it; growth_scaled its slope. sensitivity = variance of the logits under the attention, which is - dH/ds at s =
1. `pos` is the first n of a bin of doubling width (2, 4, 8 ...); longest = ln n, its bound.

Units: nats; slopes and sensitivity in nats per unit.

Source: Entropy-ABF (entropy against length, and scaled attention).

Does not show: what another scale does to the next layer or the answer: each layer's logits are those of the model as it
is. Texts of one length tell little of longer ones.

Control: uniform attention (ln n); `trained` at least the longest text (scaled is the same).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

import probe
from analyses.core import reading, stats
from analyses.core.analysis import analysis
from analyses.core.figures import curve
from analyses.core.result import Result
from analyses.core.work import Case, Work, passes
from probe.errors import InputError
from probe.lazily import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from plotly.graph_objects import Figure
    from torch import Tensor

    from probe import Model, Prompts, TokenBatch

BY = ["group", "answer_kind"]
BINNED = {
    "entropy_nats": "attention entropy", "scaled_nats": "the same under scaled attention",
    "sensitivity": "fall of entropy with the scale", "longest_nats": "ln of the keys in reach",
}  # fmt: skip
SLOPES = {"growth": "entropy per ln of keys", "growth_scaled": "the same under scaled attention"}


def _finished(table: pd.DataFrame, options: Mapping[str, Any]) -> Result:
    """The result from the rows of all items."""
    table = table.sort_values(["item", "answer_kind", "layer", "pos"], kind="stable", ignore_index=True)
    how: dict[str, Any] = {"seed": options["seed"], "units": "nats"}
    parts = [
        stats.estimate(table, q, ["layer", "pos", *BY], weight="n_queries", long_name=v, **how)
        for q, v in BINNED.items()
    ]
    each = table.drop_duplicates(["item", *BY, "layer"])
    parts += [stats.estimate(each, q, ["layer", *BY], long_name=v, **how) for q, v in SLOPES.items()]
    return Result.of(table, xr.merge(parts, join="outer"))


def _work(case: Case) -> Work:
    """One pass."""
    return passes(case, "none")


@analysis(work=_work, by_item=_finished, reads=lambda _: ("pattern", "last_state"))
def attention_length(
    model: Model, prompts: Prompts, *, trained: int = 16, batch_size: int = 8, seed: int = 0
) -> Result:
    """Attention entropy of every layer by the number of keys in reach, as it is and under scaled attention.

    Rows, one per item, layer and bin of lengths: item, group, answer_kind, layer, pos (least number of keys of the
    bin), n_queries, entropy_nats, scaled_nats, sensitivity, longest_nats, growth, growth_scaled (of the item; NaN
    below four queries).

    Args:
        trained: number of keys up to which attention is not scaled.
    """
    if trained < 2:
        raise InputError(f"trained={trained}; expected at least 2 keys")
    parts = [
        _rows(model, b, trained) for b in reading.batches(model, prompts, "attention length", batch_size=batch_size)
    ]
    return _finished(pd.concat(parts, ignore_index=True), {"seed": seed})


def _rows(model: Model, batch: TokenBatch, trained: int) -> pd.DataFrame:
    """Rows of one batch; each layer's pattern [item, head, pos, key_pos] is reduced as it passes and not kept."""
    offsets, lengths = batch.offsets.tolist(), batch.mask.sum(-1).tolist()
    found: dict[int, list[pd.DataFrame]] = {}

    def looking_at(layer: int) -> Any:
        def look(pattern: Tensor) -> None:
            own = [slice(o, o + n) for o, n in zip(offsets, lengths, strict=True)]
            found[layer] = [binned(measures(pattern[n, :, at, at], trained)) for n, at in enumerate(own)]

        return look

    layers = [site.layer or 0 for site in model.sites("pattern")] or [int(model.site("pattern.0").layer or 0)]
    looks = [probe.look(probe.Site("pattern", layer), looking_at(layer)) for layer in layers]
    model.run(batch, read=[probe.Site("resid_post", model.shape.n_layers - 1)], edits=looks, logits="none")
    return pd.concat(
        [
            rows.assign(item=item.id, group=item.group, answer_kind=item.answer_kind, layer=layer)
            for layer in layers
            for item, rows in zip(batch.items, found[layer], strict=True)
        ],
        ignore_index=True,
    )


def measures(pattern: Float[Tensor, "head pos key_pos"], trained: int) -> pd.DataFrame:
    """Of every query with two keys in reach or more: how many, H, H under the scale, and the variance of the logits."""
    p = pattern.float()
    n = torch.arange(1, p.shape[1] + 1, device=p.device, dtype=torch.float32)
    scale = (n.log() / np.log(trained)).clamp(min=1.0)[None, :, None]
    log_p = torch.where(p > 0, p, 1.0).log()
    scaled = torch.where(p > 0, log_p * scale, -torch.inf).softmax(-1).nan_to_num(0.0)
    mean = (p * log_p).sum(-1, keepdim=True)
    columns = {
        "entropy_nats": torch.special.entr(p).sum(-1), "scaled_nats": torch.special.entr(scaled).sum(-1),
        "sensitivity": (p * (log_p - mean) ** 2).sum(-1),
    }  # fmt: skip
    reached = n[1:].cpu().numpy()
    return pd.DataFrame({"keys": reached, **{k: v.mean(0)[1:].cpu().double().numpy() for k, v in columns.items()}})


def binned(of: pd.DataFrame) -> pd.DataFrame:
    """Means over queries by number of keys (2-3, 4-7, 8-15 ...), and the slopes on ln of that number."""
    of = of.assign(pos=2 ** np.floor(np.log2(of["keys"])).astype(int), longest_nats=np.log(of["keys"]))
    slopes = {"growth": slope(of, "entropy_nats"), "growth_scaled": slope(of, "scaled_nats")}
    means = of.groupby("pos").agg(n_queries=("keys", "size"), **{q: (q, "mean") for q in BINNED}).reset_index()
    return means.assign(**slopes)


def slope(of: pd.DataFrame, name: str) -> float:
    """Least-squares slope of a column on ln of the number of keys; NaN below four queries."""
    return float(np.polyfit(of["longest_nats"], of[name], 1)[0]) if len(of) > 3 else float("nan")


def figures(result: Result) -> dict[str, Figure]:
    """Entropy against the number of keys, as it is and scaled, and the slope by layer; with steps, one line a step."""
    rows = result.summary()
    over = rows[rows["quantity"].isin(["entropy_nats", "scaled_nats", "longest_nats"])]
    slopes = rows[rows["quantity"].isin(list(SLOPES))]
    steps = "step" in rows
    title = ("Attention entropy by keys in reach", "Growth of attention entropy with ln of the keys")
    return {
        "length": curve(over, x="pos", color="step" if steps else "quantity",
                        facet=["quantity", "layer", *BY] if steps else ["layer", *BY], title=title[0]),
        "growth": curve(slopes, x="layer", color="step" if steps else "quantity",
                        facet=["quantity", *BY] if steps else BY, title=title[1]),
    }  # fmt: skip
