"""Names at the ends of lines in place of a legend, moved apart where ends lie close together."""

# pandas and plotly carry partial types; everything else of strict mode applies.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from numbers import Real
from typing import Any

import plotly.graph_objects as go

LINE = 15  # pixels from one name to the next
LONGEST = 15  # characters of a name; the whole one is told on hover
LETTER = 6.6  # pixels, of 12 px text


def named_ends(figure: go.Figure, height: int) -> go.Figure:
    """``figure`` of one panel with each line's name at its last point, in order, and without a legend.

    Names are in the colour of the text, which can be read on any page; a mark in the line's colour stands before each.

    Args:
        figure: curves in one panel, its margins and height set.
        height: of the panel itself, in pixels.
    """
    of: Any = figure
    lines = [t for t in of.data if t.name and t.showlegend is not False and t.mode and "lines" in t.mode]
    ends = [(t, *last) for t in lines if (last := _last(t.x, t.y))]
    low, high = _range(of)
    wanted = [(high - y) / (high - low) * height if high > low else height / 2 for _, _, y in ends]
    names = shortened([str(t.name) for t, _, _ in ends])
    for (trace, x, y), pixel, moved in zip(ends, wanted, apart(wanted, LINE, height), strict=True):
        name = str(trace.name)
        shown = names[name]
        place = {"x": x, "y": y, "xanchor": "left", "xshift": 6, "yshift": pixel - moved, "showarrow": False}
        mark = f'<span style="color:{trace.line.color}">●</span> '
        of.add_annotation(text=mark + shown, hovertext=name, font={"size": 12}, align="left", **place)
    longest = max(map(len, names.values()), default=0)
    # A range of its own: a name beside the panel would otherwise widen the axis until it lies inside.
    xs = [float(x) for t in lines for x in t.x if isinstance(x, Real) and math.isfinite(x)]
    if xs and (room := 0.03 * (max(xs) - min(xs))):
        of.update_xaxes(range=[min(xs) - room, max(xs) + room])
    of.update_layout(showlegend=False, margin={"r": round(22 + LETTER * (longest + 2)) if lines else 16})
    return of


def shortened(names: Sequence[str]) -> dict[str, str]:
    """Name -> at most `LONGEST` characters of it, the end where that tells them apart, since runs differ at their ends.

    Names that neither their ends nor their beginnings tell apart stay whole.
    """
    long = {n: n for n in names}
    for cut in (lambda n: f"…{n[1 - LONGEST :]}", lambda n: f"{n[: LONGEST - 1]}…"):
        short = {n: n if len(n) <= LONGEST else cut(n) for n in names}
        if len(set(short.values())) == len(short):
            return short
    return long


def apart(places: Sequence[float], least: float, room: float) -> list[float]:
    """The places with at least ``least`` between any two, moved as little as a pass down and one up can."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    for before, here in pairwise(order):
        moved[here] = max(moved[here], moved[before] + least)
    below = max(room, least * (len(places) - 1))
    for here in reversed(order):
        moved[here] = min(moved[here], below)
        below = moved[here] - least
    return moved


def _last(xs: Any, ys: Any) -> tuple[Any, float] | None:
    found = [(x, float(y)) for x, y in zip(xs, ys, strict=True) if y is not None and math.isfinite(float(y))]
    return found[-1] if found else None


def _range(figure: Any) -> tuple[float, float]:
    """The vertical range that is set, else the one that holds every line and band."""
    if figure.layout.yaxis.range:
        return float(figure.layout.yaxis.range[0]), float(figure.layout.yaxis.range[1])
    ys = [float(y) for t in figure.data if t.y is not None for y in t.y if y is not None and math.isfinite(float(y))]
    return (min(ys), max(ys)) if ys else (0.0, 1.0)
