"""Estimates with intervals, all of whose uncertainty is over items.

Tokens of one item and rollouts of one prompt are not independent, so nothing here treats them so: rows are first
reduced to one number per item (and cell), items to one per cluster where they come in clusters (templates, documents,
wordings of one problem), and only these units count. Intervals are in closed form (`stats.intervals`): the percentile
bootstrap leaves the truth out too often where there are few items, or skewed, or binary ones.

NaN means "not measured" throughout: such an item is left out of that cell and of its `n`, never taken as 0. An interval
of NaN beside a value means "too few to have one". This file never imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
import scipy
import xarray as xr
from jaxtyping import Bool, Float, Int

from analyses.core.stats import intervals
from analyses.core.stats.resampling import Array, Labels, clustered, clusters_of, codes_of, divide
from probe.errors import InputError

Values: TypeAlias = Float[np.ndarray, "item *cell"]

RATES = ("1", "fraction")  # units of a share; zeros alone may as well be an effect in nats
NUMBERS_AT_ONCE = 2_000_000  # units x cells of one block: its dozen temporary arrays stay near 200 MB


@dataclass(frozen=True)
class Estimate:
    """A quantity with its interval and its number of units, each of the shape of the cells.

    `ci_low`/`ci_high` are NaN where there are too few units to have an interval (see `stats.intervals`); `n` counts
    items (clusters where there are clusters), never tokens.
    """

    value: Float[np.ndarray, "*cell"]
    ci_low: Float[np.ndarray, "*cell"]
    ci_high: Float[np.ndarray, "*cell"]
    n: Int[np.ndarray, "*cell"]


def ratio_of_sums(
    numerators: Values,
    denominators: Values | float,
    *,
    clusters: Labels | None = None,
    level: float = 0.95,
    outcomes: intervals.Outcomes = "any",
) -> Estimate:
    """Ratio of sums over items, `sum_i numerator / sum_i denominator`, per cell, with its interval.

    An item with NaN in either array is left out of that cell. The micro average of a per-token quantity is the ratio
    of per-item sums to per-item token counts; a no-intercept slope is that of sum(xy) to sum(xx).

    Args:
        numerators: one number per item and cell.
        denominators: same shape (or broadcastable to it).
        clusters: one label per item; items of one label are one unit. None: every item is one.
        level: of the interval.
        outcomes: whether each number is a share of outcomes that are 0 or 1, or a paired change of those; where both
            0 and 1 (and -1) are among the numbers, and nothing else, this is seen without being told.
    """
    numerators = np.asarray(numerators, dtype=float)
    denominators = np.broadcast_to(np.asarray(denominators, dtype=float), numerators.shape)
    n_items, cells = len(numerators), numerators.shape[1:]
    if not n_items:
        unknown = np.full(cells, np.nan)
        return Estimate(unknown, unknown, unknown, np.zeros(cells, dtype=int))
    top, bottom = numerators.reshape(n_items, -1), denominators.reshape(n_items, -1)
    measured = ~(np.isnan(top) | np.isnan(bottom))
    value = divide(np.where(measured, top, 0.0).sum(0), np.where(measured, bottom, 0.0).sum(0))
    if outcomes == "any" and (bottom[measured] == 1).all():
        outcomes = _outcomes(top[measured])
    if clusters is not None:
        top, bottom = (clustered(np.where(measured, x, np.nan), codes_of(clusters)) for x in (top, bottom))
    at_once = max(1, NUMBERS_AT_ONCE // max(len(top), 1))
    blocks = [slice(i, i + at_once) for i in range(0, max(top.shape[1], 1), at_once)]
    each = [intervals.of_ratio(top[:, b], bottom[:, b], level, outcomes=outcomes) for b in blocks]
    bounds = (np.concatenate(part) for part in zip(*each, strict=True))
    return Estimate(value.reshape(cells), *(part.reshape(cells) for part in bounds))


def _outcomes(seen: Array) -> intervals.Outcomes:
    """Whether numbers are outcomes: then a cell of zeros alone is a share too, and not an effect in nats."""
    if not len(seen) or seen.min() == seen.max() or not np.isin(seen, [-1.0, 0.0, 1.0]).all():
        return "any"
    return "change" if seen.min() < 0 else "share"


def mean_of_items(
    values: Values, *, weights: Values | None = None, clusters: Labels | None = None, level: float = 0.95
) -> Estimate:
    """Mean over items per cell with its interval; weighted mean if `weights` are given.

    With weights the mean is `sum(w v) / sum(w)`: for a micro average of per-token means give the token counts
    as weights. If `values` are already per-item *sums*, use `ratio_of_sums(sums, counts)`.

    Args:
        values: [item cell] or [item]; NaN is not measured.
        weights: [item cell] or [item], equal where none are given.
        clusters: label of each item; those of one label are one unit.
        level: share that the interval covers.
    """
    values = np.asarray(values, dtype=float)
    weights = np.asarray(1.0 if weights is None else weights, dtype=float)
    weights = np.broadcast_to(weights, values.shape)
    return ratio_of_sums(values * weights, weights, clusters=clusters, level=level)


def estimate(
    table: pd.DataFrame,
    value: str,
    by: Sequence[str] = (),
    *,
    weight: str | None = None,
    per: str | None = None,
    item: str = "item",
    cluster: str | None = "cluster",
    seed: int = 0,
    draws: int = 0,
    level: float = 0.95,
    name: str | None = None,
    units: str = "",
    long_name: str | None = None,
) -> xr.Dataset:
    """Mean of a column over items for every cell of `by`, as variables `q`, `q_ci_low`, `q_ci_high`, `q_n`.

    Rows of one item in one cell are first reduced to one number (their mean, so a long answer counts as much
    as a short one: the macro average). With `weight` the mean is weighted by that column,
    `sum(w v) / sum(w)`; with `per` it is the ratio of sums, `sum(value) / sum(per)`, the micro average of
    columns such as `nll_nats` and `n_tokens`. `q_n` is the number of items, or of clusters where the table has a
    column of them. Cells without rows are NaN, n = 0.

    Args:
        table: long-form rows; NaN in `value` is "not measured".
        value: column to average.
        by: columns that become dimensions, their sorted distinct values the coordinates.
        weight: column of weights of a weighted mean.
        per: column of denominators of a ratio of sums.
        item: column that identifies the item.
        cluster: column of what several items share (template, document, problem): the unit of the interval wherever
            it is present. Without it, clusters that the run of the analysis knows of are used (`core.resampling`).
        seed: taken, and not used: the interval is in closed form.
        draws: the same.
        level: of the interval.
        name: of the variable; the column's name by default.
        units: stored in `attrs["units"]`, for example "nats" or "1".
        long_name: stored in `attrs["long_name"]`, the label of an axis.
    """
    del seed, draws
    by = list(by)
    _check_columns(table, [value, *by, item, *(c for c in (weight, per) if c)])
    if weight and per:
        raise InputError("give weight (weighted mean) or per (ratio of sums), not both")
    coords = {dim: _levels(pd.Series(table[dim])) for dim in by}
    items, top, bottom = _item_cells(table, value, coords, weight=weight, per=per, item=item)
    kinds = {2} if weight or per else set(table[value].dropna().unique().tolist())
    is_rate = kinds <= {0, 1} and (kinds == {0, 1} or units in RATES)
    clusters = _clusters(table, items, item, cluster)
    result = ratio_of_sums(top, bottom, clusters=clusters, level=level, outcomes="share" if is_rate else "any")
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
) -> tuple[Array, Array, Array]:
    """The items, and their numerators and denominators [item, *cell]."""
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
    return np.asarray(items), top, bottom


def _clusters(table: pd.DataFrame, items: Array, item: str, cluster: str | None) -> Labels | None:
    """A label per item from the table's own column, else from what the run knows; None where each item stands alone."""
    if cluster and cluster in table.columns and table[cluster].notna().any():
        named = table.dropna(subset=[cluster]).drop_duplicates(item).set_index(item)[cluster]
        return [named.get(i, i) for i in items]
    return clusters_of(items)


