"""Intervals in closed form that cover: for proportions, means and ratios of skewed values, and their differences.

Percentile bootstraps leave the truth out too often where users are: few items, skewed or binary values, ratios
(measured in benchmarks/nulls/coverage.json). What is done here instead, cell by cell and for all cells at once:

- 0/1 per unit: Clopper and Pearson's exact interval below 64 units (Wilson's falls to .85), then Wilson's.
- -1/0/1 per unit (a paired change of 0/1): Tango's score interval (1998), by Student's quantile.
- anything else: the interval that inverts a t test of `top - theta bottom = 0` (Fieller's for a ratio, Student's for a
  mean), and the same with the t statistic freed of skewness by Hall's cubic transformation (1992); on each side the
  farther of the two. Both need only the first three moments, so there is nothing to draw.
- a difference of two independent groups: from each group's own interval (MOVER, Zou and Donner 2008; of 0/1 values that
  is Newcombe's).

No interval (NaN, "too few") below `LEAST` units, or where at least half of them agree exactly and fewer than `DIFFER`
differ from those: such data say how often something happens, not how large it is. Never imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
import scipy

Array: TypeAlias = np.ndarray
Outcomes: TypeAlias = Literal["share", "change", "any"]

LEAST = 6  # units; below, no interval covers skewed data
DIFFER = 5  # units that must differ from the value most of them share
MANY = 64  # units from which on Wilson's interval of a proportion covers
ROUNDS = 14  # of the fixed point for ratios; a mean needs one


def of_ratio(
    top: Array, bottom: Array, level: float = 0.95, *, outcomes: Outcomes = "any"
) -> tuple[Array, Array, Array]:
    """(low, high, n) of the ratio of sums of every cell; top and bottom are [unit, cell], NaN: not measured.

    Args:
        top: numerators, one per unit and cell.
        bottom: denominators; 1 for a mean.
        level: of the interval.
        outcomes: what every unit's ratio is: a `share` of outcomes that are 0 or 1, a paired `change` of those, or
            anything, where nothing but zeros may as well be an effect in nats.
    """
    measured = ~(np.isnan(top) | np.isnan(bottom))
    n = measured.sum(0)
    x, y = np.where(measured, top, 0.0), np.where(measured, bottom, 0.0)
    side = np.where(y.sum(0) < 0, -1.0, 1.0)  # of a negative denominator the lower bound would be the upper one
    x, y = x * side, y * side
    low, high = _by_moments(x, y, measured, level)
    own = np.where(measured, _divide(x, y), np.nan)
    few = _too_few(own, n)
    shares = few if outcomes == "share" else np.zeros_like(few)
    whole = np.full(len(few), outcomes != "any") & (y == measured).all(0)  # a mean, not a ratio
    exact: tuple[tuple[Array, Callable[[Array], tuple[Array, Array]]], ...] = (
        (shares, lambda at: proportion(_divide(x.sum(0), y.sum(0))[at] * n[at], n[at], level)),
        (whole & _only(own, 0.0, 1.0) & (outcomes == "share"), lambda at: proportion(x.sum(0)[at], n[at], level)),
        (whole & _only(own, -1.0, 0.0, 1.0) & (outcomes == "change"),
         lambda at: trinomial((own == 1).sum(0)[at], (own == -1).sum(0)[at], n[at], level)),
    )  # fmt: skip
    for cells, bounds in exact:
        if cells.any():
            low[cells], high[cells] = bounds(cells)
            few = few & ~cells
    gone = few | (n < LEAST)
    return np.where(gone, np.nan, low), np.where(gone, np.nan, high), n


def _only(own: Array, *values: float) -> Array:
    """Cells in which every measured unit is one of the values."""
    return np.asarray((np.isin(own, values) | np.isnan(own)).all(0))


def _divide(top: Array, bottom: Array) -> Array:
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom != 0)


def _too_few(own: Array, n: Array) -> Array:
    """At least half of the units agree exactly, and too few differ from those."""
    ordered = np.sort(own, axis=0)  # NaN last
    middle = np.take_along_axis(ordered, np.maximum((n - 1) // 2, 0)[None], axis=0)
    alike = np.isclose(own, middle, rtol=1e-12, atol=0.0).sum(0)
    return (2 * alike >= n) & (n - alike < DIFFER)


def _by_moments(x: Array, y: Array, measured: Array, level: float) -> tuple[Array, Array]:
    """Fieller's interval and its skewness-corrected form; the farther bound of the two on each side."""
    n = measured.sum(0)
    some = np.maximum(n, 2)
    mean_x, mean_y = x.sum(0) / np.maximum(n, 1), y.sum(0) / np.maximum(n, 1)
    u, v = np.where(measured, x - mean_x, 0.0), np.where(measured, y - mean_y, 0.0)
    second = [(p * q).sum(0) / np.maximum(n, 1) for p, q in ((u, u), (u, v), (v, v))]
    third = [(p * q * r).sum(0) / np.maximum(n, 1) for p, q, r in ((u, u, u), (u, u, v), (u, v, v), (v, v, v))]
    quantile = np.asarray(scipy.stats.t.ppf((1 + level) / 2, some - 1))
    value = _divide(mean_x, mean_y)
    bounds: list[Array] = []
    for side in (1.0, -1.0):
        plain, freed = (_bound(value, mean_y, second, third, some, side * quantile, is_freed) for is_freed in (0, 1))
        bounds.append(np.fmin(plain, freed) if side > 0 else np.fmax(plain, freed))
    return bounds[0], bounds[1]


