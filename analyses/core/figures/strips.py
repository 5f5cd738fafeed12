"""A text as coloured tokens."""

# pandas and plotly carry partial types; everything else of strict mode applies.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from analyses.core.figures.layout import TOKENS_PER_ROW, coloraxis, empty, finished
from analyses.core.figures.traces import number
from probe.token_text import visible

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

EQUAL_CONTRAST = 0.179  # luminance at which black and white contrast alike: (L + .05)^2 = 1.05 x .05


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
    figure: Figure = go.Figure()
    filled = {"z": _grid(numbers, shape, np.nan)}
    filled |= {"text": _grid(shown, shape, ""), "customdata": _grid(told, shape, "")}
    look = {"hovertemplate": "%{customdata}<extra></extra>", "xgap": 2, "ygap": 4}
    figure.add_heatmap(**filled, **look, coloraxis="coloraxis", hoverongaps=False)
    scale = coloraxis(numbers, signed, limit, unit)
    gaps = np.flatnonzero(np.isnan(numbers))
    for i in map(int, gaps):  # in the colour of the page's text
        figure.add_annotation(x=i % columns, y=i // columns, text=shown[i], showarrow=False, opacity=0.7)
    inks = _inks(numbers, scale)
    for ink in dict.fromkeys(inks.values()):
        of = [i for i, own in inks.items() if own == ink]
        places = {"x": [i % columns for i in of], "y": [i // columns for i in of], "text": [shown[i] for i in of]}
        font = {"color": ink, "size": 12}
        figure.add_scatter(**places, mode="text", textfont=font, hoverinfo="skip", showlegend=False)
    # Below the text: beside a single row of tokens a colour bar has no room for its numbers.
    scale["colorbar"] |= {"orientation": "h", "len": 0.4, "x": 0, "xanchor": "left", "y": 0, "yanchor": "top"}
    scale["colorbar"]["title"]["side"] = "top"
    figure.update_layout(coloraxis=scale, height=160 + 34 * shape[0], margin={"b": 80})
    figure.update_xaxes(visible=False, range=[-0.5, columns - 0.5])
    figure.update_yaxes(visible=False, range=[shape[0] - 0.5, -0.5])
    return finished(figure, title, note="no colour: not measured" if len(gaps) else "")


def _inks(numbers: np.ndarray, scale: dict[str, Any]) -> dict[int, str]:
    """Black or white for each measured token, whichever its cell's colour contrasts with more (WCAG 2.1)."""
    low, high = scale["cmin"], scale["cmax"]
    measured = np.flatnonzero(~np.isnan(numbers))
    places = np.clip((numbers[measured] - low) / (high - low), 0, 1)
    cells = np.array(sample_colorscale(scale["colorscale"], list(places), colortype="tuple")).reshape(-1, 3)
    linear = np.where(cells <= 0.03928, cells / 12.92, ((cells + 0.055) / 1.055) ** 2.4)
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    return {int(i): "#000000" if v > EQUAL_CONTRAST else "#ffffff" for i, v in zip(measured, luminance, strict=True)}


def _about_token(place: int, text: str, value: float, unit: str) -> str:
    return f"{place}: “{html.escape(visible(text, 200))}”<br>{number(value)} {html.escape(unit)}"


def _grid(values: Any, shape: tuple[int, int], fill: Any) -> np.ndarray:
    flat = np.full(shape[0] * shape[1], fill, dtype=object if isinstance(fill, str) else float)
    flat[: len(values)] = values
    return flat.reshape(shape)
