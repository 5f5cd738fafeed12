"""The neural ODE's second fit, which integrates: its names, its paths, and refitting as a null."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from analyses.core.progress import progress
from analyses.core.stats import permuted_labels
from probe.lazily import torch

if TYPE_CHECKING:
    import pandas as pd

AFFORDABLE = 20_000  # items x blocks whose paths are integrated without being asked for
BESIDE = ("r2", "force_squared", "velocity_difference")


def is_affordable(n_items: int, n_layers: int) -> bool:
    """Whether paths are integrated by default: minutes rather than hours."""
    return n_items * n_layers <= AFFORDABLE


def beside(data: xr.Dataset, integrated: xr.Dataset) -> xr.Dataset:
    """The first fit with the second one's curves as `r2_integrated`, `force_squared_integrated`, ..., and its paths."""
    kept = [str(n) for n in integrated.data_vars if str(n).startswith((*BESIDE, "p_value", "path_"))]
    kept = [n for n in kept if not n.endswith(("_null", "_boot", "_by_seed"))]
    names = {n: _named(n) for n in kept if not n.startswith("path_")}
    return xr.merge([data, integrated[kept].rename(names)], compat="override")


def _named(name: str) -> str:
    for suffix in ("_ci_low", "_ci_high", "_n"):
        if name.endswith(suffix):
            return f"{name.removesuffix(suffix)}_integrated{suffix}"
    return f"{name}_integrated"


def paths(field: object, z: np.ndarray, is_first: np.ndarray) -> xr.Dataset:
    """Mean paths of both groups' held-out items in two components, observed and integrated from their first states.

    Args:
        field: fitted to other items.
        z: states [item, state, component].
        is_first: items of the first group.
    """
    from analyses.states._vector_field import integrate

    with torch.no_grad():
        start = torch.as_tensor(z[:, 0], dtype=torch.float64)
        integrated = integrate(field, start, z.shape[1] - 1).numpy()
    off = z.mean(0)
    shown = np.stack([[(x[g] - off).mean(0) for g in (is_first, ~is_first)] for x in (z, integrated)])
    dims = ("variant", "group", "state")
    named = {f"path_{k + 1}": (dims, shown[..., k]) for k in range(min(2, z.shape[2]))}
    return xr.Dataset(named, {"variant": ["observed", "integrated"], "state": np.arange(z.shape[1])})


def refitted_p(
    refit: Callable[[np.ndarray], tuple[pd.DataFrame, xr.Dataset]],
    data: xr.Dataset,
    is_first: np.ndarray,
    strata: np.ndarray | None,
    refits: int,
    seed: int,
) -> float:
    """p of the largest force over its spread against fits on permuted labels, splits and all; NaN without refits.

    Args:
        refit: the whole fit under other labels.
        data: the fit under the true ones, its null by labels alone included.
        is_first: the true labels.
        strata: within which labels are permuted.
        refits: permutations, each a fit of its own; 1 / (1 + refits) is the smallest p.
        seed: of the permutations.
    """
    if not refits:
        return float("nan")
    spread = data["force_squared_null"].to_numpy().std(0)
    observed = _largest(data, spread)
    labels = permuted_labels(is_first, refits, seed + 1, strata)
    null = [_largest(refit(y)[1], spread) for y in progress(labels, "refits under permuted labels", total=refits)]
    return (1 + sum(t >= observed for t in null)) / (1 + refits)


def _largest(data: xr.Dataset, spread: np.ndarray) -> float:
    """The largest force over its spread; -inf where no layer has one (R2 <= 0 everywhere)."""
    force = data["force_squared"].to_numpy().astype(float)
    z = np.divide(force, spread, out=np.full_like(force, np.nan), where=spread > 0)
    return float(np.nanmax(z)) if not np.isnan(z).all() else -np.inf
