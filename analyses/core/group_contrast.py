"""Effects of two groups of items against each other, cell by cell, and the finding in words."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.significance import permutation_max_t
from analyses.core.stats import group_difference, n_arrangements

ALPHA = 0.05
NOT_CELLS = ("direction", "answer_kind", "group")


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


def verdict(data: xr.Dataset, groups: tuple[str, str] | None) -> str:
    """Where each group's effect is largest, and where the two groups differ most, or that they do not."""
    said: list[str] = []
    for prefix in ("", "head_"):
        if f"{prefix}effect" not in data:
            continue
        for kind, way in itertools.product(data["answer_kind"].to_numpy(), data["direction"].to_numpy()):
            part = data.sel(answer_kind=kind, direction=way)
            told = f"{way} ({kind})" if data.sizes["answer_kind"] > 1 else str(way)
            sentences = [*_largest(part, f"{prefix}effect"), *_difference(part, f"{prefix}contrast", groups)]
            said.append(f"{told}: " + ", ".join(sentences))
    return "; ".join(said)


def _largest(data: xr.Dataset, name: str) -> Iterator[str]:
    for group in data["group"].to_numpy():
        own = data.sel(group=group)
        clear = (own[f"{name}_ci_low"] > 0) | (own[f"{name}_ci_high"] < 0)
        values = own[name].where(clear)
        if bool(values.isnull().all()):
            yield f"no clear effect in {group}"
        else:
            where, at = _peak(abs(values))
            yield f"largest in {group} at {where} ({float(values.sel(at)):+.3g} {data[name].attrs['units']})"


def _difference(data: xr.Dataset, name: str, groups: tuple[str, str] | None) -> Iterator[str]:
    if groups is None:
        return
    label = f"{groups[0]} minus {groups[1]}"
    p = data[f"{name}_p"]
    if bool(p.isnull().all()):
        yield f"{label} not tested (too few items in a group)"
    elif float(p.min()) > ALPHA:
        yield f"{label}: none found (smallest p = {float(p.min()):.3g})"
    else:
        where, at = _peak(abs(data[f"{name}_t"]))
        found = f"{float(data[name].sel(at)):+.3g} {data[name].attrs['units']}, p = {float(p.sel(at)):.3g}"
        yield f"{label}: clearest at {where} ({found})"


def _peak(values: xr.DataArray) -> tuple[str, dict[str, object]]:
    """Name and coordinates of the largest cell."""
    cells = values.stack(cell=list(values.dims))
    best = cells["cell"][int(np.nanargmax(cells.to_numpy()))].item()
    at = {str(d): v for d, v in zip(cells["cell"].to_index().names, best, strict=True)}
    return ".".join(str(at[d]) for d in ("site", "layer", "head") if d in at), at
