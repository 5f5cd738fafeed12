"""Where along the layers the hidden states of two groups of items part, without fitting a model.

Definition: h_s is the pooled residual state of an item (s = 0 embedding, s = l+1 output of block l) and
    Delta_l = h_(l+1) - h_l its update. For groups A and B: separation force F_l = |mean_A Delta_l - mean_B Delta_l|,
    velocity difference V_l = | |mean_A Delta_l| - |mean_B Delta_l| | (never above F_l), distance
    D_s = |mean_A h_s - mean_B h_s|. force_relative divides F_l by the mean of the two groups' mean-update norms,
    since norms grow with depth. force_squared is the mean over all split halves of
    <mean_A1 - mean_B1, mean_A2 - mean_B2>: an unbiased F_l^2, which can be negative and is 0 on average where
    the groups do not differ (F itself is biased upwards by noise). energy_distance is
    2 E|a - b| - E|a - a'| - E|b - b'| over updates, which also sees differences that leave the mean alone.
Units: those of the residual stream (force_squared: squared); force_relative has none. p by permuting labels, the
    squared force studentised by the spread that each labelling leaves within the groups.
Source: arXiv 2601.11061 (F, V, D); split halves and energy distance (Szekely and Rizzo 2013) added here.
Does not show: cause. Groups that differ in wording, length or difficulty part too: compare with a control grouping
    and read the permutation p, whose labels are permuted within strata if strata are named.
Control: groups drawn from the same kind of items; the same curve at the base checkpoint; permuted labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import scipy
import xarray as xr

from analyses.core import legacy as published
from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import curve
from analyses.core.reading.where_read import Pooling, pooled_sites
from analyses.core.result import Result
from analyses.core.stats import clusters_of, permuted_labels, resample_counts, subsample_interval, subsamples
from analyses.core.work import Case, Work
from analyses.states import _part_claims
from analyses.states._bifurcation import bifurcation
from analyses.states._energy_distance import layer_statistics, mean_weights, norm, split_half, variance_of_means

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from analyses.core.reading.pooled import States
    from probe import Model, Prompts

UNITS = {
    "force": ("resid units", "separation force F"),
    "force_relative": ("", "separation force / mean update norm"),
    "force_squared": ("resid units^2", "split-half (unbiased) squared force"),
    "velocity_difference": ("resid units", "velocity difference V"),
    "energy_distance": ("resid units", "energy distance of updates"),
    "distance": ("resid units", "distance D of mean states"),
}


def _work(case: Case) -> Work:
    """One pass; a row a block."""
    return Work(block_rows=case.full_pass, rows=case.n_layers, row_bytes=20, sites=case.n_layers + 1)


@analysis(work=_work, renamed={"positions": "at"}, reads=pooled_sites)
def trajectories(
    model: Model,
    prompts: Prompts,
    *,
    groups: tuple[str, ...] = (),
    pooling: Pooling = "last_prompt",
    at: tuple[int, ...] = (),
    strata: tuple[str, ...] = (),
    draws: int = 1000,
    permutations: int = 1000,
    legacy: bool = False,
    template: Literal["none", "chat"] = "none",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Force, velocity difference, distance and energy distance of two groups per layer, with intervals and p.

    Rows: item, group, layer, update_norm, state_norm (of the block's output). Arrays: the curves over `layer`
    (distance over `state`) with bootstrap intervals over items; `force_squared_null` and `force_squared_boot`
    [draw, layer] are its permutation and bootstrap draws, for rules that join several curves; `p_value` is
    corrected over layers by the maximum statistic. `path_1`, `path_2` [group, state] are the groups' mean states
    in the plane where items differ most, off the mean path of all (the bifurcation picture).

    Args:
        at: the mean over them.
        draws: bootstrap draws, and subsamples of the items for the intervals.
        legacy: velocity difference plus force, as `legacy_importance`.
        seed: the bootstrap and permutations.
    """

    first, second = reading.two_groups(prompts, groups)
    kept = prompts.where(group=[first, second])
    plan = {"batch_size": batch_size, "template": template}
    states = reading.pooled_states(model, kept, pooling=pooling, positions=at, what="trajectories", **plan)
    labels = reading.strata_of(states, strata)
    table, found = curves(states, states.groups == first, labels, draws, permutations, seed)
    found = xr.merge([found, _paths(states, first, second)]).assign_attrs(groups=[first, second])
    if legacy:
        sums = found["velocity_difference"].values + found["force"].values
        least = int(found["force_n"].values.min())
        what = "published importance: velocity difference plus force"
        found = found.merge(published.beside("importance", sums, ["layer"], least, "activation units", what))
    claim = _part_claims.parted(found, (first, second), _part_claims.read_at(pooling, at), "blocks")
    return Result.of(table, found, claims=[claim])


