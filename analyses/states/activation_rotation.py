"""Whether training turned the states: the best rotation from base to tuned, its angle, what it explains of new items.

Definition: H_a, H_b [item, k] are the pooled states of the same items in base and tuned, each centred, in the first k
    principal components of both together. R = U V' from the SVD of H_a' H_b is the best orthogonal map. angle =
    |log R|_F / sqrt 2, from the angles of R's eigenvalues: the turn of one plane, and of several planes their turns
    added in quadrature. fit = 1 - |H_a R - H_b|^2 / |H_b|^2 on the items R was fitted to; fit_held_out the same on
    items it was not (two halves, both ways), unmoved that of no rotation (R = 1). gain = fit_held_out - unmoved.
    angle_1, angle_mean = smallest and mean principal angle between the spans of the first k components of base and of
    tuned alone.
Units: angle in radians; principal angles in degrees; fits have none, 1 is exact.
Source: arXiv 2602.03237 (rotation, angle, residual; what it does with them is inferred from its abstract).
Does not show: why states turned, nor that all d_model dimensions turned: only the k most varied ones are
    seen. With few items a rotation fits anything: read fit_held_out, not fit.
Control: the same checkpoint twice (angle 0, gain 0); unrelated states (gain below 0); a shift of all states, which
    centring takes off.
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
from analyses.core.reading.where_read import Pooling, pooled_sites
from analyses.core.result import Result
from analyses.core.stats import clusters_of, estimate, mean_of_items, subsample_interval, subsamples
from analyses.core.work import Case, Work
from analyses.states._part_claims import FEWEST, read_at
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from probe import Model, Prompts

NAMES = {
    "angle": ("rad", "angle of the best rotation"),
    "fit": ("1", "share of tuned states that rotated base states explain"),
    "unmoved": ("1", "share that base states explain as they are"),
    "angle_1": ("degrees", "smallest principal angle of the two subspaces"),
    "angle_mean": ("degrees", "mean principal angle of the two subspaces"),
}
WITH_INTERVAL = ("unmoved",)  # what is fitted to all items depends on how many there are


def _work(case: Case) -> Work:
    """Both checkpoints' passes; pooled states wait on disk in any case."""
    states = case.n_layers + 1
    return Work(block_rows=2 * case.full_pass, rows=states, row_bytes=17, sites=states, spilled=2 * states)


