"""Does the model see the answer and then forget it? The lens where attention to evidence peaks, and decoding with it.

Definition: of every item, spotlight = layer of most attention on evidence (mean of heads), shadow = layer of least
before it, as in `evidence_attention`. right[l] = the lens at block l (final norm and head on resid_post) has the first
answer token as its likeliest; seen = best layer's share of right items, see_then_forget = seen minus the last
layer's, at least 0. combined = whether the token is likeliest under (1 + beta) (L_final + alpha L_spotlight) - beta
L_shadow among tokens with p_final at least gamma times the largest; where there is no shadow its term is left out.
gain = combined - right at the last layer.

Units: shares of items.

Source: DaID (spotlight and shadow layers; alpha .8, beta .2).

Does not show: that more than the first answer token comes out right. `seen` is the best of many layers, so it exceeds
the last layer's share by luck too: gain, which uses layers found by attention alone, does not.

Control: alpha = beta = 0 (the last layer itself); evidence that is none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.attention import _evidence
from analyses.core import reading, stats
from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
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
FEWEST = 8  # items
LABELS = {"final": "right at the last layer", "combined": "right with spotlight and shadow", "gain": "combined - last"}
WHAT = "decoding with the layers of the evidence gets more first tokens right"


def _work(case: Case) -> Work:
    """A pass that looks at attention and one read at every layer, whose first answer token is unembedded."""
    return replace(passes(case, "none", times=2), unembedded=case.n_layers, sites=case.n_layers)


@analysis(work=_work)
def spotlight_lens(
    model: Model,
    prompts: Prompts,
    *,
    evidence: str = "evidence",
    tags: tuple[str, ...] = (),
    spotlight_weight: float = 0.8,
    shadow_weight: float = 0.2,
    gamma: float = 0.1,
    queries: Literal["first", "answer"] = "first",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """First answer token by the lens at every layer, and with the layers where attention to evidence peaks.

    Rows, one per item and layer: item, group, answer_kind, layer, right, final, combined, gain, spotlight, shadow (NaN
    where the spotlight is layer 0).

    Args:
        spotlight_weight: alpha, of the spotlight's logits.
        shadow_weight: beta, of what is taken off: the shadow's logits.
        gamma: share of the largest probability below which a token is out of the question.
        queries: their attention finds the layers.
    """
    if min(spotlight_weight, shadow_weight) < 0 or not 0 <= gamma <= 1:
        given = f"weights {spotlight_weight} and {shadow_weight}, gamma={gamma}"
        raise InputError(f"{given}; expected weights of at least 0 and gamma from 0 to 1")
    spans = _evidence.named(prompts, evidence, tags)
    parts: list[pd.DataFrame] = []
    for batch in reading.batches(model, prompts, "spotlight lens", batch_size=batch_size):
        looked = _evidence.heads(model, batch, spans, queries, seed)
        parts.append(_rows(model, batch, looked, (spotlight_weight, shadow_weight, gamma)))
    table = pd.concat(parts, ignore_index=True).merge(prompts.roles(), how="left")
    table = table.sort_values(["item", "answer_kind", "layer"], kind="stable", ignore_index=True)
    one = table.drop_duplicates(["item", *BY])
    data = [stats.estimate(one, q, BY, seed=seed, units="1", long_name=v) for q, v in LABELS.items()]
    data.append(stats.estimate(table, "right", ["layer", *BY], seed=seed, units="1", long_name="right by the lens"))
    return Result.of(table, xr.merge([*data, _forgotten(data[-1])]), claims=list(_claims(one, seed)))


def _forgotten(lens: xr.Dataset) -> xr.Dataset:
    """Best layer's share of right items, and how much of it the last layer has lost; no interval: the best of many."""
    best = lens["right"].max("layer")
    found = {"seen": best, "see_then_forget": best - lens["right"].isel(layer=-1, drop=True)}
    data = xr.Dataset()
    for name, values in found.items():
        data[name] = values.assign_attrs(units="1", long_name=name.replace("_", " "))
        for side in ("ci_low", "ci_high"):
            data[f"{name}_{side}"] = values * np.nan
        data[f"{name}_n"] = lens["right_n"].max("layer")
    return data


