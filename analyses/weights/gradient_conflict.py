"""Which items' gradients pull against one another, and what training on one group does to another.

Definition: g_i is the gradient of item i's loss, the mean negative log-likelihood of its answer, with respect to the
    weights. negative = share of pairs with cos(g_i, g_j) < 0 (ties, exactly 0, count half); cosine = their mean;
    cancellation = 1 - |sum g| / sum |g|: 0 where all point the same way, 1 - 1/sqrt(n) (cancellation_chance) where
    they are orthogonal and of one length, above that where they undo one another. spill = mean over items j of
    <g_j, -u>, u the unit mean gradient of the group trained on (without j): the first-order change of j's loss per
    unit step, so above 0 where training on that group harms. Each by the group trained on and the group read.
Units: shares and cosines; spill in nats per unit length of a step in weights.
Source: arXiv 2605.27083 (shares and cancellation inside a training set; its spill-over to domains that were not
    trained on is a rate of made-up answers, which `evaluate` of both checkpoints gives; here it is predicted).
Does not show: what an optimizer does: Adam rescales coordinates, and a step is not infinitesimal. Two items may
    conflict in weights that a step barely moves.
Control: the same item twice (cosine 1, cancellation 0); contradictory answers from a uniform model: cos -1 / (V - 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.analysis import analysis
from analyses.core.figures import heatmap
from analyses.core.progress import progress
from analyses.core.result import Result
from analyses.core.stats import subsample_interval, subsamples
from analyses.core.work import Case, Work
from analyses.weights import _conflict_claims, _item_gradients
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from probe import Model, Prompts

LABELS = {
    "negative": ("1", "share of pairs with opposed gradients"),
    "cosine": ("1", "mean cosine of pairs"),
    "spill": ("nats per unit step", "predicted change of the loss"),
}


def _work(case: Case) -> Work:
    """A pass forward and one backward (two forward ones) per item."""
    return Work(block_rows=3 * case.tokens * case.n_layers, unembedded=3 * case.tokens, rows=2, row_bytes=60, sites=8)


@analysis(work=_work)
def gradient_conflict(
    model: Model,
    prompts: Prompts,
    *,
    parts: tuple[str, ...] = ("all",),
    layers: tuple[int, ...] = (),
    sketch: int = 0,
    draws: int = 200,
    template: Literal["none", "chat"] = "none",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Share of opposed gradients, cancellation and spill-over between groups, with intervals over items.

    Rows, one per item and group trained on: item, group, trained_on, norm, cosine and negative (with the items of
    that group), spill, least_cosine and most_against (its strongest opponent there). Arrays over [trained_on, group]:
    negative, cosine, spill; over [group]: cancellation, cancellation_chance; scalar cosine_error (of a sketch).

    Args:
        parts: as in weight_reset (all, mlp, attn, unembed, ...).
        layers: all, with what lies outside blocks.
        draws: subsamples of the items for the intervals.
        batch_size: not used here, each item has a gradient of its own.
        seed: sketch and subsamples.
    """
    del batch_size
    leaves = _item_gradients.Leaves(model, parts, layers)
    named = lambda batches: progress(batches, "gradients", total=len(batches))  # noqa: E731
    gradients, items = _item_gradients.of_prompts(model, prompts, leaves, sketch, seed, named, template)
    order = np.argsort([f"{i.id}\x1f{i.answer_kind}" for i in items], kind="stable")
    gram = gradients.gram()[np.ix_(order, order)]
    ids = np.asarray([items[i].id for i in order], object)
    groups = np.asarray([items[i].group for i in order], object)
    if len(ids) < 4:
        raise InputError(f"{len(ids)} items: at least 4 are needed, whose gradients are compared in pairs")
    table = pd.concat([_rows(gram, ids, groups, name) for name in sorted(set(groups))], ignore_index=True)
    data = _aggregates(gram, ids, groups, draws, seed)
    data["cosine_error"] = gradients.cosine_error
    silent = int((np.diag(gram) == 0).sum())
    warnings = [f"{silent} item(s) have a gradient of 0 and no direction"] if silent else []
    if gradients.dims:
        warnings.append(
            f"gradients are sketched to {gradients.dims} numbers: a cosine is off by {gradients.cosine_error:.3f}"
        )
    return Result.of(table, data, claims=_conflict_claims.claims(data), warnings=warnings)


