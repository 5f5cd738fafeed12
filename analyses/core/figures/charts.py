"""Curves, maps, dots and points of tidy rows."""

# pandas and plotly carry partial types; everything else of strict mode applies.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analyses.core.figures import crowds, scales, traces
from analyses.core.figures.layout import (
    MISSING,
    THIN,
    X_ORDER,
    Columns,
    across,
    around,
    checked,
    coloraxis,
    empty,
    everywhere,
    exist,
    finished,
    first_column,
    joined,
    legend_title,
    panels_of,
    several,
    title_name,
    unit_of,
    y_title_of,
)
from analyses.core.figures.traces import as_text
from analyses.core.result import DIMS


def curve(
    rows: pd.DataFrame,
    *,
    x: str = "step",
    y: str = "value",
    color: Columns = None,
    dash: Columns = None,
    facet: Columns = None,
    title: str = "",
    unit: str | None = None,
    y_title: str | None = None,
    log_y: bool = False,
    reference: float | None = None,
    columns: int = 3,
) -> go.Figure:
    """Lines over ``x`` with 95 % bands where the rows carry intervals; categories on ``x`` become dots with bars.

    Args:
        rows: summary rows, filtered to what should be drawn.
        x: column on the horizontal axis.
        y: column on the vertical axis; intervals are read from ``ci_low``, ``ci_high``, ``n`` if ``y`` is ``value``.
        color: column (or columns) that sets the colour of a line; numbers are coloured in their order.
        dash: column that sets its dash.
        facet: column (or columns) with one panel per value; several quantities get a panel each without being asked.
        title: title; the unit is added to the axis, not to the title.
        unit: unit of ``y``; read from the rows if not given.
        y_title: name of the vertical axis; read from the rows if not given.
        log_y: logarithmic vertical axis.
        reference: horizontal line at this value (0 for effects, chance level for accuracies).
        columns: panels side by side; 1 stacks them on one horizontal axis, each with its own vertical one.

    Raises:
        ValueError: a column that does not exist, or rows these columns do not tell apart.
    """
    exist(rows, (x, y, *(c for of in (color, dash, facet) for c in crowds.named(of))))
    hues, dashes, wide = crowds.dealt(rows, color, dash, facet)
    look: dict[str, Any] = {"title": title, "unit": unit}
    if crowds.is_crowded(rows, hues, wide) and traces.is_numeric(rows[x]):
        return heatmap(rows, x=x, y=hues[0], z=y, facet=wide or None, **look)
    wide, slides = crowds.slid(rows, [*wide, *(["quantity"] if several(rows, "quantity") and not wide else [])])
    if slides:
        look |= {"y_title": y_title, "log_y": log_y, "reference": reference, "columns": columns}
        again = {"x": x, "y": y, "color": hues or None, "dash": dashes or None, "facet": wide or None}
        return crowds.sliding(rows, slides, wide, y, lambda part: curve(part, **again, **look))
    rows, (color, dash, facet) = joined(rows, hues or None, dashes or None, wide or None)
    facet = checked(rows, (x, color, dash, facet), facet, y)
    if rows.empty:
        return empty(title)
    figure, panels = panels_of(rows, facet, columns)
    shown: set[str] = set()
    for part, place in panels:
        of = list(traces.lines(part, rows, color, dash))
        banded = traces.banded(len(of), is_ramp=crowds.is_ordered(rows, [color or ""]) and dash is None)
        for number, (name, line, style) in enumerate(of):
            line = line.sort_values(x) if traces.is_numeric(line[x]) else line
            drawn = traces.line_traces(line, x, y, name, style, bool(name) and name not in shown, number in banded)
            figure.add_traces(drawn, **everywhere(place, len(drawn)))
            shown.add(name)
        if scales.are_fractions(part, y):
            figure.update_yaxes(range=scales.FRACTIONS, **place)
        if place.get("col", 1) == 1 or several(rows, "quantity"):
            figure.update_yaxes(title_text=y_title or y_title_of(part, y, unit), **place)
    if reference is not None:
        figure.update_layout(shapes=across(len(panels), reference))
    last = panels[-1][1]
    last_row = {"row": last["row"]} if columns == 1 and last else {}
    figure.update_xaxes(title_text=title_name(x), **last_row)
    if traces.are_integers(rows[x]):
        few = float(np.ptp(rows[x])) <= 14
        figure.update_xaxes(tickformat="d", dtick=1 if few else None)
    if log_y:
        figure.update_yaxes(type="log")
    return finished(figure, title, legend=legend_title(color, dash))


