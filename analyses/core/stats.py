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
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float, Int

from probe.errors import InputError

Alternative = Literal["two-sided", "greater", "less"]
Values = Float[np.ndarray, "item *cell"]

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


@dataclass(frozen=True)
class MaxT:
    """Studentised statistics of all cells and p-values corrected over all of them.

    `p_cell` is the single-step max-t adjusted p of each cell, `p` that of the largest statistic, `argmax` its
    flat index and `null` the null distribution of the maximum.
    """

    t: Float[np.ndarray, "*cell"]
    p_cell: Float[np.ndarray, "*cell"]
    p: float
    argmax: int
    null: Float[np.ndarray, " draw"]


# ---------------------------------------------------------------- resampling


def resample_counts(
    n: int, draws: int, seed: int, strata: Sequence[Any] | np.ndarray | None = None
) -> Float[np.ndarray, "draw item"]:
    """How often each of `n` items is taken in each bootstrap draw; with `strata`, within each stratum."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((draws, n))
    for members in _members(n, strata):
        size = len(members)
        counts[:, members] = rng.multinomial(size, np.full(size, 1 / size), size=draws)
    return counts


def _members(n: int, strata: Sequence[Any] | np.ndarray | None) -> list[np.ndarray]:
    """Indices of each stratum's items, in the order of the sorted stratum codes."""
    if strata is None:
        return [np.arange(n)]
    codes = pd.factorize(np.asarray(strata), sort=True)[0]
    if len(codes) != n:
        raise InputError(f"strata has {len(codes)} entries for {n} items: give one stratum per item")
    return [np.flatnonzero(codes == code) for code in np.unique(codes)]


