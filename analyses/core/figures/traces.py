"""What figures are made of, as plain dicts: text, numbers, colours, lines with bands, cells, dots.

Kept apart from ``figures`` so that choosing axes and drawing marks can be read, and tested, one at a time.
Every text that may come from a model or a data file is escaped here.
"""

# pandas and plotly carry partial types; everything else of strict mode applies.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false, reportMissingTypeStubs=false

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from analyses.core.figures.scales import Scale
from analyses.core.result import COMPANIONS

# Okabe and Ito's colours (told apart by colour-blind readers), the yellow left out: it vanishes on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A6E2F", "#7F7F7F")
RAMP = ("#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39")  # viridis without its ends
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")
NAMES = {"step": "optimizer step", "pos": "token position", "k": "k (samples or top tokens)"}
QUANTITIES = {
    "ppl": "perplexity",
    "log_ppl": "ln perplexity",
    "nll_nats": "negative log-likelihood",
    "logprob_nats": "log-probability",
    "jsd_nats": "Jensen-Shannon divergence",
    "kl_nats": "Kullback-Leibler divergence",
    "top1": "share of tokens ranked first",
    "om_index": "over-memorization index",
    "recovery": "recovery (share of the gap)",
}
VALUES = {
    "answer": "answer tokens",
    "prompt": "prompt tokens",
    "full": "all tokens",
    "macro": "mean over items",
    "micro": "mean over tokens",
    "gold_final": "final answer as labelled",
    "gold_rationale": "rationale as labelled",
    "mlp_out": "MLP output",
    "attn_out": "attention output",
    "mlp_post": "MLP neurons",
    "resid_post": "residual stream",
    "tuned_to_base": "tuned into base",
    "base_to_tuned": "base into tuned",
}
Trace = dict[str, Any]


def lines(
    part: pd.DataFrame, whole: pd.DataFrame, color: str | None, dash: str | None
) -> Iterator[tuple[str, pd.DataFrame, dict[str, str]]]:
    """(name, rows, style) of each line; a value keeps its colour in every panel.

    Args:
        part: rows of one panel.
        whole: rows of all panels.
        color: column told apart by colour, None for none.
        dash: column told apart by dash, None for none.
    """
    order = axis_values(whole[color]) if color else []
    hues, dashes = numbered(order), numbered(whole[dash] if dash else [])
    ordered = len(order) > 3 and color is not None and is_numeric(whole[color])
    by = [c for c in dict.fromkeys((color, dash)) if c]
    groups: Any = part.groupby(by, sort=ordered, dropna=False) if by else [((), part)]
    for values, line in groups:
        named: dict[str, object] = dict(zip(by, values, strict=True))
        hue, style = hues.get(named.get(color or ""), 0), dashes.get(named.get(dash or ""), 0)
        look = {
            "color": ramp(hue / (len(order) - 1)) if ordered else PALETTE[hue % len(PALETTE)],
            "dash": DASHES[style % len(DASHES)],
            "symbol": SYMBOLS[(hue if dash is None else style) % len(SYMBOLS)],
        }
        yield ", ".join(as_text(v) for v in values), line, look


def numbered(values: Iterable[object]) -> dict[Any, int]:
    """Place of each value among the distinct ones, in the order they come."""
    return {v: i for i, v in enumerate(dict.fromkeys(values))}


def ramp(share: float) -> str:
    """Colour at ``share`` of the way from dark to light: for values that have an order, such as steps."""
    place = share * (len(RAMP) - 1)
    low = min(int(place), len(RAMP) - 2)
    ends = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in RAMP[low : low + 2]]
    mixed = [round(a + (b - a) * (place - low)) for a, b in zip(*ends, strict=True)]
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def banded(count: int, *, is_ramp: bool) -> set[int]:
    """Which of a panel's lines have a band: up to three all of them; of steps in a ramp the first and the last."""
    if is_ramp and count > 2:
        return {0, count - 1}
    return set(range(count)) if count <= 3 else set()


