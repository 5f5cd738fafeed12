"""Hidden states as trajectories of a fitted vector field: where along depth it drives two groups apart.

Definition: states h_l of an item, projected on the leading principal components of the training items, are modelled
    as dh/dt = f(h, t) with t = layer. f(h, t) = m(t) + s (B u + g(u, t)), u = (h - mean_l) / s_h, where m is the
    training items' mean update, B a ridge regression and g a two-layer tanh network that starts at 0. Fit
    `regression`: least squares on the updates h_(l+1) - h_l. Fit `trajectory`: least squares on the states, by
    integrating from h_0 (torchdiffeq), started from the regression (its numbers end in `_integrated`). r2 = 1 -
    SS(residual) / SS(mean update), on held-out items. force_squared = unbiased squared distance of the groups' mean f
    on held-out items (trajectory: of the integrated updates), averaged over seeds; velocity_difference from the same
    vectors. With `field_of=means` both are of f at the groups' mean states instead (squared distance, not corrected for
    noise: read it against p).
    p by permuting labels, the squared force over the spread that each labelling leaves; intervals are over held-out
    items, the fits given.
Units: r2 has none (0 = no better than the mean update, can be negative); force in units of the residual stream.
Source: neural ODE: arXiv 1806.07366; on layers: arXiv 2601.11061 (its text regresses updates; its released code
    instead trains a classifier on rows 0-2, whose time has no tie to layers and cannot localise).
Does not show: more than trajectories (the model-free analysis) unless r2 is clearly above 0: where it is not, force
    is NaN and nothing is localised there. The field is fitted without group labels, so it can miss what separates
    them. What lies outside the components is not seen (explained_variance says how much).
Control: permuted labels (p), the model-free force, held-out r2, the same fit at the base checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import curve
from analyses.core.progress import progress
from analyses.core.reading.where_read import Pooling, pooled_sites
from analyses.core.result import Result
from analyses.core.stats import (
    clusters_of,
    divide,
    permuted_labels,
    resample_counts,
    subsamples,
)
from analyses.core.work import every_state
from analyses.states import _integrated, _part_claims
from analyses.states._bifurcation import bifurcation
from analyses.states._energy_distance import layer_statistics, variance_of_means
from analyses.states._field_arrays import NAMES, collected, tested
from probe.errors import InputError
from probe.lazily import sklearn

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from analyses.core.reading.pooled import States
    from probe import Model, Prompts


Named: TypeAlias = dict[str, np.ndarray]


@analysis(renamed={"positions": "at", "steps": "updates"}, work=every_state, reads=pooled_sites)
def neural_ode(
    model: Model,
    prompts: Prompts,
    *,
    groups: tuple[str, ...] = (),
    fit: Literal["auto", "both", "regression", "trajectory"] = "auto",
    field_of: Literal["items", "means"] = "items",
    pooling: Pooling = "last_prompt",
    at: tuple[int, ...] = (),
    components: int = 16,
    hidden: int = 64,
    updates: int = 150,
    seeds: int = 10,
    held_out: float = 0.4,
    strata: tuple[str, ...] = (),
    permutations: int = 500,
    refits: int = 0,
    draws: int = 500,
    template: Literal["none", "chat"] = "none",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Held-out R2 of a fitted vector field per layer, and the force with which it parts two groups where R2 > 0.

    Rows: item, group, layer, residual_ss, baseline_ss (means over the seeds that held the item out), n_seeds. Arrays
    over `layer`: r2 and force_squared with intervals over items, velocity_difference, p_value (corrected over
    layers), force_squared_null and force_squared_boot [draws, layer], r2_by_seed [split, layer]; of the second fit
    r2_integrated, force_squared_integrated, velocity_difference_integrated, p_value_integrated; path_1, path_2
    [variant, group, state]: mean paths of the first split's held-out items, observed and integrated; scalar p_refit.

    Args:
        fit: regression on updates, trajectory (integrated from the first state), or both; auto: both where that is
            affordable (items x blocks up to 20,000), else the regression.
        field_of: mean of f over a group's items, or f at the group's mean state.
        at: the mean over them.
        components: of training items, never more than they allow.
        hidden: width of the network.
        seeds: splits and initialisations; results are averaged over them.
        held_out: share of items held out in each split, stratified by group.
        refits: permutations under which everything is fitted anew, splits included (p_refit); each costs a whole fit.
        draws: bootstrap draws, and subsamples of the items for the intervals.
        seed: splits, initialisations, permutations and bootstrap.
    """

    first, second = reading.two_groups(prompts, groups, needed=6)
    kept = prompts.where(group=[first, second])
    states = reading.pooled_states(
        model, kept, pooling=pooling, positions=at, what="states", batch_size=batch_size, template=template
    )
    is_first, labels = states.groups == first, reading.strata_of(states, strata)
    settings = {"field_of": field_of, "components": components, "hidden": hidden}
    settings |= {"updates": updates, "held_out": held_out}
    fits, warnings = _fits(fit, len(states.items), states.n_layers)

    def refit(y: np.ndarray) -> tuple[pd.DataFrame, xr.Dataset]:
        return fitted(states, y, labels, seeds, 1, 2, seed, fit=fits[0], **settings)

    found = [fitted(states, is_first, labels, seeds, permutations, draws, seed, fit=f, **settings) for f in fits]
    table, data = found[0]
    data["p_refit"] = _integrated.refitted_p(refit, data, is_first, labels, refits, seed)
    claim = _part_claims.parted(data, (first, second), _part_claims.read_at(pooling, at), "fitted moves")
    if len(fits) > 1:
        data = _integrated.beside(data, found[1][1])
    if "path_1" in data:
        data = data.assign_coords(group=[first, second])
    return Result.of(table, data.assign_attrs(groups=[first, second]), claims=[claim], warnings=warnings)


