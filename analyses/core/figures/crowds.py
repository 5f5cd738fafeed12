"""What keeps a figure readable however much there is to draw: few lines a panel, few panels a figure.

More than `LINES` lines in a panel: what has an order (steps, layers) becomes a map, what has none a panel each. More
than `PANELS` panels: one dim moves to a slider below the figure, whose positions share axes and colours.
"""

# pandas and plotly carry partial types; everything else of strict mode applies.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analyses.core.figures.layout import X_ORDER, Columns, several
from analyses.core.figures.traces import axis_name, axis_values, is_numeric, plain

LINES, PANELS = 6, 12
STEPS = ("step", "source_step")
Dealt = tuple[list[str], list[str], list[str]]  # columns of colour, dash and facet
SLIDER = {"y": 0, "yanchor": "top", "pad": {"t": 44, "b": 4}, "x": 0, "len": 1.0}
AT_ONCE = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}


def named(columns: Columns) -> list[str]:
    """Columns as a list."""
    return [] if columns is None else [columns] if isinstance(columns, str) else list(columns)


def dealt(rows: pd.DataFrame, color: Columns, dash: Columns, facet: Columns) -> Dealt:
    """Columns of colour, dash and facet such that no panel has more than `LINES` lines; steps excepted.

    Args:
        rows: what is to be drawn.
        color: columns asked to be told by colour; a single ordered one is left, since it may become a map.
        dash: columns asked to be told by dashes.
        facet: columns with a panel per value.
    """
    hues, dashes, panels = named(color), named(dash), named(facet)
    if _most(rows, [*hues, *dashes], panels) > LINES:
        panels, dashes = [*panels, *(d for d in dashes if d not in hues)], []
    if _most(rows, hues, panels) > LINES and not is_ordered(rows, hues):
        moved = _fewest(rows, hues, panels)
        hues, panels = [c for c in hues if c not in moved], [*panels, *moved]
    return hues, dashes, panels


def is_ordered(rows: pd.DataFrame, columns: Sequence[str]) -> bool:
    """True for one column of numbers: its values have an order that a ramp or an axis can show."""
    several_of = [c for c in columns if several(rows, c)]
    return len(several_of) == 1 and is_numeric(rows[several_of[0]])


def is_crowded(rows: pd.DataFrame, columns: Sequence[str], panels: Sequence[str]) -> bool:
    """True where a panel would have more than `LINES` lines."""
    return _most(rows, list(columns), list(panels)) > LINES


def _most(rows: pd.DataFrame, lines: list[str], panels: list[str]) -> int:
    """Lines in the panel that has most."""
    lines = [c for c in dict.fromkeys(lines) if c in rows]
    panels = [c for c in dict.fromkeys(panels) if c in rows]
    if not lines or rows.empty:
        return 1
    distinct = rows[list(dict.fromkeys([*lines, *panels]))].drop_duplicates()
    return int(distinct.groupby(panels, dropna=False).size().max()) if panels else len(distinct)


def _fewest(rows: pd.DataFrame, hues: list[str], panels: list[str]) -> list[str]:
    """The hues to give a panel each, as few as are enough: the one with most values stays where that is enough."""
    for moved in ([h] for h in sorted(hues, key=lambda c: rows[c].nunique())):
        if len(hues) > 1 and _most(rows, [h for h in hues if h not in moved], [*panels, *moved]) <= LINES:
            return moved
    return hues


def slid(rows: pd.DataFrame, panels: Sequence[str]) -> tuple[list[str], list[str]]:
    """(columns with a panel per value, columns on a slider): at most `PANELS` panels; ordered ones slide first."""
    left = [c for c in panels if several(rows, c)]
    order = [c for c in X_ORDER if c in left]
    order += sorted((c for c in left if c not in order and c != "quantity"), key=lambda c: -rows[c].nunique())
    moved: list[str] = []
    while order and len(rows[left].drop_duplicates()) > PANELS:
        moved.append(order.pop(0))
        left = [c for c in left if c not in moved]
        if not left:
            break
    return left, moved


