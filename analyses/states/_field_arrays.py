"""What a fitted field says of every layer, as arrays: held-out R2, forces with intervals, p. Never imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.stats import ratio_of_sums, subsample_interval

if TYPE_CHECKING:
    from analyses.core.reading.pooled import States

NAMES = {
    "force_squared": ("resid units^2", "unbiased squared force of the fitted field"),
    "velocity_difference": ("resid units", "velocity difference of the fitted field"),
}


def tested(null: np.ndarray, chance: np.ndarray, usable: np.ndarray) -> xr.Dataset:
    """p over all usable layers of the squared force (row 0) against permuted labels, each over its own spread.

    Args:
        null: squared force under the true and all permuted labels [labelling, layer].
        chance: how far the means of the groups that each labelling makes lie apart by chance (squared).
        usable: layers whose updates the field predicts.
    """
    scaled = np.divide(null, chance, out=np.zeros_like(null), where=chance > 0)
    spread = np.nanstd(scaled, axis=0)
    z = np.where(usable, np.divide(scaled, spread, out=np.zeros_like(null), where=spread > 0), -np.inf)
    p = (1.0 + (z[1:].max(1)[:, None] >= z[:1]).sum(0)) / len(null)
    shown = {"units": "SD of the null", "long_name": "squared force over its null's SD"}
    told = {"units": "", "long_name": "corrected permutation p"}
    return xr.Dataset(
        {
            "force_squared_null": (("permutation", "layer"), null[1:]),
            "force_z": ("layer", np.where(usable, z[0], np.nan), shown),
            "p_value": ("layer", np.where(usable, p, np.nan), told),
        }
    )


def collected(
    states: States,
    sums: dict[str, np.ndarray],
    times: np.ndarray,
    is_first: np.ndarray,
    r2: np.ndarray,
    drawn: dict[str, np.ndarray],
    kept: np.ndarray,
    explained: np.ndarray,
) -> tuple[pd.DataFrame, xr.Dataset]:
    n_layers = r2.shape[1]
    mean = {name: x / np.where(times > 0, times, np.nan)[:, None] for name, x in sums.items()}
    unexplained = ratio_of_sums(mean["residual"], mean["baseline"])
    data = xr.Dataset(coords={"layer": np.arange(n_layers)})
    data["r2"] = ("layer", 1 - unexplained.value, {"units": "1", "long_name": "held-out R2 over the mean update"})
    data["r2_ci_low"], data["r2_ci_high"] = ("layer", 1 - unexplained.ci_high), ("layer", 1 - unexplained.ci_low)
    data["r2_n"] = ("layer", unexplained.n)
    usable = (1 - unexplained.value) > 0
    n = int(min(is_first[times > 0].sum(), (~is_first)[times > 0].sum()))
    for name, (unit, label) in NAMES.items():
        bounds = subsample_interval(drawn[name], kept)
        rows = [np.where(usable, row, np.nan) for row in (drawn[name][0], *bounds)]
        data[name] = ("layer", rows[0], {"units": unit, "long_name": label})
        data[f"{name}_ci_low"], data[f"{name}_ci_high"] = ("layer", rows[1]), ("layer", rows[2])
        data[f"{name}_n"] = ("layer", np.where(usable, n, 0))
    data["r2_by_seed"] = (("split", "layer"), r2)
    data["explained_variance"] = float(explained.mean())
    rows = [
        pd.DataFrame(
            {
                "item": states.ids,
                "group": states.groups,
                "layer": layer,
                "residual_ss": mean["residual"][:, layer],
                "baseline_ss": mean["baseline"][:, layer],
                "n_seeds": times.astype(int),
            }
        )
        for layer in range(n_layers)
    ]
    return pd.concat(rows, ignore_index=True).sort_values(["item", "layer"], kind="stable"), data
