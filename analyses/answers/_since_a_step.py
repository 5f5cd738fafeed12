"""Paired change of per-item quantities since a reference step, with intervals over items. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.stats.estimates import estimate
from probe.errors import InputError


def since(
    table: pd.DataFrame,
    quantities: Mapping[str, tuple[str, str]],
    by: Sequence[str],
    *,
    reference: int | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """`<q>_change` over `by` and step: mean over items of q at the step minus q at the reference, items paired.

    Args:
        table: rows with `item`, `step`, the columns of `by` and the quantities; several rows of an item in a cell
            are averaged first.
        quantities: name -> (units, label).
        by: columns that become dimensions beside `step`.
        reference: step compared with; the first by default.
        seed: of the bootstrap.

    Raises:
        InputError: no such reference step.
    """
    steps = sorted(table["step"].unique())
    start = steps[0] if reference is None else reference
    if start not in steps:
        raise InputError(f"reference step {start} was not measured; steps: {steps}")
    keys = ["item", *by]
    means = table.groupby([*keys, "step"])[list(quantities)].mean()
    first = means.xs(start, level="step")
    before = pd.MultiIndex.from_frame(means.index.to_frame(index=False)[keys])
    moved = means - first.reindex(before).set_axis(means.index)
    rows = moved.reset_index()
    parts = [
        estimate(rows, q, [*by, "step"], seed=seed, name=f"{q}_change", units=units, long_name=f"{label}, change")
        for q, (units, label) in quantities.items()
    ]
    return xr.merge(parts, join="outer").assign_attrs(reference_step=int(start))


def has_series(table: pd.DataFrame) -> bool:
    """True where the table holds several steps."""
    return "step" in table.columns and bool(np.size(table["step"].unique()) > 1)