def _bound(
    value: Array, mean_y: Array, second: list[Array], third: list[Array], n: Array, quantile: Array, is_freed: int
) -> Array:
    """The theta at which the t statistic of `x - theta y` reaches the quantile, by iteration from the estimate."""
    theta = value
    with np.errstate(all="ignore"):
        for number in range(ROUNDS):
            spread = np.maximum(second[0] - 2 * theta * second[1] + theta**2 * second[2], 0.0)
            skew = third[0] - 3 * theta * third[1] + 3 * theta**2 * third[2] - theta**3 * third[3]
            k = skew / np.maximum(spread, 1e-300) ** 1.5 / np.sqrt(n)
            k = np.where(np.abs(k) < 1e-7, 1e-7, k)
            shift = 3 / k * (np.cbrt(1 + k * (quantile - k / 6)) - 1) if is_freed else quantile
            following = value - shift * np.sqrt(spread / (n - 1)) / mean_y
            theta = following if number < ROUNDS // 2 else (theta + following) / 2
    return np.where(np.isfinite(theta), theta, np.nan)


def proportion(successes: Array, n: Array, level: float = 0.95) -> tuple[Array, Array]:
    """(low, high) of successes / n: Clopper and Pearson's, from `MANY` on Wilson's; NaN where n is 0.

    Args:
        successes: units that are right.
        n: units.
        level: share that the interval covers.
    """
    n = np.asarray(n, float)
    p = _divide(np.asarray(successes, float), n)
    z = float(scipy.stats.norm.ppf((1 + level) / 2))
    with np.errstate(all="ignore"):
        middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        hits, misses, tail = p * n, n - p * n, (1 - level) / 2
        exact_low = np.where(hits > 0, scipy.stats.beta.ppf(tail, hits, misses + 1), 0.0)
        exact_high = np.where(misses > 0, scipy.stats.beta.ppf(1 - tail, hits + 1, misses), 1.0)
    low = np.where(n < MANY, exact_low, np.where(p == 0, 0.0, middle - half))
    high = np.where(n < MANY, exact_high, np.where(p == 1, 1.0, middle + half))
    return np.where(n > 0, np.fmin(low, p), np.nan), np.where(n > 0, np.fmax(high, p), np.nan)


def trinomial(up: Array, down: Array, n: Array, level: float = 0.95) -> tuple[Array, Array]:
    """(low, high) of (up - down) / n, of n units that each went up, down or neither: Tango's score interval.

    Args:
        up: units that went up.
        down: units that went down.
        n: units.
        level: share that the interval covers.
    """
    b, c, n = (np.asarray(v, float) for v in (up, down, np.maximum(n, 1)))
    z = np.asarray(scipy.stats.t.ppf((1 + level) / 2, np.maximum(n - 1, 1)))
    value = (b - c) / n
    bounds: list[Array] = []
    for sign in (-1.0, 1.0):
        inside, outside = value.copy(), np.full_like(value, sign)
        for _ in range(50):
            middle = (inside + outside) / 2
            within = np.abs(_tango(b, c, n, middle)) <= z
            inside, outside = np.where(within, middle, inside), np.where(within, outside, middle)
        bounds.append(inside)
    return bounds[0], bounds[1]


def _tango(b: Array, c: Array, n: Array, delta: Array) -> Array:
    """Score statistic of "the difference is delta" (Tango 1998, with the maximum likelihood of the losses under it)."""
    w = -b - c + (2 * n - b + c) * delta
    v = -c * delta * (1 - delta)
    losses = (np.sqrt(np.maximum(w**2 - 8 * n * v, 0.0)) - w) / (4 * n)
    spread = n * (2 * losses + delta * (1 - delta))
    with np.errstate(all="ignore"):
        score = (b - c - n * delta) / np.sqrt(np.maximum(spread, 0.0))
    return np.where(b - c == n * delta, 0.0, score)


def of_difference(first: tuple[Array, Array, Array], second: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    """(low, high) of one independent estimate minus another, each given as (value, low, high)."""
    (a, a_low, a_high), (b, b_low, b_high) = first, second
    low = a - b - np.sqrt((a - a_low) ** 2 + (b_high - b) ** 2)
    high = a - b + np.sqrt((a_high - a) ** 2 + (b - b_low) ** 2)
    return low, high


def percentiles(drawn: Array, n: int, level: float = 0.95, method: Any = "linear") -> tuple[Array, Array]:
    """(low, high) of bootstrap draws [draw, ...] of n units: the quantiles that make the interval as wide as Student's.

    Plain .025 and .975 are narrow below some 50 units: they lack n / (n - 1), and are the normal's. NaN below `LEAST`
    units and where no draw is defined; draws that are NaN do not count. Plain quantiles where n is 0: not given.

    Args:
        drawn: the statistic in each draw.
        n: units drawn from, 0 where that is not known.
        level: share that the interval covers.
        method: of `numpy.quantile`.
    """
    drawn = np.asarray(drawn, float)
    bounds = np.full((2, *drawn.shape[1:]), np.nan)
    defined = ~np.isnan(drawn).all(0)
    if 0 < n < LEAST or not defined.any():
        return bounds[0], bounds[1]
    tail = _expanded_tail(n, level) if n else (1 - level) / 2
    bounds[:, defined] = np.nanquantile(drawn[:, defined], [tail, 1 - tail], axis=0, method=method)
    return bounds[0], bounds[1]


def _expanded_tail(n: int, level: float) -> float:
    """Lower tail of the draws that is as far out as Student's quantile of the mean of n normal values."""
    return float(scipy.stats.norm.cdf(scipy.stats.t.ppf((1 - level) / 2, n - 1) * np.sqrt(n / (n - 1))))