def heatmap(
    rows: pd.DataFrame,
    *,
    x: str = "layer",
    y: str = "step",
    z: str = "value",
    facet: Columns = None,
    signed: bool | None = None,
    title: str = "",
    unit: str | None = None,
    limit: float | None = None,
) -> go.Figure:
    """Cells coloured by ``z`` over ``x`` and ``y``; cells without a row, or NaN, stay grey ("not measured").

    Args:
        rows: summary rows, one per cell (and facet).
        x: column on the horizontal axis.
        y: column on the vertical axis (values from bottom to top).
        z: column that is coloured.
        facet: column with one panel per value; all panels share the colour scale.
        signed: red-white-blue scale centred on zero; by default where values have both signs.
        title: title.
        unit: unit of ``z``; read from the rows if not given.
        limit: end of the colour scale (both ends if signed), to share it between figures.

    Raises:
        ValueError: a column that does not exist, or two rows for one cell.
    """
    exist(rows, (x, y, z, *crowds.named(facet)))
    wide, slides = crowds.slid(rows, crowds.named(facet))
    if slides:
        look: dict[str, Any] = {"x": x, "y": y, "z": z, "title": title, "unit": unit}
        look |= scales.shared_scale(rows, z, signed, limit)
        return crowds.sliding(rows, slides, wide, z, lambda part: heatmap(part, facet=wide or None, **look))
    rows, (facet,) = joined(rows, wide or None)
    facet = checked(rows, (x, y, facet), facet, z)
    fixed = scales.fixed_scale(rows, z) if limit is None and not signed else None
    if bool(np.isnan(rows[z].to_numpy(dtype=float)).all()):
        return empty(title)
    figure, panels = panels_of(rows, facet)
    for part, place in panels:
        figure.add_traces([traces.cells(part, x, y, z, fixed)], **everywhere(place, 1))
    figure.update_xaxes(title_text=title_name(x), showgrid=False, type=traces.cell_axis(rows[x]))
    figure.update_yaxes(showgrid=False, type=traces.cell_axis(rows[y]))
    figure.update_yaxes(title_text=title_name(y), **first_column(panels))
    for column, update in ((x, figure.update_xaxes), (y, figure.update_yaxes)):
        many = {part[column].nunique() for part, _ in panels}
        if traces.cell_axis(rows[column]) == "category" and len(many) == 1:  # no frame around the cells
            update(range=[-0.5, many.pop() - 0.5])
    figure.update_layout(coloraxis=coloraxis(rows[z], signed, limit, unit_of(rows) if unit is None else unit, fixed))
    gaps = any(p[z].notna().sum() < p[x].nunique() * p[y].nunique() for p, _ in panels)
    figure.update_layout(plot_bgcolor=MISSING, margin={"pad": 0})  # else a frame of that colour
    return finished(figure, title, note="grey: not measured" if gaps else "")


def forest(
    rows: pd.DataFrame,
    *,
    label: str | Sequence[str],
    color: Columns = None,
    facet: Columns = None,
    reference: float | None = 0.0,
    title: str = "",
    unit: str | None = None,
) -> go.Figure:
    """One dot with its 95 % interval per ``label``, from top to bottom in the order of the rows.

    Args:
        rows: summary rows.
        label: column (or columns) named on the vertical axis.
        color: column that sets colour and symbol of a dot (dots of one label are set apart vertically).
        facet: column with one panel per value.
        reference: vertical line, for example "no effect"; None for none.
        title: title.
        unit: unit of ``value``; read from the rows if not given.

    Raises:
        ValueError: a column that does not exist, or rows these columns do not tell apart.
    """
    exist(rows, [c for of in (color, facet, label) for c in crowds.named(of)])
    wide, slides = crowds.slid(rows, crowds.named(facet))
    if slides:
        look: dict[str, Any] = {"label": label, "color": color, "reference": reference, "title": title, "unit": unit}
        return crowds.sliding(rows, slides, wide, "value", lambda part: forest(part, facet=wide or None, **look))
    rows, (color, facet, named) = joined(rows, color, wide or None, label)
    facet = checked(rows, (named, color, facet), facet, "value")
    if rows.empty or named is None:
        return empty(title)
    figure, panels = panels_of(rows, facet)
    labels = [as_text(v) for v in dict.fromkeys(rows[named])]
    hues = len(set(rows[color])) if color else 1
    shown: set[str] = set()
    for part, place in panels:
        for count, (name, line, style) in enumerate(traces.lines(part, rows, color, None)):
            offset = (count - (hues - 1) / 2) * 0.6 / hues
            drawn = traces.dots(line, named, labels, offset, name, style, bool(name) and name not in shown)
            figure.add_traces([drawn], **everywhere(place, 1))
            shown.add(name)
        figure.update_xaxes(title_text=y_title_of(part, "value", unit), **place)
        if reference is not None:
            figure.add_vline(reference, line=THIN, **place)
            figure.update_xaxes(range=around(rows, reference), **place)
    span = [len(labels) - 0.4, -0.6]
    figure.update_yaxes(tickvals=list(range(len(labels))), ticktext=labels, range=span, showgrid=False)
    figure.update_yaxes(title_text=title_name(named), **first_column(panels))
    figure.update_layout(height=max(200, 130 + 14 * len(labels) * (1 + hues)))
    return finished(figure, title, legend=legend_title(color, None))


