"""The list of runs as markup: swatch, eye, name, a small curve, the verdict's tone; without a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from apps.drawn.look import SIGNS, markup, text

WIDE, HIGH = 46, 14  # of a small curve, in pixels
ONLY, TOGGLE = "only", "toggle"
BREAK = "\n"  # between a word and a run's name, which holds none


@dataclass(frozen=True)
class Row:
    """A run as the list shows it.

    Attributes:
        name: of the run.
        color: of its curves.
        is_shown: whether it is among those chosen.
        values: of its small curve, in order; NaN where nothing was measured.
        tone: of its verdict.
        told: what the small curve is, and its last value.
        group: what it is read as with others; "" where it stands for itself.
    """

    name: str
    color: str
    is_shown: bool
    values: tuple[float, ...]
    tone: str
    told: str
    group: str = ""


def runs(rows: Sequence[Row]) -> str:
    """All rows as markup; a click on a name shows that run alone, one on its eye adds or removes it.

    Rows of one group follow each other under its name.
    """
    found: list[str] = []
    for group, own in groupby(rows, key=lambda row: row.group):
        found += [f'<div class="quiet together">{text(group)}</div>'] if group else []
        found += map(_row, own)
    return markup(f'<div class="runs">{"".join(found)}</div>', "Training runs")


def _row(row: Row) -> str:
    name = text(row.name)
    toggle, only = (text(f"{word}{BREAK}{row.name}") for word in (TOGGLE, ONLY))
    what = "hide" if row.is_shown else "show"
    return (
        f'<div class="run{"" if row.is_shown else " off"}">'
        f'<button class="eye" data-pick="{toggle}" aria-pressed="{str(row.is_shown).lower()}" title="{what} {name}"'
        f' aria-label="{what} {name}"><i style="background:{row.color if row.is_shown else "transparent"};'
        f'border-color:{row.color}"></i></button>'
        f'<button class="name" data-pick="{only}" title="{name}: show it alone">{_short(row.name)}</button>'
        f'<span class="curve" title="{text(row.told)}">{sparkline(row.values, row.color)}</span>'
        f'<span class="dot {row.tone}" title="verdict: {row.tone}" role="img" aria-label="verdict: {row.tone}">'
        f"{SIGNS[row.tone]}</span></div>"
    )


def _short(name: str) -> str:
    """A name whose end stays in sight where there is no room for all of it: runs differ at their ends."""
    return f'<bdi class="cut">{text(name)}</bdi>'


def sparkline(values: Sequence[float], color: str) -> str:
    """Values as a line of a few pixels; a gap where nothing was measured, "" where there are fewer than two."""
    finite = [v for v in values if math.isfinite(v)]
    if len(finite) < 2:
        return ""
    low, high = min(finite), max(finite)
    step = WIDE / (len(values) - 1)
    pieces: list[list[str]] = [[]]
    for place, value in enumerate(values):
        if not math.isfinite(value):
            pieces.append([])
            continue
        y = HIGH / 2 if high == low else 1 + (HIGH - 2) * (high - value) / (high - low)
        pieces[-1].append(f"{place * step:.1f},{y:.1f}")
    lines = "".join(f'<polyline points="{" ".join(p)}"/>' for p in pieces if p)
    return f'<svg width="{WIDE}" height="{HIGH}" aria-hidden="true" style="stroke:{color}">{lines}</svg>'
