"""Estimates with intervals and tests, all of whose randomness is over items.

Tokens of one item and rollouts of one prompt are not independent, so nothing here resamples them: rows are
first reduced to one number per item (and cell), and only items are drawn again. SciPy and statsmodels do what
they have; own code is what they lack: one resample of items shared by *every* cell (a matrix product, so that
curves keep their correlation across layers), max-t permutation within strata, and the bootstrap of an argmax.

NaN means "not measured" throughout: such an item is left out of that cell and of its `n`, never taken as 0.
This file never imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float, Int

from analyses.core.stats.resampling import (
    Array,
    Labels,
    divide,
    resample_counts,
)
from probe.errors import InputError

Values: TypeAlias = Float[np.ndarray, "item *cell"]

CELLS_AT_ONCE = 4096  # draws x cells of one block stay near 64 MB


@dataclass(frozen=True)
class Estimate:
    """A quantity with its interval and its number of items, each of the shape of the cells.

    `ci_low`/`ci_high` are NaN where fewer than two items were measured; `n` counts items, never tokens.
    """

    value: Float[np.ndarray, "*cell"]
    ci_low: Float[np.ndarray, "*cell"]
    ci_high: Float[np.ndarray, "*cell"]
    n: Int[np.ndarray, "*cell"]


def bootstrap_ratio(
    numerators: Values,
    denominators: Values,
    *,
    seed: int,
    draws: int = 2000,
    level: float = 0.95,
    strata: Labels | None = None,
) -> Estimate:
    """Ratio of sums over items, `sum_i numerator / sum_i denominator`, per cell, with a percentile interval.

    One draw of items serves every cell, so differences and curves read across cells are resampled jointly.
    An item with NaN in either array is left out of that cell. The micro average of a per-token quantity is
    the ratio of per-item sums to per-item token counts; a no-intercept slope is that of sum(xy) to sum(xx).

    Args:
        numerators: one number per item and cell.
        denominators: same shape (or broadcastable to it).
        seed: of the resampling.
        draws: number of bootstrap draws.
        level: of the interval.
        strata: item labels within which to resample, for cells that only some kinds of items enter.
    """
    numerators = np.asarray(numerators, dtype=float)
    denominators = np.broadcast_to(np.asarray(denominators, dtype=float), numerators.shape)
    n_items, cells = len(numerators), numerators.shape[1:]
    top, bottom = numerators.reshape(n_items, -1), denominators.reshape(n_items, -1)
    measured = ~(np.isnan(top) | np.isnan(bottom))
    top, bottom = np.where(measured, top, 0.0), np.where(measured, bottom, 0.0)
    n = measured.sum(0)
    low, high = _ratio_interval(top, bottom, seed=seed, draws=draws, level=level, strata=strata)
    low[n < 2], high[n < 2] = np.nan, np.nan
    value = divide(top.sum(0), bottom.sum(0))
    return Estimate(*(part.reshape(cells) for part in (value, low, high, n)))


def _ratio_interval(
    top: Array, bottom: Array, *, seed: int, draws: int, level: float, strata: Any
) -> tuple[np.ndarray, Array]:
    """Percentile interval of the ratio of sums, in blocks of cells so that draws x cells stays small."""
    n_items, n_cells = top.shape
    low, high = np.full(n_cells, np.nan), np.full(n_cells, np.nan)
    if n_items < 2:
        return low, high
    counts = resample_counts(n_items, draws, seed, strata)
    tails = [(1 - level) / 2, (1 + level) / 2]
    for start in range(0, n_cells, CELLS_AT_ONCE):
        block = slice(start, start + CELLS_AT_ONCE)
        drawn = divide(counts @ top[:, block], counts @ bottom[:, block])
        seen = ~np.isnan(drawn).all(0)  # nanquantile warns about columns with nothing in them
        if seen.any():
            low[block][seen], high[block][seen] = np.nanquantile(drawn[:, seen], tails, axis=0)
    return low, high


def bootstrap_mean(
    values: Values,
    *,
    weights: Values | None = None,
    seed: int,
    draws: int = 2000,
    level: float = 0.95,
    strata: Labels | None = None,
) -> Estimate:
    """Mean over items per cell with a percentile bootstrap interval; weighted mean if `weights` are given.

    With weights the mean is `sum(w v) / sum(w)`: for a micro average of per-token means give the token counts
    as weights. If `values` are already per-item *sums*, use `bootstrap_ratio(sums, counts)`.
    """
    values = np.asarray(values, dtype=float)
    weights = np.asarray(1.0 if weights is None else weights, dtype=float)
    weights = np.broadcast_to(weights, values.shape)
    return bootstrap_ratio(values * weights, weights, seed=seed, draws=draws, level=level, strata=strata)


def estimate(
    table: pd.DataFrame,
    value: str,
    by: Sequence[str] = (),
    *,
    weight: str | None = None,
    per: str | None = None,
    item: str = "item",
    seed: int = 0,
    draws: int = 2000,
    level: float = 0.95,
    name: str | None = None,
    units: str = "",
    long_name: str | None = None,
) -> xr.Dataset:
    """Mean of a column over items for every cell of `by`, as variables `q`, `q_ci_low`, `q_ci_high`, `q_n`.

    Rows of one item in one cell are first reduced to one number (their mean, so a long answer counts as much
    as a short one: the macro average). With `weight` the mean is weighted by that column,
    `sum(w v) / sum(w)`; with `per` it is the ratio of sums, `sum(value) / sum(per)`, the micro average of
    columns such as `nll_nats` and `n_tokens`. Items are resampled jointly for all cells, within the dimensions
    that partition them (such as `group`); `q_n` is the number of items. Cells without rows are NaN, n = 0.

    Args:
        table: long-form rows; NaN in `value` is "not measured".
        value: column to average.
        by: columns that become dimensions, their sorted distinct values the coordinates.
        weight: column of weights of a weighted mean.
        per: column of denominators of a ratio of sums.
        item: column that identifies the unit of resampling.
        seed: of the bootstrap.
        draws: number of draws.
        level: of the interval.
        name: of the variable; the column's name by default.
        units: stored in `attrs["units"]`, for example "nats" or "1".
        long_name: stored in `attrs["long_name"]`, the label of an axis.
    """
    by = list(by)
    _check_columns(table, [value, *by, item, *(c for c in (weight, per) if c)])
    if weight and per:
        raise InputError("give weight (weighted mean) or per (ratio of sums), not both")
    coords = {dim: _levels(pd.Series(table[dim])) for dim in by}
    top, bottom, strata = _item_cells(table, value, coords, weight=weight, per=per, item=item)
    result = bootstrap_ratio(top, bottom, seed=seed, draws=draws, level=level, strata=strata)
    name = name or value
    attrs = {"units": units, "long_name": long_name or name.replace("_", " ")}
    parts = {"": result.value, "_ci_low": result.ci_low, "_ci_high": result.ci_high, "_n": result.n}
    data = xr.Dataset({name + suffix: (by, part) for suffix, part in parts.items()}, coords=coords)
    data[name].attrs.update(attrs)
    return data


def _check_columns(table: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise InputError(f"table has no column {missing}; it has {list(table.columns)}")


def _levels(column: pd.Series) -> Array:
    """Distinct values of a column, sorted, so that the order of rows changes nothing."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return np.asarray(column.cat.remove_unused_categories().cat.categories)
    levels = np.asarray(sorted(column.dropna().unique().tolist()))
    return levels.astype(object) if levels.dtype.kind in "US" else levels