def cosines(gram: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
    """Cosines of all pairs; NaN with a vector of length 0, and of an item with itself (with its other answers too)."""
    size = np.sqrt(np.diag(gram))
    scale = np.outer(size, size)
    found = np.divide(gram, scale, out=np.full_like(gram, np.nan), where=scale > 0)
    np.fill_diagonal(found, np.nan)
    if ids is not None:
        found[ids[:, None] == ids[None]] = np.nan
    return np.clip(found, -1, 1)


def cancellation(gram: np.ndarray) -> float:
    """1 - |sum g| / sum |g|; NaN where all are 0."""
    total = np.sqrt(np.diag(gram)).sum()
    return 1 - float(np.sqrt(max(gram.sum(), 0.0)) / total) if total > 0 else float("nan")


def opposed(cosine: np.ndarray) -> np.ndarray:
    """1 below 0, 1/2 at 0, 0 above; NaN where there is none."""
    return np.where(np.isnan(cosine), np.nan, 0.5 - 0.5 * np.sign(cosine))


def _rows(gram: np.ndarray, ids: np.ndarray, groups: np.ndarray, trained_on: str) -> pd.DataFrame:
    """Every item against the items of one group."""
    among = groups == trained_on
    cosine = cosines(gram, ids)[:, among]
    known = ~np.isnan(cosine)
    counted = np.maximum(known.sum(1), 1)
    filled, against = np.where(known, cosine, 0.0), np.where(known, opposed(cosine), 0.0)
    least = np.where(known, cosine, np.inf)
    any_: np.ndarray = np.asarray(known.any(1))
    return pd.DataFrame(
        {
            "item": ids,
            "group": groups,
            "trained_on": trained_on,
            "norm": np.sqrt(np.diag(gram)),
            "cosine": np.where(any_, filled.sum(1) / counted, np.nan),
            "negative": np.where(any_, against.sum(1) / counted, np.nan),
            "spill": _spill(gram, among),
            "least_cosine": np.where(any_, least.min(1, initial=np.inf), np.nan),
            "most_against": [ids[among][i] if ok else None for i, ok in zip(least.argmin(1), any_, strict=True)],
        }
    )


def _spill(gram: np.ndarray, among: np.ndarray) -> np.ndarray:
    """<g_j, -u> of every item, u the unit sum of the group's gradients but j's own."""
    own = np.where(among, np.diag(gram), 0.0)
    toward = gram[:, among].sum(1) - own
    size = gram[np.ix_(among, among)].sum() - np.where(among, 2 * gram[:, among].sum(1) - own, 0.0)
    size = np.sqrt(np.maximum(size, 0.0))
    return np.divide(-toward, size, out=np.full(len(gram), np.nan), where=size > 0)


def _aggregates(gram: np.ndarray, ids: np.ndarray, groups: np.ndarray, draws: int, seed: int) -> xr.Dataset:
    """Means over pairs of groups, with intervals from subsamples of the items, each group halved.

    Several answers of one item are one unit: they are drawn together, and are no pair.
    """
    names = sorted(set(groups))
    codes = np.asarray([names.index(g) for g in groups])
    units, first, unit = np.unique(ids.astype(str), return_index=True, return_inverse=True)
    kept = subsamples(len(units), draws, seed, codes[first], least=2)
    rows = [_means(gram, ids, codes, len(names), keep[unit]) for keep in (np.ones(len(units), bool), *kept)]
    counts = np.bincount(codes[first], minlength=len(names))
    data = xr.Dataset(coords={"trained_on": np.asarray(names, object), "group": np.asarray(names, object)})
    for name in (*LABELS, "cancellation"):
        values = np.stack([r[name].ravel() for r in rows])
        low, high = subsample_interval(values, kept)
        shape = rows[0][name].shape
        dims = ("trained_on", "group") if len(shape) == 2 else ("group",)
        unit, label = LABELS.get(name, ("1", "cancellation of gradients"))
        data[name] = (dims, rows[0][name], {"units": unit, "long_name": label})
        for suffix, bound in (("ci_low", low), ("ci_high", high)):
            data[f"{name}_{suffix}"] = (dims, bound.reshape(shape))
        n = np.minimum.outer(counts, counts) if len(shape) == 2 else counts
        data[f"{name}_n"] = (dims, np.where(np.isnan(rows[0][name]), 0, n))
    data["cancellation_chance"] = ("group", 1 - 1 / np.sqrt(np.bincount(codes, minlength=len(names))))
    return data


def _means(gram: np.ndarray, ids: np.ndarray, codes: np.ndarray, count: int, keep: np.ndarray) -> dict[str, np.ndarray]:
    """Every quantity of the items kept."""
    gram, codes = gram[np.ix_(keep, keep)], codes[keep]
    cosine = cosines(gram, ids[keep])
    pairs = {"cosine": cosine, "negative": opposed(cosine)}
    out = {name: np.full((count, count), np.nan) for name in LABELS} | {"cancellation": np.full(count, np.nan)}
    for a in range(count):
        spill = _spill(gram, codes == a)
        for b in range(count):
            for name, values in pairs.items():
                block = values[np.ix_(codes == a, codes == b)]
                out[name][a, b] = np.nanmean(block) if (~np.isnan(block)).any() else np.nan
            own = spill[codes == b]
            out["spill"][a, b] = np.nanmean(own) if (~np.isnan(own)).any() else np.nan
        out["cancellation"][a] = cancellation(gram[np.ix_(codes == a, codes == a)])
    return out


def figures(result: Result) -> dict[str, Figure]:
    """The three quantities by group trained on and group read; with steps, one panel a step."""
    rows = result.summary()
    facet = "step" if "step" in rows else None
    return {
        name: heatmap(rows[rows["quantity"] == name], x="group", y="trained_on", facet=facet, title=label.capitalize())
        for name, (_, label) in LABELS.items()
    }
