"""Maps of one result: cells over two ordered dims, one map per quantity and category."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from analyses.core import figures
from analyses.core.result import DIMS

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PARTNERS = ("head", "kv_head", "step", "pos", "neuron", "alpha", "window")
MAX_MAPS = 12  # of one category


def maps_of(summary: pd.DataFrame, x: str, y: str) -> dict[str, pd.DataFrame]:
    """Cells over ``x`` and ``y`` by name; ``attrs["fixed"]`` of each says which category it is."""
    found: dict[str, pd.DataFrame] = {}
    for quantity, part in summary.groupby("quantity", sort=False):
        dims = [d for d in part.columns if d in DIMS and part[d].notna().any()]
        if x not in dims or y not in dims or len(part[x].unique()) < 2 or len(part[y].unique()) < 2:
            continue
        rest = [d for d in dims if d not in (x, y) and len(part[d].unique()) > 1]
        if any(len(part[d].unique()) > MAX_MAPS for d in rest):
            continue
        for values, cells in part.groupby(rest, sort=False) if rest else [((), part)]:
            fixed = dict(zip(rest, map(_plain, values), strict=True))
            cells = cells.copy()
            cells.attrs["fixed"] = fixed
            found[" · ".join([str(quantity), *map(str, fixed.values())])] = cells
    return found


def map_figure(cells: pd.DataFrame, x: str, y: str, title: str) -> Figure:
    """The map of ``cells``."""
    return figures.heatmap(cells, x=x, y=y, title=title)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
