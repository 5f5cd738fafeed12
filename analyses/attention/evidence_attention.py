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

from analyses.attention import _evidence
from analyses.core import reading, stats
from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.figures import curve, heatmap
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work, passes

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from probe import Model, Prompts

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


def _work(case: Case) -> Work:
    """One pass."""
    return passes(case, "none")


@analysis(work=_work, by_item=_finished, reads=lambda _: ("pattern", "last_state"))
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
        seed: shuffled evidence and the bootstrap over items.
    """
    spans = _evidence.named(prompts, evidence, tags)
    parts = [
        _evidence.heads(model, batch, spans, queries, seed)
        for batch in reading.batches(model, prompts, "attention on evidence", batch_size=batch_size)
    ]
    table = pd.concat(parts, ignore_index=True).merge(prompts.roles(), how="left")
    return _finished(table, {"seed": seed})


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