def bootstrap_ratio(
    numerators: Values,
    denominators: Values,
    *,
    seed: int,
    draws: int = 2000,
    level: float = 0.95,
    strata: Sequence[Any] | np.ndarray | None = None,
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
    value = _divide(top.sum(0), bottom.sum(0))
    return Estimate(*(part.reshape(cells) for part in (value, low, high, n)))


def _ratio_interval(
    top: np.ndarray, bottom: np.ndarray, *, seed: int, draws: int, level: float, strata: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of the ratio of sums, in blocks of cells so that draws x cells stays small."""
    n_items, n_cells = top.shape
    low, high = np.full(n_cells, np.nan), np.full(n_cells, np.nan)
    if n_items < 2:
        return low, high
    counts = resample_counts(n_items, draws, seed, strata)
    tails = [(1 - level) / 2, (1 + level) / 2]
    for start in range(0, n_cells, CELLS_AT_ONCE):
        block = slice(start, start + CELLS_AT_ONCE)
        drawn = _divide(counts @ top[:, block], counts @ bottom[:, block])
        seen = ~np.isnan(drawn).all(0)  # nanquantile warns about columns with nothing in them
        low[block][seen], high[block][seen] = np.nanquantile(drawn[:, seen], tails, axis=0)
    return low, high


def _divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom with NaN (not measured) where the denominator is 0."""
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom != 0)


def bootstrap_mean(
    values: Values,
    *,
    weights: Values | None = None,
    seed: int,
    draws: int = 2000,
    level: float = 0.95,
    strata: Sequence[Any] | np.ndarray | None = None,
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
    as a short one: the macro average). With `weight` the mean is weighted by that column, `sum(w v) / sum(w)`;
    with `per` it is the ratio of sums, `sum(value) / sum(per)`, the micro average of columns such as `nll_nats`
    and `n_tokens`. Items are resampled jointly for all cells, within the dimensions that partition them (such
    as `group`), and `q_n` is the number of items. Cells without rows are NaN with n = 0.

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
    coords = {dim: _levels(table[dim]) for dim in by}
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


def _levels(column: pd.Series[Any]) -> np.ndarray:
    """Distinct values of a column, sorted, so that the order of rows changes nothing."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return np.asarray(column.cat.remove_unused_categories().cat.categories)
    levels = np.asarray(sorted(column.dropna().unique().tolist()))
    return levels.astype(object) if levels.dtype.kind in "US" else levels


def _item_cells(
    table: pd.DataFrame,
    value: str,
    coords: dict[str, np.ndarray],
    *,
    weight: str | None,
    per: str | None,
    item: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
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
        top, bottom = _divide(top, seen), np.ones(shape)
    top[seen == 0], bottom[seen == 0] = np.nan, np.nan
    return top, bottom, _partition(index, len(items))


def _partition(index: Sequence[np.ndarray], n_items: int) -> np.ndarray | None:
    """A stratum code per item from the dimensions that are constant within every item (None if none is)."""
    strata, found = np.zeros(n_items, dtype=int), False
    for codes in index[1:]:
        levels = pd.Series(np.asarray(codes)).groupby(np.asarray(index[0])).agg(["min", "max"])
        if (levels["min"] == levels["max"]).all() and levels["min"].nunique() > 1:
            strata, found = strata * (int(levels["min"].max()) + 1) + levels["min"].to_numpy(), True
    return strata if found else None


# ---------------------------------------------------------------- differences


def paired_difference(
    first: Values, second: Values, *, seed: int, draws: int = 2000, level: float = 0.95
) -> Estimate:
    """Mean over items of `first - second`, measured on the same items, with a bootstrap interval."""
    if np.shape(first) != np.shape(second):
        raise InputError(
            f"paired values have shapes {np.shape(first)} and {np.shape(second)}: pair them by item"
        )
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
    means = [_divide((counts * side) @ filled, (counts * side) @ measured) for side in (is_first, ~is_first)]
    difference = means[0] - means[1]
    n = np.minimum(measured[is_first].sum(0), measured[~is_first].sum(0))
    bounds = np.full((2, flat.shape[1]), np.nan)
    enough = n >= 2
    if enough.any():
        tails = [(1 - level) / 2, (1 + level) / 2]
        bounds[:, enough] = np.nanquantile(difference[1:, enough], tails, axis=0)
    return Estimate(*(part.reshape(cells) for part in (difference[0], bounds[0], bounds[1], n)))


# ---------------------------------------------------------------- tests


def sign_flip(
    differences: Float[np.ndarray, " item"],
    *,
    seed: int = 0,
    draws: int = 9999,
    alternative: Alternative = "two-sided",
) -> float:
    """p of "paired differences are symmetric about 0" by flipping signs; exact when 2**n <= draws.

    NaN differences are left out; NaN if none is left.
    """
    from scipy.stats import permutation_test

    kept = np.asarray(differences, float)
    kept = kept[~np.isnan(kept)]
    if not len(kept):
        return float("nan")
    if not kept.any():
        return 1.0
    if len(kept) == 1:  # SciPy wants two observations; the exact distribution has two points
        as_predicted = (kept[0] > 0) == (alternative == "greater")
        return 0.5 if as_predicted and alternative != "two-sided" else 1.0
    test = permutation_test(
        (kept,), lambda x, axis: np.mean(x, axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=draws, alternative=alternative, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(test.pvalue)


def two_sample_t(
    values: Float[np.ndarray, "item cell"],
    first: Float[np.ndarray, "draw item"],
    second: Float[np.ndarray, "draw item"],
) -> Float[np.ndarray, "draw cell"]:
    """Welch t of first minus second for many weightings of the items (0/1 labels or bootstrap counts).

    Where both groups are constant, t is 0 if the means agree and +-inf if they do not; NaN where a group has
    fewer than two measured items.
    """
    measured = ~np.isnan(values)
    center = np.where(measured.any(0), np.nanmean(np.where(measured.any(0), values, 0.0), axis=0), 0.0)
    x = np.where(measured, values - center, 0.0)  # centring first: E[x^2]-E[x]^2 cancels badly otherwise
    # Constant columns differ from their mean by rounding only, which must not become a statistic.
    x[:, np.abs(x).max(0, initial=0.0) <= 1e-12 * np.abs(center)] = 0.0
    sides: list[tuple[np.ndarray, np.ndarray]] = []
    for weights in (first, second):
        n = weights @ measured
        mean = _divide(weights @ x, n)
        spread = np.maximum(weights @ x**2 - n * mean**2, 0.0)
        spread[spread <= 1e-12 * np.maximum(weights @ x**2, 1e-300)] = 0.0
        sides.append((mean, np.where(n > 1, _divide(spread, n * (n - 1)), np.nan)))
    gap = sides[0][0] - sides[1][0]
    gap[np.abs(gap) <= 1e-14 * np.abs(x).max(0, initial=0.0)] = 0.0
    error = np.sqrt(sides[0][1] + sides[1][1])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((error == 0) & (gap == 0), 0.0, gap / error)


def permuted_labels(
    is_first: Bool[np.ndarray, " item"],
    draws: int,
    seed: int,
    strata: Sequence[Any] | np.ndarray | None = None,
) -> Bool[np.ndarray, "draw item"]:
    """Group labels permuted within strata, one row per draw; each stratum keeps its group sizes."""
    rng = np.random.default_rng(seed)
    is_first = np.asarray(is_first, bool)
    out = np.tile(is_first, (draws, 1))
    for members in _members(len(is_first), strata):
        out[:, members] = rng.permuted(out[:, members], axis=1)
    return out


def n_arrangements(
    is_first: Bool[np.ndarray, " item"], strata: Sequence[Any] | np.ndarray | None = None
) -> float:
    """Number of distinct relabellings within strata: 1 / this is the smallest p permutation can give."""
    from scipy.special import comb

    is_first = np.asarray(is_first, bool)
    return float(np.prod([comb(len(m), is_first[m].sum()) for m in _members(len(is_first), strata)]))


def permutation_max_t(
    values: Values,
    is_first: Bool[np.ndarray, " item"],
    *,
    strata: Sequence[Any] | np.ndarray | None = None,
    seed: int = 0,
    draws: int = 2000,
    alternative: Alternative = "two-sided",
) -> MaxT:
    """Which cells differ between two groups of items, corrected over all cells by the maximum statistic.

    Welch t of first minus rest per cell; labels are permuted within strata; p = (1 + #{null max >= t}) /
    (1 + draws), so never 0. A curve that is 0 for both groups has t 0 and p 1.
    """
    values, is_first = np.asarray(values, float), np.asarray(is_first, bool)
    _check_groups(is_first, strata)
    flat = values.reshape(len(values), -1)
    labels = np.concatenate([is_first[None], permuted_labels(is_first, draws, seed, strata)]).astype(float)
    t = two_sample_t(flat, labels, 1.0 - labels)
    return _max_t(t, values.shape[1:], alternative)


def _check_groups(is_first: np.ndarray, strata: Sequence[Any] | np.ndarray | None) -> None:
    n_first, n_rest = int(is_first.sum()), int((~is_first).sum())
    if min(n_first, n_rest) < 2:
        raise InputError(f"groups of {n_first} and {n_rest} items: two groups need at least 2 items each")
    if n_arrangements(is_first, strata) < 20:
        raise InputError(
            f"groups of {n_first} and {n_rest} items have fewer than 20 relabellings within the strata, so no "
            "p below .05 is possible: at least 3 items per group in one stratum are needed (or fewer strata)"
        )


def sign_flip_max_t(
    differences: Values, *, seed: int = 0, draws: int = 2000, alternative: Alternative = "two-sided"
) -> MaxT:
    """Which cells of paired differences are not centred on 0, corrected over all cells; one sign per item.

    An item's sign flips in all its cells at once, which keeps the correlation across cells.
    """
    differences = np.asarray(differences, float)
    n_items = len(differences)
    if n_items < 5:
        raise InputError(f"{n_items} paired items: no p below .05 is possible; at least 6 items are needed")
    flat = differences.reshape(n_items, -1)
    measured = ~np.isnan(flat)
    x, n = np.where(measured, flat, 0.0), measured.sum(0)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(draws, n_items))
    mean = _divide(np.concatenate([np.ones((1, n_items)), signs]) @ x, np.maximum(n, 1))
    spread = np.maximum((x**2).sum(0) - n * mean**2, 0.0)
    spread[spread <= 1e-12 * (x**2).sum(0)] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(mean == 0, 0.0, mean / np.sqrt(spread / (n * (n - 1))))
    t[:, n < 2] = np.nan
    return _max_t(t, differences.shape[1:], alternative)


def _max_t(t: np.ndarray, cells: tuple[int, ...], alternative: Alternative) -> MaxT:
    """Row 0 of `t` is what was observed, the others its null; NaN cells take no part."""
    directed = {"two-sided": np.abs(t), "greater": t, "less": -t}[alternative]
    directed = np.where(np.isnan(directed), -np.inf, directed)
    null = directed[1:].max(1)
    p_cell = (1.0 + (null[:, None] >= directed[:1]).sum(0)) / (1.0 + len(null))
    p_cell[np.isnan(t[0])] = np.nan
    best = int(directed[0].argmax())
    return MaxT(t[0].reshape(cells), p_cell.reshape(cells), float(p_cell[best]), best, null)


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided exact McNemar p for `b` items lost and `c` gained; 1 when nothing changed."""
    from scipy.stats import binomtest

    return 1.0 if b + c == 0 else float(binomtest(min(b, c), b + c, 0.5).pvalue)


def wilson(successes: int, n: int, level: float = 0.95) -> Estimate:
    """A proportion of items with its Wilson score interval (rollouts of one item must not be counted in n)."""
    from statsmodels.stats.proportion import proportion_confint

    if not 0 <= successes <= n:
        raise InputError(f"{successes} successes of {n} items: expected 0 <= successes <= n")
    low, high = proportion_confint(successes, n, alpha=1 - level, method="wilson") if n else (np.nan, np.nan)
    value = successes / n if n else np.nan
    return Estimate(*(np.asarray(part) for part in (value, low, high, n)))


def holm(p: Sequence[float] | np.ndarray) -> Float[np.ndarray, " test"]:
    """Holm-adjusted p-values; NaN (a test not made) stays NaN and is not counted."""
    from statsmodels.stats.multitest import multipletests

    p = np.asarray(p, float)
    out = np.full(p.shape, np.nan)
    made = ~np.isnan(p)
    if made.any():
        out[made] = multipletests(p[made], method="holm")[1]
    return out


# ---------------------------------------------------------------- where on a curve


def bootstrap_argmax(
    values: Float[np.ndarray, "item cell"],
    is_first: Bool[np.ndarray, " item"] | None = None,
    *,
    seed: int = 0,
    draws: int = 2000,
    studentise: bool = True,
) -> Int[np.ndarray, " draw"]:
    """Index of the largest cell in each bootstrap draw of the items: how sure "the peak is here" is.

    With `is_first` the curve is the (studentised) difference of the two groups, resampled within each;
    without, the mean curve. Draws where no cell can be computed give -1.
    """
    values = np.asarray(values, float)
    counts = resample_counts(len(values), draws, seed, is_first)
    if is_first is None:
        measured = ~np.isnan(values)
        curve = _divide(counts @ np.where(measured, values, 0.0), counts @ measured)
    elif studentise:
        first = np.asarray(is_first, float)
        curve = two_sample_t(values, counts * first, counts * (1.0 - first))
    else:
        first = np.asarray(is_first, bool)
        measured = ~np.isnan(values)
        filled = np.where(measured, values, 0.0)
        curve = _divide((counts * first) @ filled, (counts * first) @ measured)
        curve -= _divide((counts * ~first) @ filled, (counts * ~first) @ measured)
    best = np.where(np.isnan(curve), -np.inf, curve)
    return np.where(np.isnan(curve).all(1), -1, best.argmax(1))


def change_points(curve: Float[np.ndarray, " layer"], *, max_breaks: int = 2) -> tuple[int, ...]:
    """Indices where the mean of a curve shifts: least squares with 0-2 breaks, their number chosen by BIC.

    A break at b separates curve[:b] from curve[b:]. Descriptive: no p-value. BIC = n ln(SSR/n) + k ln n with
    k = 2 breaks + 1 (means and positions).
    """
    from itertools import combinations

    curve = np.asarray(curve, float)
    if np.isnan(curve).any():
        raise InputError("change_points: the curve has cells that were not measured (NaN); leave them out")
    n = len(curve)
    floor = n * (1e-12 + 1e-9 * np.ptp(curve)) ** 2  # a perfect fit would give ln 0 and any number of breaks
    best: tuple[float, tuple[int, ...]] = (np.inf, ())
    for k in range(min(max_breaks, n - 1) + 1):
        for breaks in combinations(range(1, n), k):
            residual = sum(float(((part - part.mean()) ** 2).sum()) for part in np.split(curve, breaks))
            score = n * np.log(max(residual, floor) / n) + (2 * k + 1) * np.log(n)
            if score < best[0] - 1e-9:
                best = (float(score), breaks)
    return best[1]