def _rows(model: Model, batch: TokenBatch, looked: pd.DataFrame, how: tuple[float, float, float]) -> pd.DataFrame:
    """Rows of one batch; logits are made for one item at a time."""
    tokens = reading.scored(batch)
    tokens = tokens.where(tokens.in_span("rationale", "answer"))
    sites = [f"resid_post.{layer}" for layer in range(model.shape.n_layers)]
    trace = model.run(batch, read=sites, logits="none")
    states = [tokens.rows(trace[site]) for site in sites]
    vas = looked.groupby(["item", "answer_kind", "layer"])["vas"].mean()
    parts: list[pd.DataFrame] = []
    for n, item in enumerate(batch.items):
        first = int((tokens.item == n).nonzero()[0, 0])
        logits = model.unembed(torch.stack([s[first].to(states[0].device) for s in states])).float()
        spot, shadow = layers_of(vas.loc[item.id, item.answer_kind])
        target = int(tokens.target[first])
        right = (logits.argmax(-1) == target).cpu().numpy().astype(float)
        both = float(int(combined(logits, spot, shadow, *how).argmax()) == target)
        named = {"item": item.id, "group": item.group, "answer_kind": item.answer_kind, "spotlight": float(spot)}
        named |= {"shadow": np.nan if shadow is None else float(shadow), "final": right[-1], "combined": both}
        parts.append(
            pd.DataFrame({"layer": np.arange(len(right)), "right": right}).assign(**named, gain=both - right[-1])
        )
    return pd.concat(parts, ignore_index=True)


def layers_of(vas: pd.Series) -> tuple[int, int | None]:
    """Spotlight and shadow of attention on evidence by layer; the earliest of ties, no shadow before the first."""
    values, layers = vas.sort_index().to_numpy(), vas.sort_index().index.to_numpy()
    spot = int(np.argmax(values))
    return int(layers[spot]), int(layers[int(np.argmin(values[:spot]))]) if spot else None


def combined(
    logits: Float[Tensor, "layer vocab"], spot: int, shadow: int | None, alpha: float, beta: float, gamma: float
) -> Float[Tensor, " vocab"]:
    """Scores of the vocabulary from log-probabilities of three layers; -inf where the last layer excludes a token."""
    log_p = logits.log_softmax(-1)
    scores = (1 + beta) * (log_p[-1] + alpha * log_p[spot])
    if shadow is not None:
        scores = scores - beta * log_p[shadow]
    return scores.masked_fill(log_p[-1] < log_p[-1].max() + np.log(max(gamma, 1e-30)), -torch.inf)


def _claims(one: pd.DataFrame, seed: int) -> list[Claim]:
    """Of every group and kind: does decoding with these layers change how many first tokens are right?"""
    found: list[Claim] = []
    cells = list(one.groupby(BY, sort=True))
    for of, rows in cells:
        said: Fields = {
            "group": ", ".join(map(str, of)), "n": len(rows), "family": f"{len(cells)} group(s)",
            "control": "the last layer", "estimand": "right with both layers minus right at the last",
        }  # fmt: skip
        if len(rows) < FEWEST:
            why, needs = f"{len(rows)} items have evidence", f"at least {FEWEST} items"
            found.append(Claim("decoding", UNJUDGED, WHAT, why=why, needs=needs, **said))
            continue
        data = stats.estimate(rows, "gain", seed=seed, units="1")
        value, low, high, n = (float(data[f"gain{side}"]) for side in ("", "_ci_low", "_ci_high", "_n"))
        _, low, high = stats.widened(value, low, high, n=int(n), looks=len(cells))
        found.append(Claim("decoding", FOUND if low > 0 else NONE, WHAT, effect=value, low=low, high=high, **said))
    return found


def figures(result: Result) -> dict[str, Figure]:
    """Share of first tokens that the lens gets right, by layer; with steps, one line a step."""
    rows = result.summary()
    lens = rows[rows["quantity"] == "right"]
    color, facet = ("step", BY) if "step" in rows else (BY, None)
    return {"lens": curve(lens, x="layer", color=color, facet=facet, title="First answer token right by the lens")}
