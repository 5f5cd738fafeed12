"""The paradox as it was published: mean perplexities of the answer and of the full text. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from analyses.core import legacy
from analyses.core.stats.resampling import divide
from analyses.memory._answer_grids import AnswerGrid, Array, is_in

MASKS = ("answer", "full")


def published_ppl(grid: AnswerGrid, cells: list[str]) -> xr.Dataset:
    """`legacy_ppl` [group, mask, step]: the mean of the items' perplexities; the full text holds the answer.

    Over the items measured at every step, so that no step has others.
    """
    found = [[_mean(grid, mask, is_in(grid, cell)) for mask in MASKS] for cell in cells]
    what = "mean of the items' perplexities, as published"
    data = legacy.beside("ppl", np.asarray(found), ["group", "mask", "step"], len(grid.items), "1", what)
    data = data.assign_coords(group=cells, mask=list(MASKS), step=grid.step)
    counts = np.asarray([is_in(grid, cell).sum() for cell in cells])[:, None, None]
    data["legacy_ppl_n"] = data["legacy_ppl_n"].clip(max=xr.zeros_like(data["legacy_ppl_n"]) + counts)
    return data


def _mean(grid: AnswerGrid, mask: str, members: Array) -> Array:
    if mask not in grid.nll:
        return np.full(len(grid.step), np.nan)
    each = np.exp(divide(grid.nll[mask][members], grid.tokens[mask][members]))
    whole = each[~np.isnan(each).any(1)]
    return whole.mean(0) if len(whole) else np.full(len(grid.step), np.nan)


def published_pattern(data: xr.Dataset, row: Mapping[str, object]) -> dict[str, object]:
    """`legacy_is_paradox`: the answer's mean perplexity is below that of the first step, the full text's above."""
    at = data["legacy_ppl"].sel(group=row["group"])
    answer, full = (at.sel(mask=m, step=row["step"]) - at.sel(mask=m).isel(step=0) for m in MASKS)
    return {"legacy_is_paradox": bool(answer < 0 < full)}
