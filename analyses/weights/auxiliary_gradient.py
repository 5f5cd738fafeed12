"""Does an auxiliary loss help the main objective, or only perturb it?

Definition: g the gradient of the reinforcement objective, mean A log pi over a log's responses; a that of the
    auxiliary one, both as ascents and as means over items: `sft`, the mean log-likelihood of given answers; `kl`,
    -KL(policy, reference) at the log's states; `ahead`, that of the log's tokens `ahead` beyond the next, by a head
    fitted to the policy's states on other items (W_U N(h M)); `ahead_policy`, the same times A. inner = <g, a> over
    pairs of different items (the same item would count its own noise as agreement); perturbation = |a|^2; cosine =
    inner / (|g| |a|); ratio = inner / |a|^2. Of an update theta + step (g + weight a) on an objective of smoothness L
    the part due to a is, at first and second order, predicted = step weight (1 - L step) inner - L step^2 weight^2
    |a|^2 / 2; it is largest at best_weight = (1 - L step) / (L step) ratio and changes its sign at twice that.
Units: inner and perturbation in squared gradient units; cosine and ratio have none; predicted in the objective's.
Source: arXiv 2605.28184 (cross-entropy and policy loss of multi-token heads). Heads that checkpoints store (`mtp.`) are
    not loaded by transformers, so one matrix M a distance is fitted in their place, final norm and unembedding shared.
Does not show: what an adaptive optimizer makes of the two, nor later steps, on which an auxiliary loss may help where
    it harms the first. `smoothness` is not measured: read `predicted` for its sign and as a function of weight.
Control: an auxiliary loss of unrelated text (inner 0); the same objective twice (cosine 1); of fitted heads
    ahead_nll_nats beside ahead_frequency_nats, what token frequencies alone give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import scipy
import xarray as xr

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.figures import forest
from analyses.core.progress import progress
from analyses.core.reading import rollout_tokens
from analyses.core.result import Result
from analyses.core.stats import subsample_interval, subsamples
from analyses.core.work import Case, Work, passes
from analyses.weights import _ahead_gradients, _item_gradients, _log_gradients
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from analyses.weights._item_gradients import Gradients, Leaves
    from probe import Model, Prompts, Rollouts

FEWEST = 8  # items of either objective
NAMES = {
    "inner": "<main, auxiliary>",
    "perturbation": "|auxiliary|^2",
    "cosine": "cosine of the two gradients",
    "ratio": "<main, auxiliary> / |auxiliary|^2",
    "predicted": "predicted change of the main objective",
}


def _work(case: Case) -> Work:
    """A pass and its gradient over every response, of each checkpoint."""
    return passes(case, "all", times=3)


@analysis(work=_work)
def auxiliary_gradient(
    base: Model,
    tuned: Model,
    rollouts: Rollouts,
    prompts: Prompts | None = None,
    *,
    auxiliary: Literal["kl", "sft", "ahead", "ahead_policy"] = "kl",
    ahead: int = 1,
    updates: int = 100,
    rollout_step: int | None = None,
    step: float = 0.1,
    weight: float = 1.0,
    smoothness: float = 1.0,
    parts: tuple[str, ...] = ("all",),
    layers: tuple[int, ...] = (),
    sketch: int = 0,
    draws: int = 200,
    template: Literal["none", "chat"] = "none",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Inner product, cosine and predicted effect of an auxiliary gradient on the main one, with intervals over items.

    The policy is `tuned`, the reference of `kl` is `base`; `sft` reads the answers of `prompts`. Rows, one per item and
    objective: item, group, signal (main or auxiliary), norm, along (inner product with the mean of the other). Arrays:
    inner, perturbation, cosine, ratio, predicted with intervals; scalars best_weight, cosine_error.

    Args:
        auxiliary: which loss is added: nearness to the reference, given answers, or tokens further ahead (their
            likelihood, or that times the advantage).
        ahead: how far beyond the next token a fitted head predicts.
        updates: of its fit.
        rollout_step: step of the log whose responses are used; default: the last one up to tuned's own step.
        step: size of the update in `predicted`.
        weight: of the auxiliary gradient in `predicted`.
        smoothness: largest curvature of the objective in `predicted`.
        parts: as in weight_reset (all, mlp, attn, unembed, ...).
        layers: all, with what lies outside blocks.
        draws: subsamples of the items for the intervals.
        batch_size: not used here, each response has a gradient of its own.
        seed: sketch and subsamples.
    """
    del batch_size
    if ahead < 1 or updates < 0:
        raise InputError(f"ahead={ahead}, updates={updates}: at least 1 token beyond the next, no negative count")
    if auxiliary == "sft" and prompts is None:
        raise InputError("auxiliary='sft' needs prompts, whose answers are its text")
    warnings = reading.pair_warnings(base, tuned)
    rollouts.require("advantage", by="auxiliary_gradient")
    log = rollout_tokens.readable(rollouts.where(steps=[_sampled(rollouts, tuned, rollout_step)]), tuned)
    leaves = _item_gradients.Leaves(tuned, parts, layers)
    sketch = sketch or (0 if 2 * len(log) * leaves.size <= _item_gradients.WHOLE else 4096)
    main, items = _log_gradients.per_item(*_log_gradients.of_policy(tuned, log, leaves, sketch, seed))
    groups = _log_gradients.groups_of(log.index, items)
    known: dict[str, float] = {}
    if auxiliary.startswith("ahead"):
        heads = _ahead_gradients.fitted(tuned, log, ahead, updates, seed)
        found = _ahead_gradients.of_heads(
            tuned, log, leaves, sketch, seed, heads, ahead, is_policy=auxiliary == "ahead_policy"
        )
        other, names = _log_gradients.per_item(*found)
        of = _log_gradients.groups_of(log.index, names)
        known = {"ahead_nll_nats": heads.nll_nats, "ahead_frequency_nats": heads.frequency_nats}
        warnings = [*_ahead_gradients.notes(heads, ahead)]
    elif auxiliary == "kl" or prompts is None:
        near, of_item = _log_gradients.of_nearness(tuned, base, log, leaves, sketch, seed)
        other, names = _log_gradients.per_item(near, of_item)
        of = _log_gradients.groups_of(log.index, names)
    else:
        other, names, of = _of_answers(tuned, prompts, leaves, sketch, seed, template)
    if warnings and auxiliary == "kl":
        other.values[:] = 0  # exactly, where rounding leaves 1e-9
    products = _Products(main.gram(other), main.gram(), other.gram(), items, names)
    rows = [_rows(items, groups, "main", main.gram(), products.cross.T)]
    rows.append(_rows(names, of, "auxiliary", other.gram(), products.cross))
    table = pd.concat(rows, ignore_index=True)
    how = (step, weight, smoothness)
    data = _aggregates(products, how, draws, seed)
    data["cosine_error"] = main.cosine_error
    data = data.assign(known)
    claim = _claim(data, min(len(items), len(names)), auxiliary)
    return Result.of(table, data, claims=[claim], warnings=[*rollouts.notes, *warnings])


