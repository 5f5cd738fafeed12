"""Numbers of weights as a result's arrays: weights are no sample of items, so they have no interval."""

from __future__ import annotations

import numpy as np
import xarray as xr


def without_interval(data: xr.Dataset) -> xr.Dataset:
    """Every variable with bounds that are NaN, and n = 1 where it was measured (0 where it is NaN)."""
    for name in list(data.data_vars):
        for suffix in ("ci_low", "ci_high"):
            data[f"{name}_{suffix}"] = xr.full_like(data[name], np.nan)
            data[f"{name}_{suffix}"].attrs = {}
        data[f"{name}_n"] = data[name].notnull().astype(int)
        data[f"{name}_n"].attrs = {}
    return data
