"""Which heads attend to the evidence of a question, and at which layer attention to it peaks.

Definition: the evidence of an item is named in its prompt (a column with text or characters, or tags). Queries are the
position that predicts the answer's first token, or all that predict answer tokens; keys are the positions before them
but the first, which is a sink. mass = attention on evidence / attention on these keys, mean over queries; auroc =
P(attention on an evidence key > on another), ties 1/2, mean over queries; shuffled = the auroc of the same evidence
moved on by a random number of keys. vas = mean over heads of attention on evidence (of all attention). Per item,
spotlight = layer of the largest vas, shadow = layer of the least before it (NaN where the spotlight is layer 0),
forgotten = largest vas minus that of the last layer. variant_sd = standard deviation of mass over wordings of a
problem (permuted rows), where there are any. A head attends to evidence where its auroc exceeds .5 for all heads
together.

Units: shares; layers.

Source: TABATTN (auroc and stability under permuted rows), DaID (spotlight and shadow layers).

Does not show: that a head uses what it attends to, or that the evidence decides the answer (patch it). Evidence that
always stands in one place is attended to by heads that know the place alone: permute it.

Control: `shuffled` (.5 in expectation over all shifts); the base checkpoint; a uniform head has auroc .5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

import probe
from analyses.attention import _spans
from analyses.core import reading, stats
from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.figures import curve, heatmap
from analyses.core.result import Result
from analyses.core.stats import estimate
from probe.errors import InputError
from probe.tokens import SPANS

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from plotly.graph_objects import Figure
    from torch import Tensor

    from probe import Model, Prompts, TokenBatch

BY = ["group", "answer_kind"]
FEWEST = 8  # items
HEADS = {
    "mass": "share of attention on evidence", "auroc": "AUROC of attention on evidence",
    "shuffled": "AUROC of evidence moved elsewhere",
}  # fmt: skip
LAYERS = {"spotlight": ("layers", "layer of most attention on evidence"),
          "shadow": ("layers", "layer of least before it"),
          "forgotten": ("1", "most minus last layer's attention on evidence")}  # fmt: skip
WHAT = "a head attends to the evidence"


def _finished(table: pd.DataFrame, options: Mapping[str, Any]) -> Result:
    """The result from the rows of all items."""
    table = table.sort_values(["item", "answer_kind", "layer", "head"], kind="stable", ignore_index=True)
    how: dict[str, Any] = {"seed": options["seed"], "units": "1"}
    at = ["layer", "head", *BY]
    parts = [estimate(table, q, at, long_name=label, **how) for q, label in HEADS.items()]
    own = ["item", *BY, *(["cluster"] if "cluster" in table else [])]
    of_layer = table.groupby([*own, "layer"], sort=False)["vas"].mean().reset_index()
    parts.append(estimate(of_layer, "vas", ["layer", *BY], long_name="attention on evidence, mean of heads", **how))
    each = pd.DataFrame([_peaks(rows) | dict(zip(own, names, strict=True)) for names, rows in of_layer.groupby(own)])
    for name, (units, label) in LAYERS.items():
        parts.append(estimate(each, name, BY, seed=options["seed"], units=units, long_name=label))
    spread = _spread(table)
    if spread is not None:
        label = "standard deviation of mass over wordings"
        parts.append(estimate(spread, "variant_sd", at, item="problem", cluster=None, long_name=label, **how))
    claims = [_claim(rows, of, options["seed"]) for of, rows in table.groupby(BY, sort=True)]
    return Result.of(table, xr.merge(parts, join="outer"), claims=claims)


def _peaks(rows: pd.DataFrame) -> dict[str, float]:
    """Spotlight, shadow and what is forgotten of one item's curve over layers; the earliest of ties."""
    curve = rows.sort_values("layer")["vas"].to_numpy()
    layers = rows.sort_values("layer")["layer"].to_numpy()
    spot = int(np.argmax(curve))
    shadow = float(layers[int(np.argmin(curve[:spot]))]) if spot else np.nan
    return {"spotlight": float(layers[spot]), "shadow": shadow, "forgotten": float(curve.max() - curve[-1])}


def _spread(table: pd.DataFrame) -> pd.DataFrame | None:
    """Standard deviation over the wordings of each problem, of every head; None where no problem has several."""
    if "variant" not in table:
        return None
    problem = [str(i).removesuffix(f"/{v}") for i, v in zip(table["item"], table["variant"], strict=True)]
    keys = ["problem", *BY, "layer", "head"]
    of = table.assign(problem=problem).groupby(keys)["mass"].agg(variant_sd="std", n="size").reset_index()
    of = of[of["n"] > 1]
    return of if len(of) else None


