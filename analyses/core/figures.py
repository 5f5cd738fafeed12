"""Plotly figures with one look: units on every axis, intervals as bands, gaps where nothing was measured.

Input is what ``Result.summary()`` gives: tidy rows ``quantity, unit, <dims>, value, ci_low, ci_high, n``, filtered by
the caller. Columns named by ``x``, ``color``, ``dash`` and ``facet`` must tell every row apart; a plot that would
silently join rows of different kinds is an error. Every text that may come from a model or a data file is escaped.
"""

# pandas and plotly carry partial types; everything else of strict mode applies.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analyses.core import traces
from analyses.core.result import DIMS
from analyses.core.traces import PALETTE, as_text, axis_name, number, plain, visible

MISSING = "rgba(128,128,128,0.18)"
NEUTRAL = "#888888"
HEIGHT = 380
TOKENS_PER_ROW = 12
Columns = str | Sequence[str] | None  # one column, or several whose values are read together
X_ORDER = ("step", "source_step", "layer", "window", "pos", "alpha", "fraction", "k", "neuron", "head")
_AXIS = {"showline": True, "linecolor": "#bbb", "gridcolor": "#eee", "zeroline": False, "automargin": True}
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', sans-serif", "size": 13},
        "title": {"x": 0, "xref": "paper", "font": {"size": 15}},
        "colorway": PALETTE,
        "margin": {"l": 64, "r": 16, "t": 56, "b": 48},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "hovermode": "closest",
        "legend": {"font": {"size": 12}},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
)


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
    rows, (color, dash, facet) = _joined(rows, color, dash, facet)
    facet = _checked(rows, (x, color, dash, facet), facet, y)
    if rows.empty:
        return empty(title)
    figure, panels = _panels(rows, facet, columns)
    shown: set[str] = set()
    for part, place in panels:
        for name, line, style in traces.lines(part, rows, color, dash):
            line = line.sort_values(x) if traces.is_numeric(line[x]) else line
            drawn = traces.line_traces(line, x, y, name, style, bool(name) and name not in shown)
            figure.add_traces(drawn, **_all(place, len(drawn)))
            shown.add(name)
        if place.get("col", 1) == 1 or _several(rows, "quantity"):
            figure.update_yaxes(title_text=y_title or _y_title(part, y, unit), **place)
        if reference is not None:
            figure.add_hline(reference, line=_THIN, **place)
    last = panels[-1][1]
    last_row = {"row": last["row"]} if columns == 1 and last else {}
    figure.update_xaxes(title_text=axis_name(x), **last_row)
    if traces.are_integers(rows[x]):
        few = float(np.ptp(rows[x])) <= 14
        figure.update_xaxes(tickformat="d", dtick=1 if few else None)
    if log_y:
        figure.update_yaxes(type="log")
    return _finished(figure, title, legend=_legend_title(color, dash))


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
    rows, (facet,) = _joined(rows, facet)
    facet = _checked(rows, (x, y, facet), facet, z)
    if bool(np.isnan(rows[z].to_numpy(dtype=float)).all()):
        return empty(title)
    figure, panels = _panels(rows, facet)
    for part, place in panels:
        figure.add_traces([traces.cells(part, x, y, z)], **_all(place, 1))
    figure.update_xaxes(title_text=axis_name(x), showgrid=False, type=traces.cell_axis(rows[x]))
    figure.update_yaxes(showgrid=False, type=traces.cell_axis(rows[y]))
    figure.update_yaxes(title_text=axis_name(y), **_first_column(panels))
    figure.update_layout(coloraxis=_coloraxis(rows[z], signed, limit, _unit(rows) if unit is None else unit))
    gaps = any(p[z].notna().sum() < p[x].nunique() * p[y].nunique() for p, _ in panels)
    figure.update_layout(plot_bgcolor=MISSING)
    return _finished(figure, title, note="grey: not measured" if gaps else "")


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
    rows, (color, facet, named) = _joined(rows, color, facet, label)
    facet = _checked(rows, (named, color, facet), facet, "value")
    if rows.empty or named is None:
        return empty(title)
    figure, panels = _panels(rows, facet)
    labels = [as_text(v) for v in dict.fromkeys(rows[named])]
    hues = len(set(rows[color])) if color else 1
    shown: set[str] = set()
    for part, place in panels:
        for count, (name, line, style) in enumerate(traces.lines(part, rows, color, None)):
            offset = (count - (hues - 1) / 2) * 0.6 / hues
            drawn = traces.dots(line, named, labels, offset, name, style, bool(name) and name not in shown)
            figure.add_traces([drawn], **_all(place, 1))
            shown.add(name)
        figure.update_xaxes(title_text=_y_title(part, "value", unit), **place)
        if reference is not None:
            figure.add_vline(reference, line=_THIN, **place)
    span = [len(labels) - 0.4, -0.6]
    figure.update_yaxes(tickvals=list(range(len(labels))), ticktext=labels, range=span, showgrid=False)
    figure.update_yaxes(title_text=axis_name(named), **_first_column(panels))
    figure.update_layout(height=max(200, 130 + 14 * len(labels) * (1 + hues)))
    return _finished(figure, title, legend=_legend_title(color, None))


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
    rows, (color,) = _joined(rows, color)
    _exist(rows, (x, y, *hover))
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
        figure.add_scatter(x=ends, y=ends, mode="lines", line=_THIN, name="y = x", hoverinfo="skip")
    figure.update_xaxes(title_text=html.escape(x_title or axis_name(x)))
    figure.update_yaxes(title_text=html.escape(y_title or axis_name(y)))
    return _finished(figure, title, legend=_legend_title(color, None))


