"""Effects of two groups of items against each other, cell by cell, and the finding in words."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.stats import group_difference, n_arrangements, permutation_max_t

ALPHA = 0.05
NOT_CELLS = ("direction", "answer_kind", "group")
POSITIONS = {
    "all_prompt": "at every prompt position",
    "last_prompt": "at the last prompt position",
    "all": "at every token",
}
WAYS = {"tuned_to_base": "tuned into base", "base_to_tuned": "base into tuned"}
SITES = {
    "attn_out": "attention output",
    "mlp_out": "MLP output",
    "mlp_post": "MLP neurons",
    "resid_pre": "residual stream before",
    "resid_mid": "residual stream in the middle",
    "resid_post": "residual stream after",
    "z": "attention values",
}


def contrast(
    table: pd.DataFrame, cell: Sequence[str], groups: tuple[str, str], name: str, draws: int, seed: int, unit: str
) -> xr.Dataset:
    """First group's mean effect minus the second's per cell and kind of answer, with interval, t and p.

    `name`_p is corrected over all cells of one direction by the largest t under permuted labels; NaN where a group
    has fewer than three items.
    """
    rows = table[table["group"].isin(groups)]
    parts = [
        _one(own, list(cell), groups, name, draws, seed).expand_dims(answer_kind=[kind])
        for kind, own in rows.groupby("answer_kind")
    ]
    data = xr.concat(parts, "answer_kind", join="outer", combine_attrs="override")
    data[name].attrs.update(units=unit, long_name=f"effect in {groups[0]} minus in {groups[1]}")
    data[f"{name}_p"].attrs.update(units="1", long_name="p over all sites and layers (maximum t)")
    return data


def _one(rows: pd.DataFrame, cell: list[str], groups: tuple[str, str], name: str, draws: int, seed: int) -> xr.Dataset:
    grid = rows.pivot(index=["item", "group"], columns=cell, values="effect").sort_index(axis=1)
    values = grid.to_numpy(float)
    is_first = np.asarray(grid.index.get_level_values("group") == groups[0])
    difference = group_difference(values, is_first, seed=seed, draws=draws)
    p, t = np.full((2, values.shape[1]), np.nan)
    if min(is_first.sum(), (~is_first).sum()) >= 3 and n_arrangements(is_first) >= 20:
        for way in grid.columns.unique("direction"):
            own = np.asarray(grid.columns.get_level_values("direction") == way)
            test = permutation_max_t(values[:, own], is_first, seed=seed, draws=draws)
            p[own], t[own] = test.p_cell, test.t
    columns = {"": difference.value, "_ci_low": difference.ci_low, "_ci_high": difference.ci_high,
               "_n": difference.n, "_p": p, "_t": t}  # fmt: skip
    return pd.DataFrame({name + k: v for k, v in columns.items()}, index=grid.columns).to_xarray()


def verdict(data: xr.Dataset, groups: tuple[str, str] | None, positions: str) -> str:
    """Where each group's effect is largest, and where the two groups differ most, or that they do not.

    Args:
        data: effects with their intervals.
        groups: the two that are told apart, if any.
        positions: where was patched, as in `POSITIONS` or in words.
    """
    spot = POSITIONS.get(positions, positions)
    said: list[str] = []
    for prefix in ("", "head_"):
        if f"{prefix}effect" not in data:
            continue
        for kind, way in itertools.product(data["answer_kind"].to_numpy(), data["direction"].to_numpy()):
            part = data.sel(answer_kind=kind, direction=way)
            of = f" ({kind})" if data.sizes["answer_kind"] > 1 else ""
            said += [
                *_largest(part, prefix, f"{WAYS[str(way)]}, {spot}", of),
                *_difference(part, f"{prefix}contrast", groups, of),
            ]
    return "; ".join(said)


def _largest(data: xr.Dataset, prefix: str, way: str, of: str) -> Iterator[str]:
    """The clearest single patch per group, with its interval and its share of the gap; or that none is clear."""
    effect = data[f"{prefix}effect"]
    metric = "accuracy" if effect.attrs["units"] == "fraction" else "the answer's log-probability"
    unit = "" if effect.attrs["units"] == "fraction" else f" {effect.attrs['units']}"
    for group in data["group"].to_numpy():
        own = data.sel(group=group)
        low, high = own[f"{prefix}effect_ci_low"], own[f"{prefix}effect_ci_high"]
        values = own[f"{prefix}effect"].where((low > 0) | (high < 0))
        tried = int(own[f"{prefix}effect"].notnull().sum())
        if bool(values.isnull().all()):
            yield f"patching {way}, has no clear effect on group {group}{of}: none found at {tried} places"
            continue
        at = _peak(abs(values))
        share = _share(own[f"{prefix}recovery"].sel(at))
        interval = f"[{float(low.sel(at)):+.3g}, {float(high.sel(at)):+.3g}]"
        yield (
            f"patching {_place(at, data)}, {way}, moves {metric} of group {group}{of} by "
            f"{float(values.sel(at)):+.3g}{unit} {interval}, {share}; {_among(own[f'{prefix}effect'], tried)}, "
            "a causal effect, no proof of storage"
        )


def _among(effect: xr.DataArray, tried: int) -> str:
    silent = int((effect == 0).sum()) == tried - 1
    return "no other place changes anything" if silent and tried > 1 else f"largest of {tried} places"


def _share(recovery: xr.DataArray) -> str:
    share = float(recovery)
    return (
        "where the checkpoints do not differ" if np.isnan(share) else f"{share:.0%} of the gap between the checkpoints"
    )


def _difference(data: xr.Dataset, name: str, groups: tuple[str, str] | None, of: str) -> Iterator[str]:
    if groups is None:
        return
    label = f"{groups[0]} minus {groups[1]}{of}"
    p = data[f"{name}_p"]
    if bool(p.isnull().all()):
        yield f"{label} not tested (too few items in a group)"
    elif float(p.min()) > ALPHA:
        yield f"{label}: none found (smallest p = {float(p.min()):.3g})"
    else:
        at = _peak(abs(data[f"{name}_t"]))
        found = f"{float(data[name].sel(at)):+.3g} {data[name].attrs['units']}, p = {float(p.sel(at)):.3g}"
        yield f"{label}: clearest at {_place(at, data)} ({found})"


def _peak(values: xr.DataArray) -> dict[str, object]:
    """Coordinates of the largest cell."""
    cells = values.stack(cell=list(values.dims))
    best = cells["cell"][int(np.nanargmax(cells.to_numpy()))].item()
    return {str(d): v for d, v in zip(cells["cell"].to_index().names, best, strict=True)}


def _place(at: dict[str, object], data: xr.Dataset) -> str:
    """A cell in words: which part, of which head and layer, and where that is among the layers patched."""
    layer, layers = int(str(at["layer"])), data["layer"].to_numpy()
    if layer < 0:
        return f"the {at['site']}"
    last = "last of " if layer == layers.max() > layers.min() else "of "
    head = f" of head {at['head']}" if "head" in at else ""
    part = SITES.get(str(at["site"]), str(at["site"]))
    return f"the {part}{head} of layer {layer} ({last}{max(layers.min(), 0)}-{layers.max()})"