def curves(
    states: States, is_first: np.ndarray, strata: np.ndarray | None, draws: int, permutations: int, seed: int
) -> tuple[pd.DataFrame, xr.Dataset]:
    """All curves, one layer of states in memory at a time: each is a quadratic form in the items' Gram matrix."""

    n = len(is_first)
    clusters = clusters_of(states.ids)
    boot = resample_counts(n, draws, seed, is_first, clusters)
    kept = subsamples(n, draws, seed, is_first, clusters=clusters)
    some = np.concatenate([np.ones((1, n)), kept])
    labels = np.concatenate([is_first[None], permuted_labels(is_first, permutations, seed, strata)])
    rows: list[pd.DataFrame] = []
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in UNITS}
    null: list[np.ndarray] = []
    chance: list[np.ndarray] = []
    again: list[np.ndarray] = []
    for layer in range(states.n_layers):
        update = states.update(layer)
        gram = update @ update.T
        for name, values in layer_statistics(gram, some * is_first, some * ~is_first).items():
            drawn[name].append(values)
        again.append(split_half(gram, boot * is_first, boot * ~is_first))
        null.append(split_half(gram, labels, ~labels))
        chance.append(variance_of_means(gram, labels, ~labels))
        norms = {"update_norm": np.sqrt(np.diag(gram)), "state_norm": np.linalg.norm(states.layer(layer + 1), axis=1)}
        rows.append(pd.DataFrame({"item": states.ids, "group": states.groups, "layer": layer, **norms}))
    for state in range(states.n_layers + 1):
        h = states.layer(state)
        drawn["distance"].append(norm(h @ h.T, *mean_weights(some * is_first, some * ~is_first)))
    table = pd.concat(rows, ignore_index=True).sort_values(["item", "layer"], kind="stable")
    return table, _dataset(
        {k: np.stack(v, 1) for k, v in drawn.items()},
        (np.stack(null, 1), np.stack(chance, 1)),
        np.stack(again, 1),
        kept,
        is_first,
    )


def _dataset(
    drawn: dict[str, np.ndarray],
    forces: tuple[np.ndarray, np.ndarray],
    again: np.ndarray,
    kept: np.ndarray,
    is_first: np.ndarray,
) -> xr.Dataset:
    """Curves with intervals: row 0 of each array is what was observed, the others are of subsamples."""
    null, chance = forces
    n = int(min(is_first.sum(), (~is_first).sum()))
    data = xr.Dataset(coords={"layer": np.arange(null.shape[1]), "state": np.arange(null.shape[1] + 1)})
    for name, values in drawn.items():
        dim = "state" if name == "distance" else "layer"
        bounds = subsample_interval(values, kept)
        data[name] = (dim, values[0], {"units": UNITS[name][0], "long_name": UNITS[name][1]})
        data[f"{name}_ci_low"], data[f"{name}_ci_high"] = (dim, bounds[0]), (dim, bounds[1])
        data[f"{name}_n"] = (dim, np.full(values.shape[1], n))
    data["force_squared_boot"] = (("draw", "layer"), again)
    data["force_squared_null"] = (("permutation", "layer"), null[1:])
    scaled = np.divide(null, chance, out=np.zeros_like(null), where=chance > 0)
    spread = np.nanstd(scaled, axis=0)
    z = np.divide(scaled, spread, out=np.zeros_like(scaled), where=spread > 0)
    p = (1.0 + (z[1:].max(1)[:, None] >= z[:1]).sum(0)) / len(null)
    data["force_z"] = ("layer", z[0], {"units": "SD of the null", "long_name": "squared force over its null's SD"})
    data["p_value"] = ("layer", p, {"units": "", "long_name": "permutation p, corrected over layers"})
    return data


def _paths(states: States, first: str, second: str) -> xr.Dataset:
    """Mean path of each group in the plane in which items differ most once the mean path of all is taken off.

    The plane is that of the two largest eigenvectors of the states' covariance, summed over states: one for all
    states, found without labels. Its signs and turn mean nothing.
    """
    centred = lambda s: (h := states.layer(s)) - h.mean(0)  # noqa: E731
    total = np.sum([x.T @ x for x in map(centred, range(states.n_layers + 1))], axis=0)
    d = len(total)
    plane = scipy.linalg.eigh(total, subset_by_index=[max(d - 2, 0), d - 1])[1][:, ::-1]
    groups = [states.groups == name for name in (first, second)]
    shown = np.stack([[centred(s)[g].mean(0) @ plane for s in range(states.n_layers + 1)] for g in groups])
    named = {f"path_{k + 1}": (("group", "state"), shown[..., k]) for k in range(shown.shape[-1])}
    return xr.Dataset(named, {"group": [first, second], "state": np.arange(states.n_layers + 1)})


def figures(result: Result) -> dict[str, Figure]:
    """The curves over layers, and the norms of the updates by group."""

    rows = result.summary()
    color = "step" if "step" in rows else None
    drawn: dict[str, Any] = {}
    for name, (_, label) in UNITS.items():
        part, x = rows[rows["quantity"] == name], "state" if name == "distance" else "layer"
        drawn[name] = curve(part, x=x, color=color, title=f"{label}, 95 % interval over items")
    if "path_2" in result.data:
        title = "Mean paths of the groups from state to state, off the path of all"
        drawn["bifurcation"] = bifurcation(result.data, title)
    return drawn