def paired_difference(
    first: Values, second: Values, *, clusters: Labels | None = None, seed: int = 0, level: float = 0.95
) -> Estimate:
    """Mean over items of `first - second`, measured on the same items, with its interval (`seed` is not used).

    >>> float(paired_difference([1.0, 2.0, 4.0], [1.0, 1.0, 1.0]).value)
    1.3333333333333333

    Args:
        first: [item cell] or [item].
        second: the same items, in the same order.
        clusters: label of each item; those of one label are one unit.
        seed: not used: the interval is in closed form.
        level: share that the interval covers.
    """
    del seed
    if np.shape(first) != np.shape(second):
        raise InputError(f"paired values have shapes {np.shape(first)} and {np.shape(second)}: pair them by item")
    first, second = np.asarray(first, float), np.asarray(second, float)
    both = np.concatenate([first.ravel(), second.ravel()])
    both = both[~np.isnan(both)]
    is_binary = bool(np.isin(both, [0.0, 1.0]).all()) and len(both) > 0 and both.min() < both.max()
    return ratio_of_sums(first - second, 1.0, clusters=clusters, level=level, outcomes="change" if is_binary else "any")


def group_difference(
    values: Values,
    is_first: Bool[np.ndarray, " item"],
    *,
    clusters: Labels | None = None,
    seed: int = 0,
    draws: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Mean of the first group minus mean of the rest, per cell, from the interval of each group's own mean.

    `n` is the smaller of the two groups' numbers of measured units. `seed` and `draws` are not used.

    Args:
        values: [item cell] or [item]; NaN is not measured.
        is_first: True for items of the first group.
        clusters: label of each item; those of one label are one unit.
        seed: not used: the interval is in closed form.
        draws: not used.
        level: share that the interval covers.
    """
    del seed, draws
    values, is_first = np.asarray(values, float), np.asarray(is_first, bool)
    labels = None if clusters is None else np.asarray(codes_of(clusters))
    sides = [
        mean_of_items(values[own], clusters=None if labels is None else labels[own], level=level)
        for own in (is_first, ~is_first)
    ]
    bounds = intervals.of_difference(*((s.value, s.ci_low, s.ci_high) for s in sides))
    return Estimate(sides[0].value - sides[1].value, *bounds, np.minimum(sides[0].n, sides[1].n))


def widened(value: float, low: float, high: float, *, n: int, looks: int) -> tuple[float, float, float]:
    """An interval of one of many looks, widened so that those of all looks hold together (Bonferroni).

    Args:
        value: the estimate.
        low: lower bound of its .95 interval.
        high: upper bound.
        n: units it rests on.
        looks: how many such intervals must hold together.
    """
    if looks < 2 or n < 2:
        return value, low, high
    wide, narrow = (float(scipy.stats.t.ppf(1 - 0.025 / k, n - 1)) for k in (looks, 1))
    return value, value - (value - low) * wide / narrow, value + (high - value) * wide / narrow


def wilson(successes: int, n: int, level: float = 0.95) -> Estimate:
    """A proportion of items with its Wilson score interval (n counts items, not their rollouts).

    >>> found = wilson(8, 10)
    >>> round(float(found.ci_low), 2), round(float(found.ci_high), 2)
    (0.49, 0.94)

    Args:
        successes: items that are right.
        n: items.
        level: share that the interval covers.
    """
    from statsmodels.stats.proportion import proportion_confint

    if not 0 <= successes <= n:
        raise InputError(f"{successes} successes of {n} items: expected 0 <= successes <= n")
    low, high = proportion_confint(successes, n, alpha=1 - level, method="wilson") if n else (np.nan, np.nan)
    value = successes / n if n else np.nan
    return Estimate(*(np.asarray(part) for part in (value, low, high, n)))