def _claim(rows: pd.DataFrame, of: Any, seed: int) -> Claim:
    """Whether any head's AUROC exceeds .5, over all heads together; the place is the clearest one."""
    wide = rows.pivot_table("auroc", "item", ["layer", "head"], sort=True).dropna()
    said: Fields = {
        "group": ", ".join(map(str, of)), "n": len(wide), "family": f"{wide.shape[1]} heads",
        "control": "chance, .5", "estimand": "AUROC of attention on evidence", "is_change": False,
    }  # fmt: skip
    if len(wide) < FEWEST:
        why, needs = f"{len(wide)} items have evidence", f"at least {FEWEST} items"
        return Claim("evidence", UNJUDGED, WHAT, why=why, needs=needs, **said)
    test = stats.mean_max_t(wide.to_numpy() - 0.5, clusters=stats.clusters_of(wide.index), seed=seed, draws=1000)
    best = int(np.nanargmax(np.where(np.isnan(test.low), -np.inf, test.low)))
    layer, head = wide.columns[best]
    found = bool(test.low[best] > 0)
    values = {"effect": float(test.value[best]), "low": float(test.low[best]), "high": float(test.high[best])}
    values = {name: min(max(value + 0.5, 0.0), 1.0) for name, value in values.items()}
    place = f"layer {layer} head {head}"
    shuffled = float(rows[(rows["layer"] == layer) & (rows["head"] == head)]["shuffled"].mean())
    more: Fields = {
        "p": float(test.p_cell[best]),
        "place": place,
        "assumptions": (f"evidence moved elsewhere: {shuffled:.2f}",),
    }
    what = f"head {head} of layer {layer} attends to the evidence" if found else WHAT
    return Claim("evidence", FOUND if found else NONE, what, **values, **said, **more)


@analysis(by_item=_finished)
def evidence_attention(
    model: Model,
    prompts: Prompts,
    *,
    evidence: str = "evidence",
    tags: tuple[str, ...] = (),
    queries: Literal["first", "answer"] = "first",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Attention of every head on the named evidence: mass, AUROC, the layer where it peaks, stability over wordings.

    Rows: item, group, answer_kind, layer, head, n_evidence (tokens), mass, auroc, shuffled, vas.

    Args:
        evidence: column of the prompts: a text (or several) that the prompt holds, or [start, stop] characters.
        tags: what opens and what closes the evidence in the prompt (two texts), in place of the column.
        queries: the position that predicts the answer's first token, or every one that predicts an answer token.
        batch_size: items per forward pass.
        seed: of the shuffled evidence and the bootstrap over items.
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
    parts = [
        _heads(model, batch, spans, queries, seed)
        for batch in reading.batches(model, prompts, "attention on evidence", batch_size=batch_size)
    ]
    table = pd.concat(parts, ignore_index=True).merge(prompts.roles(), how="left")
    return _finished(table, {"seed": seed})


def _heads(model: Model, batch: TokenBatch, spans: Mapping[Any, Any], queries: str, seed: int) -> pd.DataFrame:
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
        def look(pattern: Tensor) -> Tensor:
            found[layer] = [
                measures(pattern[n, :, offsets[n] :, offsets[n] :], asked[n], inside[n], _shift(batch, n, seed))
                for n in range(len(batch.items))
            ]
            return pattern

        return look

    layers = [site.layer or 0 for site in model.sites("pattern")] or [int(model.site("pattern.0").layer or 0)]
    looks = [probe.Edit(probe.Site("pattern", layer), looking_at(layer)) for layer in layers]
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
    import zlib

    return float(np.random.default_rng([seed, zlib.crc32(batch.items[n].id.encode())]).random())


def measures(
    pattern: Float[Tensor, "head pos key_pos"],
    queries: np.ndarray,
    inside: Bool[np.ndarray, " key_pos"],
    shift: float,
) -> Float[np.ndarray, "measure head"]:
    """mass, auroc, shuffled and vas of every head, mean over queries; NaN where no key is evidence or none is not."""
    import torch

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
    import torch

    own, others = weights[:, marked].contiguous(), weights[:, ~marked].sort(-1).values.contiguous()
    below = sum(torch.searchsorted(others, own, right=right).float() for right in (False, True))
    return (below / (2 * others.shape[-1])).mean(-1)  # type: ignore[union-attr]


def figures(result: Result) -> dict[str, Figure]:
    """AUROC of every head as a map, and attention on evidence over layers (with steps, one line a step)."""
    rows = result.summary()
    panels = [d for d in ("step", *BY) if d in rows]
    area, over = rows[rows["quantity"] == "auroc"], rows[rows["quantity"] == "vas"]
    color = "step" if "step" in rows else "group"
    return {
        "auroc": heatmap(area, x="head", y="layer", facet=panels, signed=False, title="AUROC of attention on evidence"),
        "vas": curve(over, x="layer", color=color, facet=[d for d in BY if d != color],
                     title="Attention on evidence by layer, mean of heads"),
    }  # fmt: skip