def line_traces(
    line: pd.DataFrame, x: str, y: str, name: str, style: dict[str, str], legend: bool, has_band: bool = True
) -> list[Trace]:
    """A line with its band; where ``x`` is a category, dots with error bars.

    Args:
        line: rows of one line.
        x: column of the horizontal axis.
        y: column of the vertical axis.
        name: its name in the legend.
        style: its colour, dash and symbol.
        legend: True where the legend names it.
        has_band: draw the interval, where there is one.
    """
    spread = y == "value" and "ci_low" in line and bool(line["ci_low"].notna().any())
    ordered = is_numeric(line[x])
    main: Trace = {
        "type": "scatter",
        "x": line[x],
        "y": line[y],
        "name": name,
        "mode": ("lines+markers" if len(line) <= 40 else "lines") if ordered else "markers",
        "line": {"color": style["color"], "dash": style["dash"], "width": 2},
        "marker": {"size": 6, "symbol": style["symbol"], "color": style["color"]},
        "legendgroup": name,
        "showlegend": legend,
        "customdata": told(line, y),
        "hovertemplate": f"{html.escape(axis_name(x))} %{{x}}<br>%{{customdata}}<extra>{name}</extra>",
    }
    if not spread:
        return [main]
    if not ordered:
        return [{**main, "error_y": error_bars(line)}]
    if not has_band:
        return [main]
    return [band(line, x, style["color"], name), {**main, **_alone(line)}]


def _alone(line: pd.DataFrame) -> Trace:
    """Bars for points with an interval between points without one: of a single point a band shows nothing."""
    has = (line["ci_low"].notna() & line["ci_high"].notna()).to_numpy()
    beside = np.append(has[1:], False) | np.append(False, has[:-1])
    if not (has & ~beside).any():
        return {}
    bars = error_bars(line)
    return {"error_y": {**bars, **{k: bars[k].where(has & ~beside) for k in ("array", "arrayminus")}}}


def band(line: pd.DataFrame, x: str, color: str, name: str) -> Trace:
    """The interval as one polygon per run of measured points, so that a gap stays a gap."""
    measured = line["ci_low"].notna() & line["ci_high"].notna()
    xs: list[object] = []
    ys: list[object] = []
    for _, run in line[measured].groupby((~measured).cumsum()[measured]):
        if xs:
            xs.append(None)
            ys.append(None)
        xs += [*run[x], *run[x][::-1]]
        ys += [*run["ci_high"], *run["ci_low"][::-1]]
    return {
        "type": "scatter",
        "x": xs,
        "y": ys,
        "fill": "toself",
        "fillcolor": faint(color),
        "line": {"width": 0},
        "mode": "lines",
        "name": name,
        "legendgroup": name,
        "showlegend": False,
        "hoverinfo": "skip",
    }


def cells(part: pd.DataFrame, x: str, y: str, z: str, scale: Scale | None = None) -> Trace:
    """A heatmap of ``z``, coloured on ``scale`` if given; a cell without a row is NaN and says so on hover.

    Args:
        part: rows of one panel, one a cell.
        x: column of the horizontal axis.
        y: column of the vertical axis.
        z: column that is coloured.
        scale: the quantity's own scale, None for its values as they are.
    """
    xs, ys = axis_values(part[x]), axis_values(part[y])
    at = pd.Index(ys).get_indexer(pd.Index(part[y])), pd.Index(xs).get_indexer(pd.Index(part[x]))
    grid = np.full((len(ys), len(xs)), np.nan)
    values = part[z].to_numpy(dtype=float)
    grid[at] = scale.of(values) if scale else values
    hover = np.full(grid.shape, "not measured", dtype=object)
    hover[at] = told(part, z)
    place = f"{html.escape(axis_name(x))} %{{x}}, {html.escape(axis_name(y))} %{{y}}"
    return {
        "type": "heatmap",
        "x": [as_text(v) for v in xs] if cell_axis(part[x]) == "category" else xs,
        "y": [as_text(v) for v in ys] if cell_axis(part[y]) == "category" else ys,
        "z": grid,
        "customdata": hover,
        "hovertemplate": f"{place}<br>%{{customdata}}<extra></extra>",
        "coloraxis": "coloraxis",
        "hoverongaps": True,
    }