def tokens(
    texts: Sequence[str],
    values: Sequence[float],
    *,
    title: str = "",
    unit: str = "",
    signed: bool | None = None,
    limit: float | None = None,
    hover: Sequence[str] = (),
    columns: int = TOKENS_PER_ROW,
) -> go.Figure:
    """A text as a strip of coloured tokens, wrapped after ``columns``; NaN leaves a token uncoloured.

    Args:
        texts: decoded tokens, in order.
        values: one number per token.
        title: title.
        unit: unit of the numbers, named on the colour bar.
        signed: red-white-blue centred on zero; by default where values have both signs.
        limit: end of the colour scale, to share it between strips.
        hover: a line more per token, shown on hover.
        columns: tokens per row.

    Raises:
        ValueError: not one value per token.
    """
    if len(texts) != len(values) or (hover and len(hover) != len(texts)):
        raise ValueError(f"{len(texts)} tokens with {len(values)} values and {len(hover)} hover lines; give one each")
    if not len(texts):
        return empty(title, "no tokens")
    numbers = np.asarray(values, dtype=float)
    shape = (math.ceil(len(texts) / columns), columns)
    shown = [html.escape(visible(t)) for t in texts]
    told = [_about_token(i, t, v, unit) for i, (t, v) in enumerate(zip(texts, numbers, strict=True))]
    if hover:
        told = [f"{t}<br>{html.escape(h)}" for t, h in zip(told, hover, strict=True)]
    figure: Any = go.Figure()
    filled = {"z": _grid(numbers, shape, np.nan)}
    filled |= {"text": _grid(shown, shape, ""), "customdata": _grid(told, shape, "")}
    look = {
        "texttemplate": "%{text}",
        "textfont": {"size": 12},
        "hovertemplate": "%{customdata}<extra></extra>",
        "xgap": 2,
        "ygap": 4,
    }
    figure.add_heatmap(**filled, **look, coloraxis="coloraxis", hoverongaps=False)
    # Plotly writes a cell's text on measured cells only; the other tokens still have to be read.
    gaps = np.flatnonzero(np.isnan(numbers))
    for i in map(int, gaps):
        figure.add_annotation(x=i % columns, y=i // columns, text=shown[i], showarrow=False, opacity=0.7)
    figure.update_layout(coloraxis=_coloraxis(numbers, signed, limit, unit), height=120 + 34 * shape[0])
    figure.update_xaxes(visible=False, range=[-0.5, columns - 0.5])
    figure.update_yaxes(visible=False, range=[shape[0] - 0.5, -0.5])
    return _finished(figure, title, note="no colour: not measured" if len(gaps) else "")


def auto(rows: pd.DataFrame, *, title: str = "") -> dict[str, go.Figure]:
    """One figure per quantity of a summary, axes chosen from its dims: for results whose analysis draws none."""
    found: dict[str, go.Figure] = {}
    for quantity, part in rows.groupby("quantity", sort=False):
        name = str(quantity)
        dims = [c for c in part.columns if c in DIMS and _several(part, c)]
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


def empty(title: str, reason: str = "nothing to draw: no measured values in this selection") -> go.Figure:
    """A figure that says why it is empty, so that a missing curve is never taken for a flat one."""
    figure: Any = go.Figure()
    figure.add_annotation(text=html.escape(reason), showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.update_layout(height=HEIGHT // 2)
    return _finished(figure, title)


def mark(figure: go.Figure, x: float, text: str, *, color: str = NEUTRAL) -> go.Figure:
    """``figure`` with a vertical line at ``x`` in every panel, labelled in the first."""
    figure.add_vline(x, line={"color": color, "width": 1.5, "dash": "dash"})
    return _named(figure, x, text, color)


def shade(figure: go.Figure, start: float, end: float, text: str, *, color: str = NEUTRAL) -> go.Figure:
    """``figure`` with a span of ``x`` shaded in every panel (a training stage, layers), labelled in the first."""
    look: dict[str, Any] = {"fillcolor": color, "opacity": 0.1, "line_width": 0}
    figure.add_vrect(start, end, **look)
    return _named(figure, start, text, color)


_THIN = {"color": NEUTRAL, "width": 1, "dash": "dot"}


def _joined(rows: pd.DataFrame, *wanted: Columns) -> tuple[pd.DataFrame, list[str | None]]:
    """Several columns as one whose text names the values that differ."""
    found: list[str | None] = []
    for columns in wanted:
        if columns is None or isinstance(columns, str):
            _exist(rows, [columns])
            found.append(columns)
            continue
        _exist(rows, columns)
        differing = [c for c in columns if _several(rows, c)] or list(columns[:1])
        name = ", ".join(differing)
        if len(differing) > 1:
            texts = [[plain(v) for v in values] for values in rows[differing].itertuples(index=False)]
            rows = rows.assign(**{name: pd.Series([", ".join(t) for t in texts], index=rows.index, dtype=object)})
        found.append(name)
    return rows, found


def _checked(rows: pd.DataFrame, used: Sequence[str | None], facet: str | None, value: str) -> str | None:
    """The facet to use; quantities never share a panel, and rows the columns do not tell apart are refused."""
    _exist(rows, (*used, value))
    named = [c for c in used if c]
    if facet is None and "quantity" not in named and _several(rows, "quantity"):
        facet = "quantity"
        named.append(facet)
    twice = rows.duplicated(named, keep=False)
    if twice.any():
        free = [c for c in rows.columns if c not in named and c in DIMS and _several(rows, c)]
        raise ValueError(
            f"{int(twice.sum())} rows share {named}; they also differ in {free or 'nothing named'}. "
            "Filter them, or give color, dash or facet."
        )
    return facet


def _exist(rows: pd.DataFrame, columns: Sequence[str | None]) -> None:
    missing = [c for c in columns if c is not None and c not in rows.columns]
    if missing:
        raise ValueError(f"no column {missing} to draw; the rows have {list(rows.columns)}")


def _several(rows: pd.DataFrame, column: str) -> bool:
    return column in rows and len(rows[column].unique()) > 1


def _panels(
    rows: pd.DataFrame, facet: str | None, columns: int = 3
) -> tuple[Any, list[tuple[pd.DataFrame, dict[str, int]]]]:
    """Subplots by facet; panels side by side of one quantity share the vertical axis, stacked ones the horizontal."""
    if facet is None:
        return go.Figure(), [(rows, {})]
    groups = list(rows.groupby(facet, sort=False, dropna=False))
    if len(groups) == 1:  # a grid of one is slow to make; the panel's name joins the title
        figure: Any = go.Figure()
        figure.update_layout(meta=as_text(groups[0][0]))
        return figure, [(rows, {})]
    subplots: Any = make_subplots  # its types are narrower than what it takes
    wide = min(len(groups), columns)
    high = math.ceil(len(groups) / wide)
    one_scale = wide > 1 and not _several(rows, "quantity")
    figure = subplots(
        high,
        wide,
        subplot_titles=[as_text(value) for value, _ in groups],
        shared_yaxes="all" if one_scale else False,
        shared_xaxes=wide == 1,
        horizontal_spacing=0.05 if one_scale else 0.09,
        vertical_spacing=min(0.18, 0.4 / high) if wide > 1 else min(0.12, 0.3 / high),
    )
    per_row = 290 if wide > 1 else 210
    figure.update_layout(height=HEIGHT if high == 1 else per_row * high + 60)
    places = [{"row": i // wide + 1, "col": i % wide + 1} for i in range(len(groups))]
    return figure, [(part, place) for (_, part), place in zip(groups, places, strict=True)]


def _all(place: dict[str, int], count: int) -> dict[str, list[int]]:
    return {"rows": [place["row"]] * count, "cols": [place["col"]] * count} if place else {}


def _first_column(panels: Sequence[tuple[pd.DataFrame, dict[str, int]]]) -> dict[str, int]:
    return {"col": 1} if panels[0][1] else {}


def _spread(rows: pd.DataFrame, dims: list[str]) -> list[Columns]:
    """Dims dealt out to colour, dash and panels, the one with most values first."""
    by_size = sorted(dims, key=lambda d: len(rows[d].unique()), reverse=True)
    return [*by_size[:2], *[None] * (2 - len(by_size)), by_size[2:] or None]


def _about_token(place: int, text: str, value: float, unit: str) -> str:
    return f"{place}: “{html.escape(visible(text, 200))}”<br>{number(value)} {html.escape(unit)}"


def _named(figure: Any, x: float, text: str, color: str) -> go.Figure:
    # Names at one place would cover each other: each goes below those already there.
    above = sum(1 for a in figure.layout.annotations if a.xref == "x" and a.x == x)
    place: dict[str, Any] = {"x": x, "xref": "x", "y": 1, "yref": "y domain", "xanchor": "left", "yanchor": "top"}
    place["yshift"] = -14 * above
    figure.add_annotation(text=html.escape(text), font={"size": 11, "color": color}, showarrow=False, **place)
    return figure


def _grid(values: Any, shape: tuple[int, int], fill: Any) -> np.ndarray:
    flat = np.full(shape[0] * shape[1], fill, dtype=object if isinstance(fill, str) else float)
    flat[: len(values)] = values
    return flat.reshape(shape)


def _coloraxis(values: Any, signed: bool | None, limit: float | None, unit: str) -> dict[str, Any]:
    bar = {"title": {"text": html.escape(unit), "side": "right"}, "thickness": 14}
    return {**traces.color_scale(values, signed, limit), "colorbar": bar}


def _y_title(rows: pd.DataFrame, y: str, unit: str | None) -> str:
    named = y
    if y == "value" and "quantity" in rows and not _several(rows, "quantity"):
        named = str(rows["quantity"].iloc[0])
    unit = _unit(rows) if unit is None else unit
    return html.escape(axis_name(named)) + (f" ({html.escape(unit)})" if unit else "")


def _unit(rows: pd.DataFrame) -> str:
    units = [traces.unit_name(u) for u in dict.fromkeys(rows["unit"])] if "unit" in rows else []
    return units[0] if len(units) == 1 else ""


def _legend_title(color: str | None, dash: str | None) -> str:
    return ", ".join(axis_name(c) for c in (color, dash) if c)


def _finished(figure: Any, title: str, *, legend: str = "", note: str = "") -> go.Figure:
    titles = [t for t in (html.escape(title), figure.layout.meta) if t]
    named = {"title": {"text": " · ".join(titles)}, "legend": {"title": {"text": html.escape(legend)}}}
    figure.update_layout(template=TEMPLATE, **named)
    if figure.layout.height is None:
        figure.update_layout(height=HEIGHT)
    if note:
        place = {"x": 1, "y": 1, "yshift": 18, "xref": "paper", "yref": "paper", "xanchor": "right"}
        figure.add_annotation(text=note, showarrow=False, font={"size": 11, "color": NEUTRAL}, **place)
    return figure