def _sampled(rollouts: Rollouts, tuned: Model, wanted: int | None) -> int:
    """The step of the log to read: the one asked for, else the last that the policy or an earlier one sampled."""
    if wanted is not None and wanted not in rollouts.steps:
        raise InputError(f"rollout_step={wanted}: {rollouts.source} has steps {rollouts.steps}")
    own = tuned.checkpoint.step if tuned.checkpoint else None
    before = [s for s in rollouts.steps if own is None or s <= own]
    return wanted if wanted is not None else (before or rollouts.steps)[-1]


def _of_answers(
    model: Model, prompts: Prompts, leaves: Leaves, sketch: int, seed: int, template: object
) -> tuple[Gradients, np.ndarray, np.ndarray]:
    """Ascent directions of the answers' log-likelihood, one per item, with items and groups."""
    named = lambda batches: progress(batches, "gradients of answers", total=len(batches))  # noqa: E731
    losses, items = _item_gradients.of_prompts(model, prompts, leaves, sketch, seed, named, template)
    ids = np.asarray([i.id for i in items], object)
    mean, names = _log_gradients.per_item(_item_gradients.Gradients(-losses.values, losses.dims), ids)
    groups = {i.id: i.group for i in items}
    return mean, names, np.asarray([groups[n] for n in names], object)


class _Products:
    """Inner products of items' gradients; those of an item with itself are left out of `cross`."""

    def __init__(
        self, cross: np.ndarray, main: np.ndarray, other: np.ndarray, items: np.ndarray, names: np.ndarray
    ) -> None:
        same = items.astype(str)[:, None] == names.astype(str)[None]
        self.cross, self.main, self.other = np.where(same, np.nan, cross), main, other
        self.items, self.names = items, names


def _rows(items: np.ndarray, groups: np.ndarray, signal: str, own: np.ndarray, cross: np.ndarray) -> pd.DataFrame:
    along = _mean(cross, 0)
    norm = np.sqrt(np.diag(own))
    return pd.DataFrame({"item": items, "group": groups, "signal": signal, "norm": norm, "along": along})


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    known = ~np.isnan(values)
    counts = known.sum(axis)
    return np.divide(np.where(known, values, 0).sum(axis), counts, out=np.full(len(counts), np.nan), where=counts > 0)


def predicted_change(inner: float, perturbation: float, step: float, weight: float, smoothness: float) -> float:
    """step weight (1 - L step) inner - L step^2 weight^2 |a|^2 / 2: exact where the objective is g'x - L |x|^2 / 2.

    Args:
        inner: <main, auxiliary>.
        perturbation: |auxiliary|^2.
        step: size of the update.
        weight: of the auxiliary gradient in it.
        smoothness: L.
    """
    helps = step * weight * (1 - smoothness * step) * inner
    return helps - smoothness * step**2 * weight**2 * perturbation / 2