def _fits(fit: str, n_items: int, n_layers: int) -> tuple[list[str], list[str]]:
    """The fits to make, and what must be said of one that is not."""
    if fit != "auto":
        return ["regression", "trajectory"] if fit == "both" else [fit], []
    if _integrated.is_affordable(n_items, n_layers):
        return ["regression", "trajectory"], []
    return ["regression"], [
        f"{n_items} items x {n_layers} blocks: paths were not integrated (--fit both does it, and takes its time)"
    ]


def fitted(
    states: States,
    is_first: np.ndarray,
    strata: np.ndarray | None,
    seeds: int,
    permutations: int,
    draws: int,
    seed: int,
    **settings: Any,
) -> tuple[pd.DataFrame, xr.Dataset]:
    """Everything averaged over seeds: residuals of held-out items, and quadratic forms of their field."""

    if seeds < 1:
        raise InputError(f"seeds={seeds}: at least 1 is needed, 10 for a finding")
    n, n_layers, clusters = len(is_first), states.n_layers, clusters_of(states.ids)
    kept = subsamples(n, draws, seed, is_first, clusters=clusters)
    some, boot = np.concatenate([np.ones((1, n)), kept]), resample_counts(n, draws, seed, is_first, clusters)
    labels = np.concatenate([is_first[None], permuted_labels(is_first, permutations, seed, strata)])
    sums = {name: np.zeros((n, n_layers)) for name in ("residual", "baseline")}
    times, r2 = np.zeros(n), np.zeros((seeds, n_layers))
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in (*NAMES, "again", "null", "chance")}
    explained, shown = np.zeros(seeds), xr.Dataset()
    for number in progress(range(seeds), "neural ODE", total=seeds):
        test = _held_out(is_first, settings["held_out"], [seed, number])
        z, explained[number] = _projected(states, ~test, settings["components"])
        field = _fit(z[~test], settings, [seed, number])
        predicted = field.updates(z[test], settings["fit"])
        if not number and settings["fit"] == "trajectory":
            shown = _integrated.paths(field, z[test], is_first[test])
        update, mean = np.diff(z[test], axis=1), np.diff(z[~test], axis=1).mean(0)
        residual, baseline = ((update - x) ** 2 for x in (predicted, mean))
        sums["residual"][test] += residual.sum(-1)
        sums["baseline"][test] += baseline.sum(-1)
        times[test] += 1
        r2[number] = 1 - residual.sum((0, 2)) / baseline.sum((0, 2))
        measure = _at_items if settings["field_of"] == "items" else _at_means
        about = (field, z[test], predicted, settings["fit"])
        own, again, null = (_sides(counts[:, test], is_first[test]) for counts in (some, boot, labels))
        for name, values in measure(own, *about).items():
            drawn[name].append(values)
        drawn["again"].append(measure(again, *about)["force_squared"])
        drawn["null"].append(measure(null, *about)["force_squared"])
        drawn["chance"].append(np.stack([variance_of_means(x @ x.T, *null) for x in predicted.swapaxes(0, 1)], 1))
    # What a split holds out may have no item of a group in some draw: that split then says nothing of that draw.
    mean = {name: divide(np.nansum(x, 0), (~np.isnan(x)).sum(0)) for name, x in drawn.items()}
    table, data = collected(states, sums, times, is_first, r2, mean, kept, explained)
    data["force_squared_boot"] = (("draw", "layer"), mean["again"])
    data = data.merge(tested(mean["null"], mean["chance"], (data["r2"] > 0).to_numpy()))
    return table, xr.merge([data, shown])