def sliding(
    rows: pd.DataFrame, by: Sequence[str], panels: Sequence[str], value: str, draw: Callable[[pd.DataFrame], go.Figure]
) -> go.Figure:
    """One figure with a slider over the values of ``by``; the first is shown, of steps the last.

    Args:
        rows: what is to be drawn.
        by: columns on the slider.
        panels: columns with a panel per value; every position has all panels, empty ones if need be.
        value: the column drawn.
        draw: the figure of the rows at one position.
    """
    texts = [", ".join(plain(v) for v in values) for values in rows[list(by)].itertuples(index=False)]
    parts = dict(list(rows.assign(_at=texts).groupby("_at", sort=False)))
    order = [plain(v) for v in axis_values(rows[by[0]])] if len(by) == 1 else [str(at) for at in parts]
    drawn: dict[str, Any] = {at: draw(_complete(parts[at].drop(columns="_at"), rows, panels, value)) for at in order}
    keys = list(dict.fromkeys(k for figure in drawn.values() for k in _by_key(figure)))
    start = len(order) - 1 if by[0] in STEPS else 0
    shown: Any = drawn[order[start]]
    whole: Any = go.Figure(data=_aligned(shown, drawn, keys), layout=shown.layout)
    whole.frames = [go.Frame(name=at, data=_aligned(figure, drawn, keys)) for at, figure in drawn.items()]
    steps = [{"method": "animate", "label": at, "args": [[at], AT_ONCE]} for at in order]
    title = {"prefix": f"{html.escape(', '.join(map(axis_name, by)))}: ", "font": {"size": 12}}
    whole.update_layout(sliders=[{**SLIDER, "steps": steps, "active": start, "currentvalue": title}])
    whole.update_layout(height=whole.layout.height + 90, margin={"b": 130})
    _one_range(whole, drawn)
    return whole


def _complete(part: pd.DataFrame, whole: pd.DataFrame, panels: Sequence[str], value: str) -> pd.DataFrame:
    """``part`` with the panels of ``whole`` in its order; one that is not measured here has no value."""
    if not panels:
        return part
    first = whole.drop_duplicates(list(panels))
    blank = first.assign(**{c: np.nan for c in (value, "ci_low", "ci_high", "n") if c in first})
    there = pd.MultiIndex.from_frame(part[list(panels)])
    order = pd.MultiIndex.from_frame(first[list(panels)])
    lost = blank[~order.isin(there)]
    both = pd.concat([part, lost]) if len(lost) else part
    places = order.get_indexer(pd.MultiIndex.from_frame(both[list(panels)]))
    return both.iloc[np.argsort(places, kind="stable")]


def _by_key(figure: Any) -> dict[tuple[Any, ...], Any]:
    """Traces by what stays the same at every position: their panel, name and kind."""
    return {(t.type, t.xaxis, t.yaxis, t.name, t.fill if t.type == "scatter" else None): t for t in figure.data}


def _aligned(figure: Any, drawn: dict[str, Any], keys: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The figure's traces in the order of ``keys``; one that is missing here is there without values."""
    own = _by_key(figure)
    return [own[k] if k in own else _emptied(next(f[k] for f in map(_by_key, drawn.values()) if k in f)) for k in keys]


def _emptied(trace: Any) -> Any:
    copy = type(trace)(trace)
    copy.update({"x": [], "y": [], "customdata": [], **({"z": []} if trace.type == "heatmap" else {})})
    return copy


def _one_range(whole: Any, drawn: dict[str, Any]) -> None:
    """Vertical axes of curves that hold every position of the slider."""
    reach: dict[str, list[float]] = {}
    for trace in (t for f in drawn.values() for t in f.data if t.type == "scatter" and t.y is not None):
        ys = np.array([v for v in trace.y if isinstance(v, int | float | np.number)], dtype=float)
        reach.setdefault(trace.yaxis or "y", []).extend(ys[np.isfinite(ys)])
    shared = {n: whole.layout["yaxis" + n[1:]].matches for n in reach}
    for name in [n for n, first in shared.items() if first in reach and first != n]:
        reach[shared[name]].extend(reach.pop(name))
    for name, values in reach.items():
        axis = whole.layout["yaxis" + name[1:]]
        if axis.range is None and axis.type in (None, "linear") and values:
            room = 0.05 * (max(values) - min(values)) or 1.0
            axis.range = [min(values) - room, max(values) + room]