def _item_cells(
    table: pd.DataFrame,
    value: str,
    coords: dict[str, Array],
    *,
    weight: str | None,
    per: str | None,
    item: str,
) -> tuple[np.ndarray, Array, Array | None]:
    """Numerators and denominators [item, *cell], and each item's stratum where `by` partitions the items."""
    codes, items = pd.factorize(table[item], sort=True)
    index = [codes, *(pd.Categorical(table[dim], categories=levels).codes for dim, levels in coords.items())]
    shape = (len(items), *(len(levels) for levels in coords.values()))
    values = table[value].to_numpy(float)
    scale = table[weight].to_numpy(float) if weight else np.ones(len(table))
    below = table[per].to_numpy(float) if per else scale
    kept = ~(np.isnan(values) | np.isnan(below)) & np.all([code >= 0 for code in index], axis=0)
    where = tuple(np.asarray(code)[kept] for code in index)
    top, bottom, seen = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    np.add.at(top, where, (values * scale)[kept])
    np.add.at(bottom, where, below[kept])
    np.add.at(seen, where, 1.0)
    if not (weight or per):  # macro: each item is one number per cell, whatever its number of rows
        top, bottom = divide(top, seen), np.ones(shape)
    top[seen == 0], bottom[seen == 0] = np.nan, np.nan
    return top, bottom, _partition(index, len(items))