def _sides(counts: np.ndarray, is_first: np.ndarray) -> list[np.ndarray]:
    """Weights [draw, item] of either group; of labellings (truth values) those that each makes first and second."""
    sides = [counts, ~counts] if counts.dtype == bool else [counts * is_first, counts * ~is_first]
    sides = [w.astype(float) for w in sides]
    return [np.where(w.sum(1, keepdims=True) > 1, w, np.nan) for w in sides]


def _at_items(sides: Sequence[np.ndarray], _field: Any, _z: np.ndarray, predicted: np.ndarray, _fit: str) -> Named:
    """Statistics [draw, layer] of the mean field over each side's items."""
    found = [layer_statistics(x @ x.T, *sides) for x in predicted.swapaxes(0, 1)]
    return {name: np.stack([layer[name] for layer in found], 1) for name in NAMES}


def _at_means(sides: Sequence[np.ndarray], field: Any, z: np.ndarray, _: np.ndarray, fit: str) -> Named:
    """Statistics [draw, layer] of the field at the groups' mean states."""
    means = [np.tensordot(w / w.sum(1, keepdims=True), z, axes=1) for w in sides]
    first, second = (field.updates(mean, fit) for mean in means)
    speeds = [np.linalg.norm(x, axis=-1) for x in (first, second)]
    return {"force_squared": ((first - second) ** 2).sum(-1), "velocity_difference": np.abs(speeds[0] - speeds[1])}


def _held_out(is_first: np.ndarray, share: float, seed: list[int]) -> np.ndarray:
    """Items of a stratified random part, at least three of each group in and out of it."""
    if not 0 < share < 1:
        raise InputError(f"held_out={share}: expected a share between 0 and 1")
    rng = np.random.default_rng(seed)
    test = np.zeros(len(is_first), dtype=bool)
    for group in (is_first, ~is_first):
        members = rng.permutation(np.flatnonzero(group))
        test[members[: int(np.clip(round(share * len(members)), 3, len(members) - 3))]] = True
    return test


def _projected(states: States, train: np.ndarray, components: int) -> tuple[np.ndarray, float]:
    """States [item, state, component] on the training items' principal components, one state in memory at a time."""
    k = min(components, int(train.sum()), states.values.shape[2])
    pca = sklearn.decomposition.IncrementalPCA(n_components=k)
    for state in range(states.n_layers + 1):
        x = states.layer(state)[train]
        if np.ptp(x, axis=0).any():  # items that end in the same token share their embedding
            pca.partial_fit(x)
    if not hasattr(pca, "components_"):
        raise InputError("all items have the same states at every layer: there is nothing to model")
    kept = float(pca.explained_variance_ratio_.sum())  # pyright: ignore[reportOptionalMemberAccess] (fitted above)
    z = [pca.transform(states.layer(s)) for s in range(states.n_layers + 1)]
    return np.stack(z, axis=1), kept


def _fit(z: np.ndarray, settings: dict[str, Any], seed: list[int]) -> Any:
    from analyses.states._vector_field import fit_field

    return fit_field(z, hidden=settings["hidden"], steps=settings["updates"], kind=settings["fit"], seed=seed)


def figures(result: Result) -> dict[str, Figure]:
    """Held-out R2 and squared force over layers, of both fits, and the integrated paths beside the observed ones."""

    rows = result.summary()
    fits = {"": "regression", "_integrated": "integrated"}
    rows["fit"] = [fits["_integrated" if q.endswith("_integrated") else ""] for q in rows["quantity"]]
    rows["quantity"] = rows["quantity"].str.removesuffix("_integrated")
    color, facet = ("step", "fit") if "step" in rows else ("fit", None)
    titles = {"r2": "Neural ODE: held-out R2 over the mean update"}
    titles |= {name: f"Neural ODE: {label} (where R2 > 0)" for name, (_, label) in NAMES.items()}
    drawn: dict[str, Any] = {}
    for name, title in titles.items():
        part = rows[rows["quantity"] == name]
        drawn[name] = curve(part, x="layer", color=color, facet=facet, title=title, reference=0)
    if "path_2" in result.data:
        title = "Mean paths of held-out items, off the path of all: observed and integrated"
        drawn["bifurcation"] = bifurcation(result.data, title)
    return drawn
