"""What every figure shares: the template, panels, checks of the rows, titles, marks, the empty figure."""

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

from analyses.core.figures import scales, traces
from analyses.core.figures.traces import PALETTE, as_text, axis_name, plain
from analyses.core.result import DIMS

UNTITLED = {"variant", "quantity", "series", "sign", "what", "error", "side"}  # their values are words
MISSING = "rgba(128,128,128,0.18)"
NEUTRAL = "#888888"
HEIGHT = 380
TOKENS_PER_ROW = 12
Columns = str | Sequence[str] | None  # one column, or several whose values are read together
X_ORDER = ("step", "source_step", "layer", "window", "pos", "alpha", "fraction", "k", "neuron", "head")
AXIS = {
    "showline": True,
    "linecolor": "#bbb",
    "gridcolor": "#eee",
    "zeroline": False,
    "automargin": True,
    "exponentformat": "power",  # 2×10⁻⁴, not 200µ
}
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
        "xaxis": AXIS,
        "yaxis": AXIS,
    }
)
THIN = {"color": NEUTRAL, "width": 1, "dash": "dot"}


def empty(title: str, reason: str = "nothing to draw: no measured values in this selection") -> go.Figure:
    """A figure that says why it is empty, so that a missing curve is never taken for a flat one."""
    figure: Any = go.Figure()
    figure.add_annotation(text=html.escape(reason), showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.update_layout(height=HEIGHT // 2)
    return finished(figure, title)


def mark(figure: go.Figure, x: float, text: str = "", *, color: str = NEUTRAL) -> go.Figure:
    """``figure`` with a vertical line at ``x`` in every panel, labelled above the first.

    Args:
        figure: the figure, which is changed in place.
        x: where, in the units of the horizontal axis.
        text: label above the first panel, "" for none.
        color: its colour.
    """
    figure.add_vline(x, line={"color": color, "width": 1.5, "dash": "dash"})
    return _named(figure, x, text, color) if text else figure


def shade(figure: go.Figure, start: float, end: float, text: str = "", *, color: str = NEUTRAL) -> go.Figure:
    """``figure`` with a span of ``x`` shaded in every panel (a training stage, layers), labelled above the first.

    Args:
        figure: the figure, which is changed in place.
        start: first value of the horizontal axis.
        end: last value.
        text: label above the first panel, "" for none.
        color: its colour.
    """
    look: dict[str, Any] = {"fillcolor": color, "opacity": 0.1, "line_width": 0}
    figure.add_vrect(start, end, **look)
    return _named(figure, start, text, color) if text else figure


def star(figure: go.Figure, x: float, y: float, text: str, *, color: str = NEUTRAL, **place: int) -> go.Figure:
    """``figure`` with a star at a point, named in the legend; ``row`` and ``col`` say in which panel.

    Args:
        figure: the figure, which is changed in place.
        x: where, in the units of the horizontal axis.
        y: where, in those of the vertical one.
        text: its name in the legend.
        color: its colour.
        place: `row` and `col` of the panel, from 1.
    """
    look = {"symbol": "star", "size": 15, "color": color, "line": {"color": "white", "width": 1}}
    hover = f"{html.escape(text)}: %{{x}}, %{{y:.4g}}<extra></extra>"
    told: dict[str, Any] = {"name": html.escape(text), "hovertemplate": hover, "cliponaxis": False}  # whole at an edge
    figure.add_scatter(x=[x], y=[y], mode="markers", marker=look, **told, **place)
    return figure


def peaks(figure: go.Figure) -> go.Figure:
    """``figure`` of curves with a star at the largest value of each line; maps and figures with a slider stay."""
    of: Any = figure
    found = [] if of.frames else [t for t in of.data if t.type == "scatter" and t.mode and "lines" in t.mode]
    for number, line in enumerate(t for t in found if t.fill is None):
        ys = np.asarray(line.y, dtype=float)
        if np.isfinite(ys).any():
            at = int(np.nanargmax(ys))
            look = {"symbol": "star", "size": 14, "color": line.line.color, "line": {"color": "white", "width": 1}}
            told = {"hovertemplate": "largest: %{x}, %{y:.4g}<extra></extra>", "showlegend": number == 0}
            place = {"xaxis": line.xaxis, "yaxis": line.yaxis, "legendgroup": "largest"}
            of.add_scatter(x=[line.x[at]], y=[ys[at]], mode="markers", marker=look, name="largest", **told, **place)
    return figure


def keyed(figure: go.Figure, text: str, color: str) -> go.Figure:
    """``figure`` with a shade named in its legend.

    Args:
        figure: the figure, which is changed in place.
        text: the name in the legend.
        color: its colour.
    """
    look = {"symbol": "square", "size": 14, "color": color, "opacity": 0.35}
    figure.add_scatter(x=[None], y=[None], mode="markers", marker=look, name=html.escape(text), hoverinfo="skip")
    return figure


def joined(rows: pd.DataFrame, *wanted: Columns) -> tuple[pd.DataFrame, list[str | None]]:
    """Several columns as one whose text names the values that differ."""
    found: list[str | None] = []
    for columns in wanted:
        if columns is None or isinstance(columns, str):
            exist(rows, [columns])
            found.append(columns)
            continue
        exist(rows, columns)
        differing = [c for c in columns if several(rows, c)] or list(columns[:1])
        name = ", ".join(differing)
        if len(differing) > 1:
            texts = [[plain(v) for v in values] for values in rows[differing].itertuples(index=False)]
            rows = rows.assign(**{name: pd.Series([", ".join(t) for t in texts], index=rows.index, dtype=object)})
        found.append(name)
    return rows, found


def checked(rows: pd.DataFrame, used: Sequence[str | None], facet: str | None, value: str) -> str | None:
    """The facet to use; quantities never share a panel, and rows the columns do not tell apart are refused.

    Args:
        rows: tidy rows of a summary.
        used: columns that tell rows apart, None among them for none.
        facet: column of panels, None for one panel.
        value: column that is drawn.
    """
    exist(rows, (*used, value))
    named = [c for c in used if c]
    if facet is None and "quantity" not in named and several(rows, "quantity"):
        facet = "quantity"
        named.append(facet)
    twice = rows.duplicated(named, keep=False)
    if twice.any():
        free = [c for c in rows.columns if c not in named and c in DIMS and several(rows, c)]
        raise ValueError(
            f"{int(twice.sum())} rows share {named}; they also differ in {free or 'nothing named'}. "
            "Filter them, or give color, dash or facet."
        )
    return facet


def exist(rows: pd.DataFrame, columns: Sequence[str | None]) -> None:
    missing = [c for c in columns if c is not None and c not in rows.columns]
    if missing:
        raise ValueError(f"no column {missing} to draw; the rows have {list(rows.columns)}")


def several(rows: pd.DataFrame, column: str) -> bool:
    return column in rows and len(rows[column].unique()) > 1


def panels_of(
    rows: pd.DataFrame, facet: str | None, columns: int = 3
) -> tuple[Any, list[tuple[pd.DataFrame, dict[str, int]]]]:
    """Subplots by facet; panels side by side of one quantity share the vertical axis, stacked ones the horizontal.

    Args:
        rows: tidy rows of a summary.
        facet: column of panels, None for one panel.
        columns: most panels side by side.
    """
    if facet is None:
        return go.Figure(), [(rows, {})]
    groups = list(rows.groupby(facet, sort=False, dropna=False))
    if len(groups) == 1:  # a grid of one is slow to make; the panel's name joins the title
        figure: Any = go.Figure()
        figure.update_layout(meta=_panel_name(facet, groups[0][0]))
        return figure, [(rows, {})]
    subplots: Any = make_subplots  # its types are narrower than what it takes
    wide = min(len(groups), columns)
    high = math.ceil(len(groups) / wide)
    one_scale = wide > 1 and not several(rows, "quantity")
    figure = subplots(
        high,
        wide,
        subplot_titles=[_panel_name(facet, value) for value, _ in groups],
        shared_yaxes="all" if one_scale else False,
        shared_xaxes=wide == 1,
        horizontal_spacing=0.05 if one_scale else 0.09,
        vertical_spacing=min(0.18, 0.4 / high) if wide > 1 else min(0.12, 0.3 / high),
    )
    per_row = 290 if wide > 1 else 210
    # The panels' names need a line of their own under the title.
    figure.update_layout(height=HEIGHT if high == 1 else per_row * high + 60, margin={"t": 84})
    places = [{"row": i // wide + 1, "col": i % wide + 1} for i in range(len(groups))]
    return figure, [(part, place) for (_, part), place in zip(groups, places, strict=True)]


def _panel_name(facet: str, value: object) -> str:
    """A panel by its value, which as a bare number would not say of what."""
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return f"{html.escape(axis_name(facet))} {as_text(value)}" if is_number else as_text(value)


def across(panels: int, y: float) -> list[dict[str, Any]]:
    """A thin line at ``y`` over the width of every panel."""
    numbers = ["" if i == 0 else str(i + 1) for i in range(panels)]
    ends = {"type": "line", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": THIN}
    return [{**ends, "xref": f"x{n} domain", "yref": f"y{n}"} for n in numbers]


def around(rows: pd.DataFrame, reference: float) -> list[float]:
    """Limits that hold all intervals and the line at ``reference``, which at the edge would read as a frame."""
    ends = rows.reindex(columns=["value", "ci_low", "ci_high"]).to_numpy(dtype=float)
    ends = np.append(ends[np.isfinite(ends)], reference)
    room = 0.06 * float(np.ptp(ends)) or 1.0
    return [float(ends.min()) - room, float(ends.max()) + room]


def everywhere(place: dict[str, int], count: int) -> dict[str, list[int]]:
    return {"rows": [place["row"]] * count, "cols": [place["col"]] * count} if place else {}


def first_column(panels: Sequence[tuple[pd.DataFrame, dict[str, int]]]) -> dict[str, int]:
    return {"col": 1} if panels[0][1] else {}


def _named(figure: Any, x: float, text: str, color: str) -> go.Figure:
    # Above the panel, where no curve runs; names close together would cover each other: each goes above the last.
    placed = [float(v) for trace in figure.data if trace.x is not None for v in trace.x if isinstance(v, int | float)]
    near = 0.15 * (max(placed) - min(placed)) if placed else 0.0
    below = sum(1 for a in figure.layout.annotations if a.xref == "x" and abs(a.x - x) <= near)
    place: dict[str, object] = {"x": x, "xref": "x", "y": 1, "yref": "y domain", "xanchor": "left", "yanchor": "bottom"}
    place["yshift"] = 14 * below
    figure.add_annotation(text=html.escape(text), font={"size": 11, "color": color}, showarrow=False, **place)
    room = 70 + 14 * below
    figure.update_layout(margin={"t": max(figure.layout.margin.t or 0, room)})
    return figure


def coloraxis(
    values: object, signed: bool | None, limit: float | None, unit: str, fixed: scales.Scale | None = None
) -> dict[str, Any]:
    """Colours and their bar; ``fixed``: the scale of the quantity itself, whatever the values are.

    Args:
        values: what is coloured.
        signed: True: centred on 0; None: where values have both signs.
        limit: largest size shown, None: that of the values.
        unit: unit beside the bar.
        fixed: the scale of the quantity itself, whatever the values are.
    """
    bar = {"title": {"text": html.escape(fixed.unit or unit if fixed else unit), "side": "right"}, "thickness": 14}
    bar |= {"len": 1, "lenmode": "fraction", "x": 1.01, "xpad": 4}
    if fixed:
        return {"colorscale": scales.UNSIGNED, "cmin": fixed.low, "cmax": fixed.high, "colorbar": bar}
    return {**scales.color_scale(values, signed, limit), "colorbar": bar}


def y_title_of(rows: pd.DataFrame, y: str, unit: str | None) -> str:
    named = axis_name(y)
    if y == "value" and "quantity" in rows and not several(rows, "quantity"):
        named = traces.quantity_name(str(rows["quantity"].iloc[0]))
    unit = unit_of(rows) if unit is None else unit
    return html.escape(named) + (f" ({html.escape(unit)})" if unit else "")


def unit_of(rows: pd.DataFrame) -> str:
    units = [traces.unit_name(u) for u in dict.fromkeys(rows["unit"])] if "unit" in rows else []
    return units[0] if len(units) == 1 else ""


def title_name(column: str) -> str:
    """Name of a column as the title of an axis or a legend; "" where its values say what they are."""
    return "" if column in UNTITLED else axis_name(column)


def legend_title(color: str | None, dash: str | None) -> str:
    return ", ".join(filter(None, (title_name(c) for c in (color, dash) if c)))


def finished(figure: Any, title: str, *, legend: str = "", note: str = "") -> go.Figure:
    titles = [t for t in (html.escape(title), figure.layout.meta) if t]
    named = {"title": {"text": " · ".join(titles)}, "legend": {"title": {"text": html.escape(legend)}}}
    figure.update_layout(template=TEMPLATE, **named)
    if figure.layout.height is None:
        figure.update_layout(height=HEIGHT)
    if note:
        place = {"x": 1, "y": 1, "yshift": 18, "xref": "paper", "yref": "paper", "xanchor": "right"}
        figure.add_annotation(text=note, showarrow=False, font={"size": 11, "color": NEUTRAL}, **place)
    return figure