def dots(
    rows: pd.DataFrame, label: str, labels: list[str], offset: float, name: str, style: dict[str, str], legend: bool
) -> Trace:
    """Dots with horizontal intervals at the places of their labels.

    Args:
        rows: one row a dot, with `value` and its interval.
        label: column of the places on the vertical axis.
        labels: all places, from below.
        offset: how far above its place a dot lies, in places.
        name: its name in the legend.
        style: its colour, dash and symbol.
        legend: True where the legend names it.
    """
    return {
        "type": "scatter",
        "x": rows["value"],
        "y": [labels.index(as_text(v)) + offset for v in rows[label]],
        "mode": "markers",
        "name": name,
        "marker": {"size": 9, "symbol": style["symbol"], "color": style["color"]},
        "error_x": error_bars(rows) if "ci_low" in rows else None,
        "showlegend": legend,
        "legendgroup": name,
        "text": [as_text(v) for v in rows[label]],
        "customdata": told(rows, "value"),
        "hovertemplate": f"%{{text}}<br>%{{customdata}}<extra>{name}</extra>",
    }


def error_bars(rows: pd.DataFrame) -> Trace:
    """Asymmetric bars from the intervals."""
    plus, minus = rows["ci_high"] - rows["value"], rows["value"] - rows["ci_low"]
    return {"type": "data", "symmetric": False, "array": plus, "arrayminus": minus, "thickness": 1.4, "width": 4}


def told(rows: pd.DataFrame, column: str) -> list[str]:
    """What a reader is told about each value: number, unit, interval, n."""
    units = rows["unit"] if "unit" in rows else pd.Series("", index=rows.index)
    values = [f"{number(v)} {html.escape(unit_name(u))}".strip() for v, u in zip(rows[column], units, strict=True)]
    if column != "value" or not set(COMPANIONS) <= set(rows.columns):
        return values
    spread = zip(values, rows["ci_low"], rows["ci_high"], rows["n"], strict=True)
    return [v + _interval(low, high, n) for v, low, high, n in spread]


def _interval(low: Any, high: Any, n: Any) -> str:
    count = f"<br>n = {n:.0f}" if pd.notna(n) else ""
    return f"<br>95 % interval {number(low)} to {number(high)}{count}" if pd.notna(low) else f"<br>no interval{count}"


def unit_name(unit: Any) -> str:
    """A unit as it is written beside a number; "1" (no unit) is left out."""
    return "" if pd.isna(unit) or str(unit) == "1" else str(unit)


def axis_name(column: str) -> str:
    """Name of a column as it stands on an axis."""
    return NAMES.get(column, column.replace("_", " "))


def quantity_name(quantity: str) -> str:
    """Name of a quantity for people; its unit, where the key ends in it, is said beside it anyway."""
    return QUANTITIES.get(quantity, quantity.removesuffix("_nats").replace("_", " "))


def value_name(value: object) -> str:
    """A category for people: plain words for the vocabulary's own values, others as they are."""
    return VALUES.get(str(value), plain(value))


def axis_values(values: Any) -> list[Any]:
    """Distinct values in order: numbers sorted, categories as they come."""
    found = list(dict.fromkeys(values))
    return sorted(found) if is_numeric(values) else found


def is_numeric(values: Any) -> bool:
    """True for numbers; truth values are categories."""
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def are_integers(values: Any) -> bool:
    """True for whole numbers."""
    return is_numeric(values) and bool((values.dropna() % 1 == 0).all())


def cell_axis(values: Any) -> str:
    """Categories, so that cells have one size, except for long runs of numbers."""
    return "linear" if is_numeric(values) and values.nunique() > 40 else "category"


def number(value: Any) -> str:
    """Four digits; NaN is said in words."""
    return "not measured" if pd.isna(value) else f"{float(value):.4g}"


def plain(value: object) -> str:
    """A value as text; whole numbers without a decimal point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def as_text(value: object) -> str:
    """A value as escaped text."""
    return html.escape(plain(value))


def faint(color: str) -> str:
    """``color`` (#rrggbb) as it fills a band."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.16)"