def scatter(
    rows: pd.DataFrame,
    *,
    x: str,
    y: str,
    color: Columns = None,
    hover: Sequence[str] = (),
    title: str = "",
    x_title: str | None = None,
    y_title: str | None = None,
    diagonal: bool = False,
) -> go.Figure:
    """One point per row of any table; ``diagonal`` adds the line y = x (prediction against measurement).

    Args:
        rows: any table.
        x: column on the horizontal axis.
        y: column on the vertical axis.
        color: column that sets colour and symbol.
        hover: further columns told on hover.
        title: title.
        x_title: name of the horizontal axis with its unit.
        y_title: name of the vertical axis with its unit.
        diagonal: draw y = x.
    """
    rows, (color,) = joined(rows, color)
    exist(rows, (x, y, *hover))
    rows = rows.dropna(subset=[x, y])
    if rows.empty:
        return empty(title)
    figure: Any = go.Figure()
    extra = "".join(f"<br>{html.escape(c)}: %{{customdata[{i}]}}" for i, c in enumerate(hover))
    for name, part, style in traces.lines(rows, rows, color, None):
        told = [[as_text(v) for v in values] for values in part[list(hover)].itertuples(index=False)]
        marker = {"color": style["color"], "symbol": style["symbol"], "size": 7, "opacity": 0.8}
        template = f"%{{x:.4g}}, %{{y:.4g}}{extra}<extra>{name}</extra>"
        points = {"x": part[x], "y": part[y], "mode": "markers", "name": name, "marker": marker}
        figure.add_scatter(**points, customdata=told or None, hovertemplate=template, showlegend=bool(name))
    if diagonal:
        ends = [float(rows[[x, y]].min().min()), float(rows[[x, y]].max().max())]
        figure.add_scatter(x=ends, y=ends, mode="lines", line=THIN, name="y = x", hoverinfo="skip")
    figure.update_xaxes(title_text=html.escape(x_title or title_name(x)))
    figure.update_yaxes(title_text=html.escape(y_title or title_name(y)))
    return finished(figure, title, legend=legend_title(color, None))


def auto(rows: pd.DataFrame, *, title: str = "") -> dict[str, go.Figure]:
    """One figure per quantity of a summary, axes chosen from its dims: for results whose analysis draws none."""
    found: dict[str, go.Figure] = {}
    for quantity, part in rows.groupby("quantity", sort=False):
        name = str(quantity)
        dims = [c for c in part.columns if c in DIMS and several(part, c)]
        ordered = [d for d in X_ORDER if d in dims]
        named = f"{title}: {name}" if title else name
        if len(ordered) == len(dims) == 2:
            found[name] = heatmap(part, x=ordered[1], y=ordered[0], title=named)
        elif ordered:
            color, dash, facet = _spread(part, [d for d in dims if d != ordered[0]])
            found[name] = curve(part, x=ordered[0], color=color, dash=dash, facet=facet, title=named)
        else:
            label, color, facet = _spread(part, dims or ["quantity"])
            found[name] = forest(part, label=label or "quantity", color=color, facet=facet, reference=None, title=named)
    return found


def _spread(rows: pd.DataFrame, dims: list[str]) -> list[Columns]:
    """Dims dealt out to colour, dash and panels, the one with most values first."""
    by_size = sorted(dims, key=lambda d: len(rows[d].unique()), reverse=True)
    return [*by_size[:2], *[None] * (2 - len(by_size)), by_size[2:] or None]
