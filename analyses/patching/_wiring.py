"""A graph of parts that write and parts that read, drawn from the embedding upwards; layers are rows."""

# pandas and plotly carry partial types; everything else of strict mode applies.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analyses.core.figures import crowds
from analyses.core.figures.layout import HEIGHT, NEUTRAL, everywhere, finished, first_column, panels_of
from analyses.core.figures.traces import as_text

MOST = 40  # edges
SHARES = (0.15, 0.5, 1.0)  # of the largest edge: upper ends of thin, medium and thick lines
WIDTHS = (1.0, 2.5, 5.0)
COLORS = {"for": "rgb(33,102,172)", "against": "rgb(178,24,43)"}
ENDS = ("embed", "final")
ROW = 30  # pixels of a layer, at least
BOW = 0.4  # columns: how far an edge between two parts of one column leaves it


@dataclass(frozen=True)
class Places:
    """Where parts stand: heads in columns, MLPs right of them and half a row up, the ends in the middle.

    Attributes:
        heads: columns of heads.
        last: the last layer.
    """

    heads: int
    last: int

    @staticmethod
    def of(names: pd.Series) -> Places:
        """Places that hold all of these parts."""
        heads = names.str.extract(r"^(?:head|q|k|v)\.\d+\.(\d+)$")[0].dropna().astype(int)
        layers = names.str.extract(r"\.(\d+)")[0].dropna().astype(int)
        return Places(int(heads.max()) + 1 if len(heads) else 1, int(layers.max()) if len(layers) else 0)

    def spot(self, name: str) -> tuple[float, float]:
        """Column and row of a part."""
        if name in ENDS:
            return self.heads / 2, -1.0 if name == ENDS[0] else self.last + 1.0
        kind, layer, *head = name.split(".")
        return (float(self.heads), int(layer) + 0.5) if kind == "mlp" else (float(head[0]), float(layer))

    def line(self, sender: str, receiver: str) -> tuple[list[float | None], list[float | None]]:
        """A straight line and a gap; within a column a bow, so that it does not run over the parts between."""
        (x0, y0), (x1, y1) = self.spot(sender), self.spot(receiver)
        share = np.linspace(0, 1, 2 if x0 != x1 else 13)
        bow = BOW * min(abs(y1 - y0) - 1, 4) / 4 if x0 == x1 else 0.0
        x = x0 + (x1 - x0) * share - 4 * bow * share * (1 - share)
        return [*map(float, x), None], [*map(float, y0 + (y1 - y0) * share), None]


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
    places = Places.of(pd.concat([rows["sender"], rows["receiver"]]).astype(str))
    title = f"{title} (at most {MOST} edges)"

    def draw(part: pd.DataFrame) -> go.Figure:
        figure, panels = panels_of(part, facet)
        for number, (panel, place) in enumerate(panels):
            drawn = [*_lines(panel, places, most, unit), *_key(shown=number == 0), _nodes(rows, places)]
            figure.add_traces(drawn, **everywhere(place, len(drawn)))
        figure.update_xaxes(visible=False, range=[-0.5, places.heads + 0.9])
        ticks = list(range(0, places.last + 1, 1 + places.last // 14))
        figure.update_yaxes(showgrid=False, tickvals=ticks, range=[-1.8, places.last + 1.8])
        figure.update_yaxes(title_text="layer", **first_column(panels))
        figure.update_layout(height=max(figure.layout.height or HEIGHT, 150 + ROW * (places.last + 3)))
        return finished(figure, title)

    if "step" in rows and rows["step"].nunique() > 1:
        return crowds.sliding(rows, ["step"], [facet] if facet else [], "value", draw)
    return draw(rows)


def _lines(rows: pd.DataFrame, places: Places, most: float, unit: str) -> list[Any]:
    """One trace for each sign and thickness, its lines set apart by gaps."""
    share = rows["value"].abs() / most if most else rows["value"].abs()
    thick = np.digitize(share, SHARES[:-1])
    found: list[Any] = []
    for name, color in COLORS.items():
        is_for = rows["value"] > 0 if name == "for" else rows["value"] < 0
        for n, width in enumerate(WIDTHS):
            own = rows[is_for & (thick == n)]
            x, y, told = list[float | None](), list[float | None](), list[str]()
            for sender, receiver, value in zip(own["sender"], own["receiver"], own["value"], strict=True):
                along, up = places.line(str(sender), str(receiver))
                x += along
                y += up
                told += [html.escape(f"{sender} to {receiver}: {as_text(value)} {unit}")] * len(along)
            look = {"mode": "lines", "line": {"color": color, "width": width}, "opacity": 0.75, "showlegend": False}
            hover = {"customdata": told, "hovertemplate": "%{customdata}<extra></extra>"}
            label = f"{name}, {('small', 'medium', 'large')[n]}"  # a slider tells traces by their names
            found.append(go.Scatter(x=x, y=y, name=label, **look, **hover))
    return found


def _key(*, shown: bool) -> list[Any]:
    """What the colours mean, also where no edge of a colour is drawn."""
    look: dict[str, Any] = {"x": [None], "y": [None], "mode": "lines", "hoverinfo": "skip", "showlegend": shown}
    return [
        go.Scatter(name=f"{name} the answer", line={"color": color, "width": WIDTHS[1]}, **look)
        for name, color in COLORS.items()
    ]


def _nodes(rows: pd.DataFrame, places: Places) -> Any:
    """The parts at the ends of all edges drawn at any step, with their names."""
    names = list(dict.fromkeys(pd.concat([rows["sender"], rows["receiver"]]).astype(str)))
    texts = {places.spot(name): name for name in names}  # a head's output and its inputs share a spot
    labels = [n if n in ENDS or n.startswith("mlp") else n.partition(".")[2] for n in texts.values()]
    beside = {ENDS[0]: "bottom center", ENDS[1]: "top center", "mlp": "middle right"}
    at = [beside.get(name.partition(".")[0], "middle center") for name in texts.values()]
    x, y = zip(*texts, strict=True) if texts else ((), ())
    marker = {"size": 20, "color": "white", "line": {"color": NEUTRAL, "width": 1}}
    look: dict[str, Any] = {"mode": "markers+text", "text": labels, "textposition": at, "textfont": {"size": 10}}
    return go.Scatter(x=x, y=y, name="parts", showlegend=False, hoverinfo="skip", marker=marker, **look)
