"""Paths in a plane: points in an order that no axis shows, joined, with their ends told and chosen ones starred."""

# pandas and plotly carry partial types; everything else of strict mode applies.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import html
import textwrap
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from analyses.core.figures import crowds, traces
from analyses.core.figures.layout import (
    NEUTRAL,
    Columns,
    checked,
    empty,
    everywhere,
    exist,
    finished,
    joined,
    legend_title,
    panels_of,
)
from analyses.core.figures.traces import as_text, axis_name

NAME = 28  # letters a line of a star's name in the legend, beside which the paths need room


def paths(
    rows: pd.DataFrame,
    *,
    x: str,
    y: str,
    along: str,
    color: Columns = None,
    dash: Columns = None,
    facet: Columns = None,
    starred: str | None = None,
    star: str = "",
    title: str = "",
    x_title: str | None = None,
    y_title: str | None = None,
) -> go.Figure:
    """Points joined in the order of ``along``, whose first and last value stand at the ends of every path.

    Args:
        rows: one row a point.
        x: column on the horizontal axis.
        y: column on the vertical axis.
        along: the order, for example the state; it is told on hover.
        color: column (or columns) that sets the colour of a path.
        dash: column that sets its dash.
        facet: column (or columns) with one panel per value.
        starred: column of truth values: points that bear a star.
        star: what a star means, for the legend.
        title: title.
        x_title: name of the horizontal axis with its unit.
        y_title: name of the vertical axis with its unit.

    Raises:
        ValueError: a column that does not exist, or rows these columns do not tell apart.
    """
    exist(rows, (x, y, along, starred, *(c for of in (color, dash, facet) for c in crowds.named(of))))
    rows = rows.dropna(subset=[x, y])
    hues, dashes, wide = crowds.dealt(rows, color, dash, facet)
    wide, slides = crowds.slid(rows, wide)
    look: dict[str, Any] = {"x": x, "y": y, "along": along, "starred": starred, "star": star, "title": title}
    look |= {"x_title": x_title, "y_title": y_title, "color": hues or None, "dash": dashes or None}
    if slides:
        return crowds.sliding(rows, slides, wide, y, lambda part: paths(part, facet=wide or None, **look))
    rows, (color, dash, facet) = joined(rows, hues or None, dashes or None, wide or None)
    facet = checked(rows, (along, color, dash, facet), facet, y)
    if rows.empty:
        return empty(title)
    figure, panels = panels_of(rows, facet)
    shown: set[str] = set()
    for part, place in panels:
        drawn = [
            _path(line.sort_values(along), (x, y, along), name, style, bool(name) and name not in shown)
            for name, line, style in traces.lines(part, rows, color, dash)
        ]
        if starred:
            drawn.append(_stars(part[part[starred].astype(bool)], (x, y, along), star, html.escape(star) not in shown))
        figure.add_traces(drawn, **everywhere(place, len(drawn)))
        shown |= {str(t["legendgroup"]) for t in drawn}
    figure.update_xaxes(title_text=html.escape(x_title or axis_name(x)))
    figure.update_yaxes(title_text=html.escape(y_title or axis_name(y)))
    return finished(figure, title, legend=legend_title(color, dash))


def _path(
    line: pd.DataFrame, columns: tuple[str, str, str], name: str, style: dict[str, str], legend: bool
) -> traces.Trace:
    """One path: small points, its ends named by where they stand along it."""
    x, y, along = columns
    ends = ["", *[""] * (len(line) - 2), ""][: len(line)]
    for place in {0, len(line) - 1}:
        ends[place] = as_text(line[along].iloc[place])
    return {
        "type": "scatter",
        "x": line[x],
        "y": line[y],
        "mode": "lines+markers+text",
        "name": name,
        "line": {"color": style["color"], "dash": style["dash"], "width": 2},
        "marker": {"size": 6, "color": style["color"]},
        "text": ends,
        "textposition": "top center",
        "textfont": {"size": 11},
        "cliponaxis": False,
        "legendgroup": name,
        "showlegend": legend,
        "customdata": [as_text(v) for v in line[along]],
        "hovertemplate": f"{html.escape(axis_name(along))} %{{customdata}}<br>%{{x:.4g}}, %{{y:.4g}}"
        f"<extra>{name}</extra>",
    }


def _stars(part: pd.DataFrame, columns: tuple[str, str, str], text: str, legend: bool) -> traces.Trace:
    x, y, along = columns
    return {
        "type": "scatter",
        "x": part[x],
        "y": part[y],
        "mode": "markers",
        "name": "<br>".join(html.escape(line) for line in textwrap.wrap(text, NAME)),
        "cliponaxis": False,
        "marker": {"symbol": "star", "size": 15, "color": NEUTRAL, "line": {"color": "white", "width": 1}},
        "legendgroup": html.escape(text),
        "showlegend": legend and len(part) > 0,
        "customdata": [as_text(v) for v in part[along]],
        "hovertemplate": f"{html.escape(text)}: {html.escape(axis_name(along))} %{{customdata}}<extra></extra>",
    }
