"""Layers by positions of one item: the token on top in each cell, its colour by probability; without a page.

Each column is a token of the item, each row a layer, from the last down to the first. A cell's colour is on the scale
of its quantity, the same for every item and checkpoint; its best tokens at one checkpoint or two are told on hover.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analyses.core.figures import plain, visible
from analyses.core.figures.scales import fixed_scale
from analyses.core.store.contents import rows
from apps.catalog import Entry
from apps.drawn.look import markup
from apps.drawn.strips import TEXTS, decoded, named, texts_of
from probe.grids import Cell, Row
from probe.grids import grid as cells_of

MAX_ROWS = 60_000  # layers x positions of one item, at two checkpoints
BEST, BREAK = 5, "\n"
WANTED = ("layer", "pos", "step", "target", *TEXTS, "top_ids", "top_logprob_nats")
Best = list[tuple[str, float]]  # token, probability


@dataclass(frozen=True)
class Grid:
    """A table of cells: names of columns, names of rows from the top, cells by (row, column)."""

    columns: tuple[str, ...]
    places: tuple[int, ...]
    layers: tuple[int, ...]
    cells: Mapping[tuple[int, int], Cell]
    legend: str
    is_signed: bool


def of_item(
    entry: Entry,
    column: str,
    where: Mapping[str, object],
    *,
    step: int | None = None,
    base: int | None = None,
    difference: bool = False,
) -> Grid | None:
    """The grid of one item; None where nothing was measured at more than one layer.

    Args:
        entry: a result with rows per layer and token.
        column: the value that colours.
        where: item, and what else tells its rows apart.
        step: the checkpoint, for a sweep.
        base: a second checkpoint, told on hover beside the first.
        difference: colour by ``step`` minus ``base``.
    """
    lists = {k: [v] for k, v in where.items() if k != "layer"}
    steps = [s for s in dict.fromkeys((step, base)) if s is not None]
    lists |= {"step": steps} if steps else {}
    found, _ = rows(entry, where=lists, columns=list(dict.fromkeys([*WANTED, column])), limit=MAX_ROWS)
    if found.empty or "layer" not in found or found["layer"].nunique() < 2 or column not in found:
        return None
    found = found.dropna(subset=["layer", "pos"]).sort_values("pos", kind="stable")
    at: dict[int | None, pd.DataFrame] = {s: _at(found, s) for s in (step, base) if s in steps}
    at = at or {None: _at(found, None)}
    if at[step].empty:
        return None
    return _made(entry, found, at, column, (step, base), difference=difference)


def _at(found: pd.DataFrame, step: int | None) -> pd.DataFrame:
    own = found[found["step"] == step] if step is not None else found
    return own.drop_duplicates(["layer", "pos"]).set_index(["layer", "pos"])


def _made(
    entry: Entry,
    found: pd.DataFrame,
    at: Mapping[int | None, pd.DataFrame],
    column: str,
    steps: tuple[int | None, int | None],
    *,
    difference: bool,
) -> Grid:
    now, before = at[steps[0]], at.get(steps[1]) if steps[1] is not None else None
    value, unit, ends = _scaled(found, column)
    share = value(now[column])
    if difference and before is not None:
        share = share - value(before[column]).reindex(share.index)
        ends = (-1.0, 1.0) if ends == (0.0, 1.0) else (-_largest(share), _largest(share))
        unit = f"change of {unit}"
    best = {s: _best(entry, part) for s, part in at.items()}
    high = max(abs(ends[0]), abs(ends[1])) or 1.0
    value_of = dict(zip(now.index.to_list(), now[column].to_list(), strict=True))
    cells = {
        (int(layer), int(pos)): Cell(
            _shown(best[steps[0]].get((layer, pos)), float(value_of[(layer, pos)])),
            float(np.clip(share.get((layer, pos), np.nan) / high, -1, 1)),
            _told(layer, pos, column, at, best, steps),
        )
        for layer, pos in now.index
    }
    columns = found.drop_duplicates("pos")
    texts = [visible(t, 12) for t in texts_of(entry, columns)]
    layers = tuple(sorted((int(v) for v in now.index.unique("layer")), reverse=True))
    legend = f"colour: {unit}, {ends[0]:.3g} to {ends[1]:.3g}"
    return Grid(tuple(texts), tuple(int(p) for p in columns["pos"]), layers, cells, legend, ends[0] < 0)


def _scaled(found: pd.DataFrame, column: str) -> tuple[Callable[[pd.Series], pd.Series], str, tuple[float, float]]:
    """(what turns values into what is coloured, its name, ends of the scale)."""
    scale = fixed_scale(found, column)
    if scale:
        return scale.of, scale.unit or named(column), (scale.low, scale.high)
    high = _largest(found[column])
    return (lambda values: values), named(column), (-high if (found[column] < 0).any() else 0.0, high)


def _largest(values: pd.Series) -> float:
    finite = np.abs(values.to_numpy(dtype=float))
    finite = finite[np.isfinite(finite)]
    return float(finite.max()) if finite.size else 1.0


def _best(entry: Entry, part: pd.DataFrame) -> dict[tuple[int, int], Best]:
    """The best tokens of each cell, first the likeliest; {} where the result keeps none."""
    if "top_ids" not in part or "top_logprob_nats" not in part:
        return {}
    named_ids = decoded(entry, part[["top_ids"]])
    texts = list(
        named_ids["top_tokens"] if "top_tokens" in named_ids else ([f"#{i}" for i in ids] for ids in part["top_ids"])
    )
    return {
        place: [(str(t), float(np.exp(p))) for t, p in zip(own[:BEST], logps[:BEST], strict=True)]
        for place, own, logps in zip(part.index, texts, part["top_logprob_nats"], strict=True)
    }


def _shown(best: Best | None, value: float) -> str:
    return best[0][0] if best else "" if np.isnan(value) else f"{value:.2g}"


def _told(
    layer: int,
    pos: int,
    column: str,
    at: Mapping[int | None, pd.DataFrame],
    best: Mapping[int | None, dict[tuple[int, int], Best]],
    steps: tuple[int | None, int | None],
) -> str:
    """Lines for the hover: where, the value, and the best tokens with a bar each, at every checkpoint."""
    lines = [f"layer {plain(layer)}, position {plain(pos)}"]
    for step in (s for s in dict.fromkeys((steps[1], steps[0])) if s in at):
        part = at[step]
        value = part[column].get((layer, pos), np.nan)
        lines.append(f"{'' if step is None else f'step {step}: '}{named(column)} {value:.4g}")
        lines += [f"{token}\t{p:.4f}" for token, p in best[step].get((layer, pos), [])]
    return BREAK.join(lines)


def table(grid: Grid, picked: tuple[int, int] | None = None, label: str = "Layers by positions") -> str:
    """A grid as markup; a click on a cell sends ``layer``, a break, and ``pos``."""
    rows = [
        Row(
            str(layer),
            [grid.cells.get((layer, pos), Cell()) for pos in grid.places],
            [f"{layer}{BREAK}{pos}" for pos in grid.places],
        )
        for layer in grid.layers
    ]
    now = f"{picked[0]}{BREAK}{picked[1]}" if picked else ""
    return markup(cells_of(rows, grid.columns, grid.legend, now), label)