def _aggregates(products: _Products, how: tuple[float, float, float], draws: int, seed: int) -> xr.Dataset:
    everyone = np.unique(np.concatenate([products.items, products.names]).astype(str))
    in_main, in_other = (np.isin(everyone, x.astype(str)) for x in (products.items, products.names))
    kept = subsamples(len(everyone), draws, seed, 2 * in_main + in_other, least=2)
    where = [np.searchsorted(everyone, x.astype(str)) for x in (products.items, products.names)]
    whole = [np.ones(len(at), bool) for at in where]
    sizes = _sizes(products, whole[0], whole[1])
    rows = [_means(products, keep[where[0]], keep[where[1]], how, sizes) for keep in kept]
    rows.insert(0, _means(products, whole[0], whole[1], how, sizes))
    fewest = min(map(len, where))
    wider = scipy.stats.t.ppf(0.975, fewest - 1) / scipy.stats.norm.ppf(0.975) if fewest > 1 else np.nan
    data = xr.Dataset()
    for name, label in NAMES.items():
        bounds = subsample_interval(np.asarray([[r[name]] for r in rows]), kept)
        low, high = rows[0][name] + wider * (bounds - rows[0][name])
        units = "1" if name in ("cosine", "ratio") else "objective" if name == "predicted" else "squared gradient"
        data[name] = ((), rows[0][name], {"units": units, "long_name": label})
        least = 0.0 if name == "perturbation" else -np.inf
        data[f"{name}_ci_low"], data[f"{name}_ci_high"] = max(float(low[0]), least), float(high[0])
        data[f"{name}_n"] = fewest
    step, _, smoothness = how
    data["best_weight"] = (
        (1 - smoothness * step) / (smoothness * step) * rows[0]["ratio"] if step * smoothness else np.nan
    )
    return data


def _sizes(products: _Products, main: np.ndarray, other: np.ndarray) -> list[float]:
    """Squared norms of the two mean gradients of these items."""
    return [float(np.maximum(g[np.ix_(k, k)].mean(), 0)) for g, k in ((products.main, main), (products.other, other))]


def _means(
    products: _Products, main: np.ndarray, other: np.ndarray, how: tuple[float, float, float], whole: list[float]
) -> dict[str, float]:
    """Every quantity of these items; cosine and ratio over the norms of all (`whole`).

    Means of half of the items are longer by chance alone. A cosine over their own norms would spread too little.
    """
    cross = products.cross[np.ix_(main, other)]
    inner = float(np.nanmean(cross)) if (~np.isnan(cross)).any() else np.nan
    size, scale = _sizes(products, main, other)[1], np.sqrt(whole[0] * whole[1])
    return {
        "inner": inner,
        "perturbation": size,
        "cosine": inner / scale if scale > 0 else np.nan,
        "ratio": inner / whole[1] if whole[1] > 0 else np.nan,
        "predicted": predicted_change(inner, size, *how),
    }


def _claim(data: xr.Dataset, n: int, auxiliary: str) -> Claim:
    what = f"the {auxiliary} gradient helps the main objective"
    if n < FEWEST:
        return Claim("auxiliary", UNJUDGED, what, why=f"{n} items are too few", needs=f"at least {FEWEST} items", n=n)
    value, low, high = (float(data[f"cosine{side}"]) for side in ("", "_ci_low", "_ci_high"))
    if np.isnan(value) or np.isnan(low):
        why, needs = "one of the two gradients is 0", "advantages that differ, and an auxiliary loss that acts"
        return Claim("auxiliary", UNJUDGED, what, why=why, needs=needs, n=n)
    shown: Fields = {
        "effect": value, "low": low, "high": high, "n": n, "unit": "cosine", "control": "an unrelated gradient (0)",
        "estimand": "cosine of the two mean gradients", "caveat": "the first step, without an optimizer's scaling",
    }  # fmt: skip
    if low > 0:
        return Claim("auxiliary", FOUND, what, **shown)
    if high < 0:
        return Claim("auxiliary", FOUND, f"the {auxiliary} gradient opposes the main objective", **shown)
    return Claim("auxiliary", NONE, f"that {what}; it only perturbs", **shown)


def figures(result: Result) -> dict[str, Figure]:
    """Cosine and ratio with their intervals; with steps, one line a step."""
    rows = result.summary()
    label = ["quantity", "step"] if "step" in rows else "quantity"
    title = "Auxiliary gradient against the main one"
    return {"auxiliary": forest(rows[rows["quantity"].isin(["cosine", "ratio"])], label=label, title=title, unit="1")}
