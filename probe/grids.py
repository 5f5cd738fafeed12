"""A grid of coloured cells as markup, the same in a notebook and on the dashboard; no script, light and dark.

The style sheet takes its colours from the dashboard's theme, else from the notebook's, else dark on white.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

CSS = """
.probe{--ink:var(--st-text-color,var(--jp-content-font-color1,#1a1a1a));
 --page:var(--st-background-color,var(--jp-layout-color0,#fff));
 --quiet:color-mix(in srgb,var(--ink) 80%,var(--page));--line:color-mix(in srgb,var(--ink) 18%,var(--page));
 --wash:color-mix(in srgb,var(--ink) 5%,var(--page));--accent:var(--st-primary-color,#0072B2);
 --mono:var(--st-code-font,ui-monospace,Menlo,Consolas,monospace);
 color:var(--ink);background:var(--page);font:14px/1.4 var(--st-font,system-ui,-apple-system,"Segoe UI",sans-serif);
 box-sizing:border-box}
.probe *{box-sizing:border-box}
.probe .quiet{color:var(--quiet)}
.probe .legend{margin:3px 0 0;font-size:12px}
.grid{overflow:auto;max-height:660px;border:1px solid var(--line);border-radius:4px}
.grid table{border-collapse:separate;border-spacing:1px;font:11px/1.2 var(--mono)}
.grid th{position:sticky;background:var(--page);font-weight:500;z-index:1}
.grid th[scope=row]{left:0;padding:0 6px;text-align:right;color:var(--quiet)}
.grid tfoot th{bottom:0;padding:2px 1px}
.grid tfoot span{display:inline-block;max-width:64px;overflow:hidden;text-overflow:ellipsis;white-space:pre}
.grid td{min-width:46px;max-width:64px;height:19px;padding:0 3px;overflow:hidden;white-space:pre;text-align:center;
 color:var(--ink);background:color-mix(in srgb,var(--hue) calc(var(--p)*62%),var(--page))}
.grid .pos{--hue:#3b8fd0}.grid .neg{--hue:#d9642a}.grid .now{outline:2px solid var(--ink);outline-offset:-2px}
.grid .gap{background:repeating-linear-gradient(45deg,var(--wash) 0 3px,var(--page) 3px 6px)}
"""


@dataclass(frozen=True)
class Cell:
    """One cell: what is written in it, its share of the scale, -1 (red) over 0 to 1 (blue), and what is said of it.

    A share of NaN was not measured: a hatched cell without a text.
    """

    shown: str = ""
    share: float = math.nan
    told: str = ""


@dataclass(frozen=True)
class Row:
    """A named row of cells; `picks`: the word that a click on each sends, where something listens."""

    name: str
    cells: Sequence[Cell]
    picks: Sequence[str] = ()


def grid(rows: Sequence[Row], columns: Sequence[str], legend: str, picked: str = "") -> str:
    """Rows from the top, the names of the columns below them, and what the colour means.

    Args:
        rows: each as long as `columns`. With `picks`, what is told of a cell is left to the page that listens;
            without, the browser shows it over the cell.
        columns: their names.
        legend: what the colour means.
        picked: the pick of the cell that is outlined, "" for none.
    """
    head = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in columns)
    return (
        f'<div class="grid" data-keep="grid" tabindex="0"><table><tbody>{"".join(_tr(r, picked) for r in rows)}</tbody>'
        f'<tfoot><tr><th scope="row"></th>{head}</tr></tfoot></table></div>'
        f'<p class="legend quiet">{escape(legend)}</p>'
    )


def alone(rows: Sequence[Row], columns: Sequence[str], legend: str) -> str:
    """The same grid with its style sheet, as a notebook shows it."""
    return f'<style>{CSS}</style><div class="probe" role="group" aria-label="Grid">{grid(rows, columns, legend)}</div>'


def _tr(row: Row, picked: str) -> str:
    picks = row.picks or [""] * len(row.cells)
    pairs = zip(row.cells, picks, strict=True)
    cells = "".join(_td(cell, pick, is_picked=pick == picked != "") for cell, pick in pairs)
    return f'<tr><th scope="row">{escape(row.name)}</th>{cells}</tr>'


def _td(cell: Cell, pick: str, *, is_picked: bool) -> str:
    if math.isnan(cell.share):
        return '<td class="gap"></td>'
    tip = "data-tip" if pick else "title"
    sent = f' data-pick="{escape(pick)}"' if pick else ""
    return (
        f'<td class="{"neg" if cell.share < 0 else "pos"}{" now" if is_picked else ""}" '
        f'style="--p:{min(1.0, abs(cell.share)):.3f}" {tip}="{escape(cell.told)}"{sent}>{escape(cell.shown)}</td>'
    )
