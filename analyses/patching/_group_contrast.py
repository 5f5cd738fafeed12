"""Effects of two groups of items against each other, cell by cell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.stats import group_difference
from analyses.core.stats.max_t import FEWEST, group_max_t
from analyses.core.stats.resampling import clusters_of


def contrast(
    table: pd.DataFrame, cell: Sequence[str], groups: tuple[str, str], name: str, draws: int, seed: int, unit: str
) -> xr.Dataset:
    """First group's mean effect minus the second's per cell and kind of answer, with interval, t and p.

    `name`_p is corrected over all cells, directions and kinds of answers (see `stats.max_t`); NaN where a group
    has fewer than five items.
    """
    rows = table[table["group"].isin(groups)]
    columns = ["answer_kind", *cell]
    grid = rows.pivot_table(index=["group", "item"], columns=columns, values="effect").sort_index(axis=1)
    values, labels = grid.to_numpy(float), clusters_of(grid.index.get_level_values("item"))
    is_first = np.asarray(grid.index.get_level_values("group") == groups[0])
    difference = group_difference(values, is_first, clusters=labels)
    p, t = np.full((2, values.shape[1]), np.nan)
    if min(is_first.sum(), (~is_first).sum()) >= FEWEST:
        test = group_max_t(values, is_first, clusters=labels, seed=seed, draws=draws)
        p, t = test.p_cell, test.t
    parts = {"": difference.value, "_ci_low": difference.ci_low, "_ci_high": difference.ci_high,
             "_n": difference.n, "_p": p, "_t": t}  # fmt: skip
    data = pd.DataFrame({name + k: v for k, v in parts.items()}, index=grid.columns).to_xarray()
    data[name].attrs.update(units=unit, long_name=f"effect in {groups[0]} minus in {groups[1]}")
    data[f"{name}_p"].attrs.update(units="1", long_name="p over all sites, layers and directions (maximum t)")
    return data
