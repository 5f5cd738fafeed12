"""The bifurcation picture: mean paths of two groups in one plane, starred where the blocks part them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analyses.core.figures import paths
from analyses.states._part_claims import LEVEL

if TYPE_CHECKING:
    import xarray as xr
    from plotly.graph_objects import Figure

AXES = {"x_title": "first component (resid units)", "y_title": "second component (resid units)"}
STAR = "out of the block that parts them most (p ≤ 0.05)"


def bifurcation(data: xr.Dataset, title: str) -> Figure:
    """Mean paths from state to state, the groups told by colour, fits by dash, steps by panels.

    Args:
        data: `path_1` and `path_2` over group and state (and variant, step); `p_value` and `force_z` over layer.
        title: of the figure.
    """
    rows = data[["path_1", "path_2"]].to_dataframe().reset_index().dropna(subset=["path_1"])
    named = {"dash": "variant" if "variant" in rows else None, "facet": "step" if "step" in rows else None}
    starred = _starred(data, rows)
    return paths(
        rows.assign(starred=starred), x="path_1", y="path_2", along="state", color="group", starred="starred",
        star=STAR, title=title, **named, **AXES,
    )  # fmt: skip


def _starred(data: xr.Dataset, rows: pd.DataFrame) -> pd.Series:
    """Whether a point is the state out of the layer that parts the groups most, of those that part them at all."""
    force = data["force_z"].where(data["p_value"] <= LEVEL).fillna(-np.inf)
    parts = (force == force.max("layer")) & np.isfinite(force)
    at = parts.to_dataframe("parts").reset_index().query("parts")
    keys = ["state", *(["step"] if "step" in rows and "step" in at else [])]
    found = set(at.assign(state=at["layer"] + 1)[keys].itertuples(index=False, name=None))
    here = [point in found for point in rows[keys].itertuples(index=False, name=None)]
    return pd.Series(here, index=rows.index)
