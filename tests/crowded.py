"""Results blown up to the size of a real run, and what makes a figure of one readable."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from analyses.core.result import Result
from analyses.core.running.sweep import join

LARGE = {"step": 20, "layer": 28, "group": 6, "head": 8}  # of a sweep over a 1.5 B model
SMALL = {"step": 7, "layer": 7, "group": 4, "head": 3}  # the same rules, a fiftieth of the cells
HIGHEST = 1600  # pixels of a figure: two and a table stay below 4,000


def enlarged(result: Result, size: dict[str, int]) -> Result:
    """The result with as many layers, groups and heads, each a copy of one it has, a little apart."""
    rng = np.random.default_rng(0)
    data = result.data
    for dim in ("layer", "group", "head"):
        if dim in data.dims and data.sizes[dim] > 0:
            data = data.isel({dim: np.arange(size[dim]) % data.sizes[dim]})
            names = [f"group {i}" for i in range(size[dim])] if dim == "group" else list(range(size[dim]))
            data = data.assign_coords({dim: names})
    moved = {n: v * (1 + 1e-3 * rng.random(v.shape)) for n, v in data.data_vars.items() if v.dtype.kind == "f"}
    return Result(data.assign(moved), result.table, result.record)


def swept(result: Result, size: dict[str, int]) -> Result:
    """The result at as many steps, as a sweep stores it."""
    steps = [{"step": 25 * i} for i in range(size["step"])]
    return join(steps, [result] * len(steps)).with_record(**result.record)


def crowd(figure: Any) -> dict[str, int]:
    """What a reader has to tell apart: panels, and of the fullest panel its lines and bands; pixels; maps."""
    lines, bands, maps = Counter(), Counter(), 0
    for trace in figure.data:
        place = (getattr(trace, "xaxis", None), getattr(trace, "yaxis", None))
        is_line = trace.type == "scatter" and "lines" in (trace.mode or "")
        bands[place] += int(is_line and trace.fill == "toself")
        lines[place] += int(is_line and trace.fill != "toself" and bool(np.size(trace.y)))
        maps += trace.type == "heatmap"
    fullest = {"lines": max(lines.values(), default=0), "bands": max(bands.values(), default=0)}
    return {"panels": len({*lines, *bands}), "maps": maps, "pixels": int(figure.layout.height or 0), **fullest}


def unreadable(figure: Any) -> list[str]:
    """Why a figure cannot be read, [] where it can."""
    most = {"panels": 12, "maps": 12, "pixels": HIGHEST, "lines": 7, "bands": 3}  # six lines, and a bound to compare
    return [f"{count} {what}, {most[what]} at most" for what, count in crowd(figure).items() if count > most[what]]