def _partition(index: Sequence[np.ndarray], n_items: int) -> Array | None:
    """A stratum code per item from the dimensions that are constant within every item (None if none is)."""
    strata, found = np.zeros(n_items, dtype=int), False
    for codes in index[1:]:
        low, high = np.full(n_items, np.iinfo(int).max), np.full(n_items, -1)
        np.minimum.at(low, index[0], codes)
        np.maximum.at(high, index[0], codes)
        if (low == high).all() and low.min() < low.max():
            strata, found = strata * (int(low.max()) + 1) + low, True
    return strata if found else None


def paired_difference(first: Values, second: Values, *, seed: int, draws: int = 2000, level: float = 0.95) -> Estimate:
    """Mean over items of `first - second`, measured on the same items, with a bootstrap interval."""
    if np.shape(first) != np.shape(second):
        raise InputError(f"paired values have shapes {np.shape(first)} and {np.shape(second)}: pair them by item")
    return bootstrap_mean(np.asarray(first, float) - second, seed=seed, draws=draws, level=level)


def group_difference(
    values: Values, is_first: Bool[np.ndarray, " item"], *, seed: int, draws: int = 2000, level: float = 0.95
) -> Estimate:
    """Mean of the first group minus mean of the rest, per cell; items resampled within each group.

    `n` is the smaller of the two groups' numbers of measured items.
    """
    values, is_first = np.asarray(values, float), np.asarray(is_first, bool)
    n_items, cells = len(values), values.shape[1:]
    flat = values.reshape(n_items, -1)
    measured = ~np.isnan(flat)
    filled = np.where(measured, flat, 0.0)
    counts = resample_counts(n_items, draws, seed, is_first)
    counts = np.concatenate([np.ones((1, n_items)), counts])
    means = [divide((counts * side) @ filled, (counts * side) @ measured) for side in (is_first, ~is_first)]
    difference = means[0] - means[1]
    n = np.minimum(measured[is_first].sum(0), measured[~is_first].sum(0))
    bounds = np.full((2, flat.shape[1]), np.nan)
    enough = n >= 2
    if enough.any():
        tails = [(1 - level) / 2, (1 + level) / 2]
        bounds[:, enough] = np.nanquantile(difference[1:, enough], tails, axis=0)
    return Estimate(*(part.reshape(cells) for part in (difference[0], bounds[0], bounds[1], n)))


def wilson(successes: int, n: int, level: float = 0.95) -> Estimate:
    """A proportion of items with its Wilson score interval (n counts items, not their rollouts)."""
    from statsmodels.stats.proportion import proportion_confint

    if not 0 <= successes <= n:
        raise InputError(f"{successes} successes of {n} items: expected 0 <= successes <= n")
    low, high = proportion_confint(successes, n, alpha=1 - level, method="wilson") if n else (np.nan, np.nan)
    value = successes / n if n else np.nan
    return Estimate(*(np.asarray(part) for part in (value, low, high, n)))
