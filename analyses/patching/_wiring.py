"""A graph of parts that write and parts that read, drawn from the embedding upwards; layers are rows."""

# pandas and plotly carry partial types; everything else of strict mode applies.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import html
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analyses.core.figures import crowds
from analyses.core.figures.layout import NEUTRAL, everywhere, finished, panels_of
from analyses.core.figures.traces import as_text

MOST = 40  # edges
SHARES = (0.15, 0.5, 1.0)  # of the largest edge: upper ends of thin, medium and thick lines
WIDTHS = (1.0, 2.5, 5.0)
COLORS = {"for": "rgb(33,102,172)", "against": "rgb(178,24,43)"}
ENDS = ("embed", "final")


def wiring(rows: pd.DataFrame, *, facet: str | None = None, title: str = "", unit: str = "") -> go.Figure:
    """The largest edges as lines from sender to receiver, blue for and red against, thicker where larger.

    Args:
        rows: `sender`, `receiver` (`embed`, `head.LAYER.HEAD`, `mlp.LAYER`, `q.LAYER.HEAD`, `final`), `value`; with
            `step`, a slider.
        facet: column with a panel for each of its values.
        title: title.
        unit: of the values, told on hover.
    """
    size = rows.assign(size=rows["value"].abs()).groupby(["sender", "receiver"])["size"].max()
    largest = size.nlargest(MOST)
    rows = rows.set_index(["sender", "receiver"]).loc[list(largest.index)].reset_index()
    most = float(largest.max()) if len(largest) else 0.0
    heads = _heads(rows)
    title = f"{title} (at most {MOST} edges)"

    def draw(part: pd.DataFrame) -> go.Figure:
        figure, panels = panels_of(part, facet)
        for number, (panel, place) in enumerate(panels):
            drawn = [*_lines(panel, heads, most, unit, legend=number == 0), _nodes(rows, heads)]
            figure.add_traces(drawn, **everywhere(place, len(drawn)))
        figure.update_xaxes(visible=False)
        figure.update_yaxes(title_text="layer", showgrid=False, zeroline=False, tickformat="d")
        return finished(figure, title)

    if "step" in rows and rows["step"].nunique() > 1:
        return crowds.sliding(rows, ["step"], [facet] if facet else [], "value", draw)
    return draw(rows)


def _heads(rows: pd.DataFrame) -> int:
    """Columns for heads: one more than the largest number of a head."""
    named = pd.concat([rows["sender"], rows["receiver"]]).astype(str).str.extract(r"^(?:head|q|k|v)\.\d+\.(\d+)$")[0]
    return int(named.dropna().astype(int).max()) + 1 if named.notna().any() else 1


def _place(name: str, heads: int) -> tuple[float, float]:
    """Where a part stands: its head's column, MLPs right of all heads and half a row up, the ends in the middle."""
    kind, *rest = name.split(".")
    if kind == "mlp":
        return float(heads), int(rest[0]) + 0.5
    if len(rest) == 2:
        return float(rest[1]), float(rest[0])
    return heads / 2, np.nan


def _spot(name: str, heads: int, last: float) -> tuple[float, float]:
    x, y = _place(name, heads)
    return (x, -1.0 if name == ENDS[0] else last + 1.0) if name in ENDS else (x, y)


def _last(names: pd.Series) -> float:
    layers = names.astype(str).str.extract(r"\.(\d+)")[0].dropna().astype(int)
    return float(layers.max()) if len(layers) else 0.0


def _lines(rows: pd.DataFrame, heads: int, most: float, unit: str, *, legend: bool) -> list[Any]:
    """One trace for each sign and thickness, its lines set apart by gaps."""
    last = _last(pd.concat([rows["sender"], rows["receiver"]]))
    share = rows["value"].abs() / most if most else rows["value"].abs()
    thick = np.digitize(share, SHARES[:-1])
    found: list[Any] = []
    for name, color in COLORS.items():
        is_for = rows["value"] > 0 if name == "for" else rows["value"] < 0
        for n, width in enumerate(WIDTHS):
            own = rows[is_for & (thick == n)]
            x, y, told = list[float | None](), list[float | None](), list[str]()
            for sender, receiver, value in zip(own["sender"], own["receiver"], own["value"], strict=True):
                start, end = _spot(str(sender), heads, last), _spot(str(receiver), heads, last)
                x += [start[0], end[0], None]
                y += [start[1], end[1], None]
                told += [html.escape(f"{sender} to {receiver}: {as_text(value)} {unit}")] * 3
            look = {"mode": "lines", "line": {"color": color, "width": width}, "opacity": 0.75}
            label = f"{name} the answer" if n == 1 else f"{name}, {('small', '', 'large')[n]}"
            hover = {"customdata": told, "hovertemplate": "%{customdata}<extra></extra>"}
            found.append(go.Scatter(x=x, y=y, name=label, showlegend=legend and n == 1, **look, **hover))
    return found


def _nodes(rows: pd.DataFrame, heads: int) -> Any:
    """The parts at the ends of all edges drawn at any step, with their names."""
    both = pd.concat([rows["sender"], rows["receiver"]]).astype(str)
    last, names = _last(both), list(dict.fromkeys(both))
    spots = [_spot(name, heads, last) for name in names]
    texts = dict(zip(spots, names, strict=True))  # a head's output and its inputs share a spot
    labels = [n if n in ENDS else ".".join(n.split(".")[1:]) if n[0] in "hqkv" else n for n in texts.values()]
    x, y = zip(*texts, strict=True) if texts else ((), ())
    marker = {"size": 16, "color": "white", "line": {"color": NEUTRAL, "width": 1}}
    look: dict[str, Any] = {"mode": "markers+text", "text": labels, "textfont": {"size": 9}, "marker": marker}
    return go.Scatter(x=x, y=y, name="parts", showlegend=False, hoverinfo="skip", **look)