@analysis(work=_work, takes_turns=True, renamed={"positions": "at"}, reads=pooled_sites)
def activation_rotation(
    base: Model,
    tuned: Model,
    prompts: Prompts,
    *,
    pooling: Pooling = "last_prompt",
    at: tuple[int, ...] = (),
    components: int = 8,
    draws: int = 100,
    template: Literal["none", "chat"] = "none",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Angle and fit of the best rotation from base's states to tuned's at every state; principal angles; held-out fit.

    Rows: item, group, state, residual (squared distance after the rotation fitted to other items), residual_unmoved
    (without one), size (squared norm in tuned). Arrays over `state`: angle, fit, unmoved, angle_1, angle_mean, and
    fit_held_out, gain with intervals over items.

    Args:
        at: the mean over them.
        components: at most a third of the items.
        draws: subsamples of the items for the interval of unmoved.
        seed: halves and subsamples.
    """
    if components < 2:
        raise InputError(f"components={components}: at least 2 are needed, a plane, for a rotation")
    warnings = reading.pair_warnings(base, tuned)
    n = len({item.id for item in prompts.items})
    if n < 6:
        raise InputError(f"{n} items: at least 6 are needed (two halves, two components)")
    plan: dict[str, Any] = {"batch_size": batch_size, "template": template, "pooling": pooling, "positions": at}
    before, after = (reading.pooled_states(m, prompts, what="rotation", **plan) for m in (base, tuned))
    k = min(components, n // 3, base.shape.d_model)
    kept = subsamples(n, draws, seed, least=4, clusters=clusters_of(before.ids))
    halves = np.random.default_rng(seed).permutation(n) < n // 2
    rows: list[pd.DataFrame] = []
    drawn: list[tuple[dict[str, float], list[float]]] = []
    for state in range(before.n_layers + 1):
        x, y = before.layer(state), after.layer(state)
        drawn.append((rotated(x, y, k), [unmoved(*reduced(x[w], y[w], k)) for w in kept]))
        residuals = held_out(x, y, k, halves)
        rows.append(pd.DataFrame({"item": before.ids, "group": before.groups, "state": state, **residuals}))
    table = pd.concat(rows, ignore_index=True).sort_values(["item", "state"], kind="stable")
    data = _arrays(table, drawn, kept)
    return Result.of(table, data, claims=[_claim(table, n, read_at(pooling, at))], warnings=warnings)


def reduced(x: np.ndarray, y: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Both sets of states, each centred, in the k components in which the two together vary most.

    Args:
        x: base's states [item d_model].
        y: tuned's states of the same items.
        k: components kept.
    """
    a, b = x - x.mean(0), y - y.mean(0)
    basis = np.linalg.svd(np.concatenate([a, b]), full_matrices=False)[2][:k].T
    return a @ basis, b @ basis


def best_rotation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The orthogonal R that minimises |a R - b| (Schonemann 1966)."""
    u, _, vt = np.linalg.svd(a.T @ b)
    return u @ vt


def angle_of(rotation: np.ndarray) -> float:
    """|log R|_F / sqrt 2: angles of its planes in quadrature; a reflection adds pi / sqrt 2."""
    return float(np.sqrt((np.angle(np.linalg.eigvals(rotation)) ** 2).sum() / 2))


def unmoved(a: np.ndarray, b: np.ndarray) -> float:
    """Share of the tuned states that base's explain as they are; NaN where tuned's do not vary."""
    total = float((b**2).sum())
    return 1 - float(((a - b) ** 2).sum()) / total if total > 1e-24 else np.nan


def rotated(x: np.ndarray, y: np.ndarray, k: int) -> dict[str, float]:
    """Every quantity that is fitted to all items given; NaN where a state does not vary.

    Args:
        x: base's states [item d_model].
        y: tuned's states of the same items.
        k: components kept.
    """
    a, b = reduced(x, y, k)
    total = float((b**2).sum())
    if total <= 1e-24 or float((a**2).sum()) <= 1e-24:
        return dict.fromkeys(NAMES, np.nan)
    same = np.array_equal(x, y)
    r = np.eye(k) if same else best_rotation(a, b)
    spans = [np.linalg.svd(z - z.mean(0), full_matrices=False)[2][:k].T for z in (x, y)]
    cosines = np.clip(np.linalg.svd(spans[0].T @ spans[1], compute_uv=False), -1, 1)
    angles = np.zeros(k) if same else np.degrees(np.arccos(cosines))
    return {
        "angle": angle_of(r),
        "fit": 1 - float(((a @ r - b) ** 2).sum()) / total,
        "unmoved": unmoved(a, b),
        "angle_1": float(angles.min()),
        "angle_mean": float(angles.mean()),
    }


def held_out(x: np.ndarray, y: np.ndarray, k: int, halves: np.ndarray) -> dict[str, np.ndarray]:
    """Per item: squared distance to tuned of the state rotated by the other half's map, and as it is; tuned's size.

    Args:
        x: base's states [item d_model].
        y: tuned's states of the same items.
        k: components kept.
        halves: True for items of one half.
    """
    out = {name: np.full(len(x), np.nan) for name in ("residual", "residual_unmoved", "size")}
    for half in (halves, ~halves):
        fitted = ~half
        means = x[fitted].mean(0), y[fitted].mean(0)
        stacked = np.concatenate([x[fitted] - means[0], y[fitted] - means[1]])
        basis = np.linalg.svd(stacked, full_matrices=False)[2][:k].T
        (a, b), (c, d) = (((x[s] - means[0]) @ basis, (y[s] - means[1]) @ basis) for s in (fitted, half))
        r = np.eye(basis.shape[1]) if np.array_equal(x, y) else best_rotation(a, b)
        out["residual"][half] = ((c @ r - d) ** 2).sum(1)
        out["residual_unmoved"][half] = ((c - d) ** 2).sum(1)
        out["size"][half] = (d**2).sum(1)
    return out


def _arrays(table: pd.DataFrame, drawn: list[tuple[dict[str, float], list[float]]], kept: np.ndarray) -> xr.Dataset:
    data = xr.Dataset(coords={"state": np.arange(len(drawn))})
    for name, (unit, label) in NAMES.items():
        values = np.asarray([whole[name] for whole, _ in drawn])
        bounds = np.full((2, len(values)), np.nan)
        if name in WITH_INTERVAL:
            bounds = subsample_interval(np.asarray([[whole[name], *some] for whole, some in drawn]).T, kept)
        data[name] = ("state", values, {"units": unit, "long_name": label})
        data[f"{name}_ci_low"], data[f"{name}_ci_high"] = ("state", bounds[0]), ("state", bounds[1])
        data[f"{name}_n"] = ("state", np.where(np.isnan(values), 0, kept.shape[1]))
    explained = table.assign(
        fit_held_out=table["size"] - table["residual"], gain=table["residual_unmoved"] - table["residual"]
    )
    labels = {"fit_held_out": "share explained on items not fitted", "gain": "of that, what the rotation adds"}
    parts = [estimate(explained, q, ["state"], per="size", units="1", long_name=t) for q, t in labels.items()]
    return xr.merge([data, *parts])


def _claim(table: pd.DataFrame, n: int, at: str) -> Claim:
    what = f"a rotation of the states {at} explains part of their change"
    if n < FEWEST:
        return Claim("rotation", UNJUDGED, what, why=f"{n} items are too few", needs=f"at least {FEWEST} items", n=n)
    wide = table.assign(share=(table["residual_unmoved"] - table["residual"]) / table["residual_unmoved"])
    grid = wide.pivot(index="item", columns="state", values="share").to_numpy(float)
    moved = np.flatnonzero((table.groupby("state")["residual_unmoved"].sum() > 0).to_numpy())
    if not len(moved):
        return Claim("rotation", NONE, "that states changed at all", n=n)
    mean = mean_of_items(grid[:, moved], level=1 - 0.05 / len(moved))
    low = np.where(np.isnan(mean.ci_low), -np.inf, mean.ci_low)
    best = int(low.argmax())
    said: Fields = {
        "n": n, "family": f"{len(moved)} states", "control": "no rotation, on items not fitted",
        "estimand": "share of each item's change that the rotation undoes", "caveat": "in the most varied dimensions",
    }  # fmt: skip
    if not low[best] > 0:
        return Claim("rotation", NONE, f"that {what}", **said)
    value, above, state = float(mean.value[best]), float(mean.ci_high[best]), int(moved[best])
    what = f"a rotation {at} explains part of how states changed, most clearly at state {state}"
    return Claim(
        "rotation", FOUND, what, effect=value, low=float(low[best]), high=above, place=f"state {state}", **said
    )


def figures(result: Result) -> dict[str, Figure]:
    """Angle, and the fits, over states."""
    rows = result.summary()
    color = "step" if "step" in rows else None
    fits = rows[rows["quantity"].isin(["fit", "fit_held_out", "unmoved"])]
    angles = rows[rows["quantity"].isin(["angle_1", "angle_mean"])]
    return {
        "angle": curve(rows[rows["quantity"] == "angle"], x="state", color=color, title="Angle of the best rotation"),
        "fit": curve(fits, x="state", color="quantity", facet=color, unit="1", y_title="share explained",
                     title="What a rotation explains of the tuned states"),
        "principal_angles": curve(angles, x="state", color="quantity", facet=color, unit="degrees",
                                  y_title="principal angle", title="Principal angles of the two subspaces"),
    }  # fmt: skip
