"""Tables, maps and lines as HTML that a notebook shows as it is: no script, no file from elsewhere, light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

_CELL = "padding:1px 5px;text-align:left;white-space:pre;font-family:monospace;font-size:12px"


def table(rows: Iterable[Sequence[object]], head: Sequence[str], caption: str = "") -> str:
    """Rows of plain text under a head.

    Args:
        rows: cells of each row, escaped here.
        head: names of the columns.
        caption: text above it, "" for none.
    """
    top = "".join(f"<th style='{_CELL}'>{escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td style='{_CELL}'>{escape(str(value))}</td>" for value in row) + "</tr>" for row in rows
    )
    return f"{_caption(caption)}<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


LEAST = 0.02  # weights below are left out of a map


def attention_map(
    pattern: Sequence[Sequence[float]], side: int, hover: Callable[[int, int, float], str] | None = None, css: str = ""
) -> str:
    """One head's weights [query][key] as a picture: queries downwards, keys to the right, opaque where it looks.

    Args:
        pattern: each row a distribution over keys.
        side: pixels.
        hover: what is said of (query, key, weight).
        css: colours; by default those of the page around it.
    """
    cells = "".join(
        f'<rect x="{k}" y="{q}" width="1" height="1" opacity="{w:.2f}">{_title(hover, q, k, w)}</rect>'
        for q, row in enumerate(pattern)
        for k, w in enumerate(row)
        if w >= LEAST
    )
    size = max(len(pattern), 1)
    frame = f'width="{side}" height="{side}" viewBox="0 0 {size} {size}" style="{css}" aria-hidden="true"'
    return f"<svg {frame}>{cells}</svg>"


def _title(hover: Callable[[int, int, float], str] | None, query: int, key: int, weight: float) -> str:
    return "" if hover is None else f"<title>{escape(hover(query, key, weight))}</title>"


def _caption(text: str) -> str:
    return f"<div><b>{escape(text)}</b></div>" if text else ""


def table_of_html(rows: Iterable[Sequence[str]], head: Sequence[str], caption: str = "") -> str:
    """Rows of cells that are HTML already, text wrapped and aligned to the left.

    Args:
        rows: cells of each row, which are HTML already.
        head: names of the columns.
        caption: text above it, "" for none.
    """
    style = "text-align:left;vertical-align:top;white-space:pre-wrap;padding:2px 8px"
    top = "".join(f"<th style='{style}'>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td style='{style}'>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"{_caption(caption)}<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


_WIDTH, _HEIGHT, _EDGE = 380, 170, 34
_HUES = ("rgb(31,119,180)", "rgb(127,127,127)", "rgb(188,143,34)", "rgb(148,103,189)")
_DASHES = ("", "4 3", "1 3", "7 3")


def lines(series: Mapping[str, Sequence[tuple[float, float]]], x_name: str, y_name: str) -> str:
    """A small line picture: one line a name, told apart by colour and dash; points say their values.

    Args:
        series: name -> points (x, y) of its line; what is not finite is left out.
        x_name: name of the horizontal axis.
        y_name: name of the vertical axis.
    """
    points = [p for line in series.values() for p in line if all(map(math.isfinite, p))]
    if not points:
        return ""
    (left, right), (low, high) = ((min(v), max(v)) for v in zip(*points, strict=True))
    wide, tall = (right - left) or 1.0, (high - low) or 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        across = _EDGE + (x - left) / wide * (_WIDTH - 2 * _EDGE)
        return across, _HEIGHT - _EDGE - (y - low) / tall * (_HEIGHT - 2 * _EDGE)

    drawn = "".join(_line(n, name, line, at) for n, (name, line) in enumerate(series.items()))
    ends = (
        f"<text x='{_EDGE}' y='{_HEIGHT - 14}'>{left:g}</text>"
        f"<text x='{_WIDTH - _EDGE}' y='{_HEIGHT - 14}' text-anchor='end'>{right:g} {escape(x_name)}</text>"
        f"<text x='2' y='{_HEIGHT - _EDGE}'>{low:.2g}</text>"
        f"<text x='2' y='{_EDGE - 4}'>{high:.2g} {escape(y_name)}</text>"
    )
    return f"<svg width='{_WIDTH}' height='{_HEIGHT}' font-size='11' fill='currentColor'>{ends}{drawn}</svg>"


def _line(
    n: int, name: str, line: Sequence[tuple[float, float]], at: Callable[[float, float], tuple[float, float]]
) -> str:
    hue, dash = _HUES[n % len(_HUES)], _DASHES[n % len(_DASHES)]
    places = [(*at(*p), p) for p in line if all(map(math.isfinite, p))]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
    dots = "".join(
        f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='{hue}'>"
        f"<title>{escape(name)} at {p[0]:g}: {p[1]:.4g}</title></circle>"
        for x, y, p in places
    )
    key = f"<text x='{_EDGE + 90 * n}' y='{_HEIGHT - 2}' fill='{hue}'>{escape(name)}</text>"
    return f"<polyline points='{path}' fill='none' stroke='{hue}' stroke-dasharray='{dash}'/>{dots}{key}"
