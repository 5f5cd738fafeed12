"""Per-item curves over layers, read from the results of other analyses and put side by side.

Every kind of evidence becomes rows (item, group, layer, value) and then an array of the same items in the same order.
Never imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd

from analyses.core.result import Result
from analyses.states._window_rule import Curve, DrawnCurve, ItemCurve
from probe.errors import InputError

if TYPE_CHECKING:
    from probe import Prompts

Array: TypeAlias = np.ndarray


def item_frames(
    given: Mapping[str, Result | None], site: str | None, answer_kind: str | None
) -> dict[str, pd.DataFrame]:
    """Kind of evidence -> rows (item, group, layer, value), one value per item and layer."""
    frames: dict[str, pd.DataFrame] = {}
    if given["cross_patching"] is not None:
        table = _one_kind(given["cross_patching"].table, answer_kind, "cross_patching")
        frames |= _from_patching(table, site)
    if given["weight_reset"] is not None:  # necessity by reset comes before necessity by patching
        frames["nec"] = _from_reset(_one_kind(given["weight_reset"].table, answer_kind, "weight_reset"))
    if given["divergence"] is not None:
        table = _one_kind(given["divergence"].table, answer_kind, "divergence")
        table = table[table["variant"] == "before_after"]
        if table.empty:
            raise InputError("divergence holds no before_after rows: run it with variant=before_after")
        frames["jsd"] = table.rename(columns={"jsd_nats": "value"})
    keys = ["item", "group", "layer"]
    return {name: f.groupby(keys, as_index=False)[["value"]].mean() for name, f in frames.items()}


def _one_kind(table: pd.DataFrame, answer_kind: str | None, name: str) -> pd.DataFrame:
    if "step" in table and table["step"].nunique() > 1:
        raise InputError(f"{name} is a sweep over steps {sorted(table['step'].unique())}: give the result of one pair")
    if "answer_kind" not in table:
        return table
    kinds = sorted(table["answer_kind"].unique())
    if answer_kind is None and len(kinds) > 1:
        raise InputError(f"{name} holds answer kinds {kinds}, which are never pooled: name one with answer_kind")
    return table[table["answer_kind"] == (answer_kind or kinds[0])]


def _from_reset(table: pd.DataFrame) -> pd.DataFrame:
    rows = table[table["variant"] == "reset"]
    if rows.empty or rows["layers"].astype(str).str.contains(",").any():
        raise InputError("weight_reset must hold variant reset with width 1: the rule builds its windows itself")
    tuned = table[table["variant"] == "tuned"].set_index("item")["metric"]
    value = rows["item"].map(tuned) - rows["metric"]
    return rows.assign(layer=rows["window"].astype(int), value=value)


def _from_patching(table: pd.DataFrame, site: str | None) -> dict[str, pd.DataFrame]:
    if "head" in table:
        table = table[table["head"].isna() | (table["head"] < 0)]
    sites = sorted(table["site"].unique())
    chosen = site or ("mlp_out" if "mlp_out" in sites else sites[0])
    if chosen not in sites or (site is None and chosen != "mlp_out" and len(sites) > 1):
        raise InputError(f"cross_patching holds sites {sites}; name one of them with site (given: {site})")
    table = table[table["site"] == chosen]
    if "positions" in table and table["positions"].nunique() > 1:
        table = table[table["positions"] == "all_prompt"]
    into_base = table["direction"] == "tuned_to_base"
    found = {
        "nec": table[~into_base].assign(value=lambda t: t["metric_tuned"] - t["metric_patched"]),
        "suf": table[into_base].assign(value=lambda t: t["metric_patched"] - t["metric_base"]),
    }
    return {name: rows for name, rows in found.items() if len(rows)}


def compared_groups(frames: dict[str, pd.DataFrame], groups: tuple[str, ...]) -> tuple[str, str]:
    """The two groups, in the given order or by name."""
    if not frames:
        raise InputError("no result with rows per item was given: weight_reset, cross_patching or divergence")
    there = sorted(set.intersection(*(set(f["group"]) for f in frames.values())))
    names = groups or tuple(there)
    if len(names) != 2 or not set(names) <= set(there):
        raise InputError(f"groups {list(names)}: exactly two of {there} are needed, the one expected larger first")
    return names[0], names[1]


def aligned(frames: dict[str, pd.DataFrame], first: str, second: str) -> tuple[dict[str, Curve], Array, Array]:
    """The same items in the same order for every kind; items that a kind lacks are left out of all."""
    grids = {
        name: f[f["group"].isin([first, second])].pivot(index=["item", "group"], columns="layer", values="value")
        for name, f in frames.items()
    }
    common = sorted(set.intersection(*(set(g.dropna().index) for g in grids.values())))
    if not common:
        raise InputError(f"the results given share no items of groups {first!r} and {second!r}")
    curves: dict[str, Curve] = {n: ItemCurve(g.loc[common].to_numpy(float)) for n, g in grids.items()}
    items = np.asarray([item for item, _ in common], dtype=object)
    return curves, items, np.asarray([group == first for _, group in common])


def drawn_curves(given: Mapping[str, Result | None], groups: set[str]) -> dict[str, Curve]:
    """Kinds that are one statistic of both groups: force of the states (or of the fitted field), and probe AUC.

    Out-of-fold scores per item are no substitute for the AUC with its refitted null: labels permuted after the fit
    leave scores that were trained on the true ones, and are significant in too many runs without a signal.
    """
    force = given["trajectories"] or given["neural_ode"]
    found: dict[str, Curve] = {}
    if force is not None:
        _same_groups(force, groups, "trajectories")
        parts = [force.data[name].to_numpy() for name in ("force_squared", "force_squared_null", "force_squared_boot")]
        if not np.isnan(parts[0]).any():  # a fitted field says nothing where its R2 is not above 0
            found["force"] = DrawnCurve(*parts)
    probe = given["linear_probe"]
    if probe is not None:
        _same_groups(probe, groups, "linear_probe")
        # State l+1 is the output of block l; the embedding belongs to no block.
        parts = [probe.data[name].to_numpy()[..., 1:] - 0.5 for name in ("auc", "auc_null", "auc_boot")]
        found["probe"] = DrawnCurve(*parts)
    return found


def _same_groups(result: Result, groups: set[str], name: str) -> None:
    compared = list(result.data.attrs.get("groups", ()))
    if set(compared) != groups:
        raise InputError(f"{result.analysis or name} compares {compared}, not {sorted(groups)}")


def one_depth(curves: dict[str, Curve]) -> int:
    depths = {name: curve.values.shape[-1] for name, curve in curves.items()}
    if len(set(depths.values())) > 1:
        raise InputError(f"results of models of different depth: {depths}; all must be of one pair of checkpoints")
    return next(iter(depths.values()))


def strata_of_items(prompts: Prompts | None, items: Array, names: tuple[str, ...]) -> Array | None:
    if not names:
        return None
    if prompts is None:
        raise InputError(f"strata {list(names)} are columns of the prompt file: give prompts")
    of = {item.id: item for item in prompts.items}
    missing = [i for i in items if i not in of or any(n not in of[i].meta for n in names)]
    if missing:
        raise InputError(f"strata {list(names)}: not known for item(s) {missing[:3]}")
    return np.asarray(["|".join(str(of[i].meta[n]) for n in names) for i in items], dtype=object)
