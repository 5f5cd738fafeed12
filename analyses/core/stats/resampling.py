"""Drawing items again: bootstrap counts, permuted labels, and the statistic computed for all draws at once.

A draw is a row of weights over items, so that any mean over items is one matrix product for all draws and all
cells, and every cell sees the same draw. NaN in values means "not measured". Never imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from math import comb, prod
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from probe.errors import InputError

Array: TypeAlias = np.ndarray
Labels: TypeAlias = Sequence[Any] | Array


def resample_counts(
    n: int, draws: int, seed: int, strata: Labels | None = None, clusters: Labels | None = None
) -> Float[np.ndarray, "draw item"]:
    """How often each of `n` items is taken in each bootstrap draw; within strata, whole clusters at a time.

    Args:
        n: number of items.
        draws: number of draws.
        seed: of the draws.
        strata: label of each item within which it is drawn, None: all together.
        clusters: label of each item; those of one label are drawn together.
    """
    rng = np.random.default_rng(seed)
    counts = np.zeros((draws, n))
    if clusters is not None:
        codes = codes_of(clusters)
        first = np.unique(codes, return_index=True)[1]
        within = None if strata is None else np.asarray(strata)[first]
        return resample_counts(len(first), draws, seed, within)[:, codes]
    for members in members_of(n, strata):
        size = len(members)
        counts[:, members] = rng.multinomial(size, np.full(size, 1 / size), size=draws)
    return counts


def subsamples(
    n: int, draws: int, seed: int, strata: Labels | None = None, least: int = 2, clusters: Labels | None = None
) -> Bool[np.ndarray, "draw item"]:
    """Which of `n` items are kept in each draw: half of each stratum, at least `least` of it, and none twice.

    Of items in clusters (templates, documents) whole clusters are kept, at least `least` of them.

    For statistics of pairs of items. A bootstrap puts doubles of an item beside it, which raises similarities and
    distances of groups until the value of all items lies outside its own interval.

    Args:
        n: number of items.
        draws: number of draws.
        seed: of the draws.
        strata: label of each item within which it is drawn, None: all together.
        least: fewest items (or clusters) kept of a stratum.
        clusters: label of each item; those of one label are drawn together.
    """
    if clusters is not None:
        codes = codes_of(clusters)
        first = np.unique(codes, return_index=True)[1]
        within = None if strata is None else np.asarray(strata)[first]
        return subsamples(len(first), draws, seed, within, least)[:, codes]
    rng = np.random.default_rng(seed)
    kept = np.zeros((draws, n), bool)
    for members in members_of(n, strata):
        size = min(len(members), max((len(members) + 1) // 2, least))
        order = rng.random((draws, len(members))).argsort(1)
        kept[:, members] = order < size
    return kept


def subsample_interval(
    values: Float[np.ndarray, "draw cell"], kept: Bool[np.ndarray, "draw item"], level: float = 0.95
) -> Float[np.ndarray, "bound cell"]:
    """Interval around entry 0 (all items) from the spread of the others over subsamples; NaN where none was measured.

    Source: the delete-d jackknife (Shao and Wu, Annals of Statistics 17, 1989): sd * sqrt(kept / deleted). Does not
    cover the bias that a statistic itself has with few items.

    Args:
        values: statistic of all items (entry 0) and of each subsample.
        kept: which items each subsample holds.
        level: share that the interval covers.
    """
    used = float(kept.sum(1).mean()) if len(kept) else float(kept.shape[1])
    spread = np.full(values.shape[1], np.nan)
    seen = (~np.isnan(values[1:])).sum(0) > 1
    if used < kept.shape[1]:
        spread[seen] = np.nanstd(values[1:, seen], axis=0) * np.sqrt(used / (kept.shape[1] - used))
    half = NormalDist().inv_cdf((1 + level) / 2) * spread
    return np.stack([values[0] - half, values[0] + half])


_CLUSTERS: ContextVar[Mapping[str, str] | None] = ContextVar("clusters of items", default=None)


@contextmanager
def clusters(of_items: Mapping[str, str]) -> Iterator[None]:
    """While this is open, items that share a cluster are one unit: a fact of a run's inputs, not of each analysis."""
    token = _CLUSTERS.set(of_items)
    try:
        yield
    finally:
        _CLUSTERS.reset(token)


def clusters_of(items: Iterable[object]) -> list[str] | None:
    """A cluster label per item, of the run that is on; None where every item stands alone."""
    known = _CLUSTERS.get()
    if not known:
        return None
    names = list(map(str, items))
    found = [known.get(name, name) for name in names]
    return found if len(set(found)) < len(set(names)) else None


def codes_of(labels: Labels) -> Array:
    """Labels as numbers from 0, in sorted order."""
    return np.unique(np.asarray(labels).astype(str), return_inverse=True)[1].ravel()


def clustered(values: Float[np.ndarray, "item cell"], codes: Array) -> Float[np.ndarray, "cluster cell"]:
    """Sums over the items of each cluster; NaN where none of a cluster's items was measured."""
    measured = ~np.isnan(values)
    sums, seen = np.zeros((2, int(codes.max()) + 1, values.shape[1]))
    np.add.at(sums, codes, np.where(measured, values, 0.0))
    np.add.at(seen, codes, measured)
    return np.where(seen > 0, sums, np.nan)


def members_of(n: int, strata: Labels | None) -> list[Array]:
    """Indices of each stratum's items, in the order of the sorted stratum codes."""
    if strata is None:
        return [np.arange(n)]
    codes = pd.factorize(np.asarray(strata), sort=True)[0]
    if len(codes) != n:
        raise InputError(f"strata has {len(codes)} entries for {n} items: give one stratum per item")
    return [np.flatnonzero(codes == code) for code in np.unique(codes)]


def divide(top: Array, bottom: Array) -> Array:
    """top / bottom with NaN (not measured) where the denominator is 0."""
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom != 0)


def permuted_labels(
    is_first: Bool[np.ndarray, " item"],
    draws: int,
    seed: int,
    strata: Labels | None = None,
) -> Bool[np.ndarray, "draw item"]:
    """Group labels permuted within strata, one row per draw; each stratum keeps its group sizes.

    >>> permuted_labels([True, False, False], draws=2, seed=0).sum(1)  # each draw has as many of the first group
    array([1, 1])

    Args:
        is_first: True for items of the first group.
        draws: number of draws.
        seed: of the draws.
        strata: label of each item within which it is drawn, None: all together.
    """
    rng = np.random.default_rng(seed)
    is_first = np.asarray(is_first, bool)
    out = np.tile(is_first, (draws, 1))
    for members in members_of(len(is_first), strata):
        out[:, members] = rng.permuted(out[:, members], axis=1)
    return out


def n_arrangements(is_first: Bool[np.ndarray, " item"], strata: Labels | None = None) -> float:
    """Number of distinct relabellings within strata: 1 / this is the smallest p permutation can give."""

    is_first = np.asarray(is_first, bool)
    return float(prod(comb(len(m), int(is_first[m].sum())) for m in members_of(len(is_first), strata)))


def two_sample_t(
    values: Float[np.ndarray, "item cell"],
    first: Float[np.ndarray, "draw item"],
    second: Float[np.ndarray, "draw item"],
) -> Float[np.ndarray, "draw cell"]:
    """Welch t of first minus second for many weightings of the items (0/1 labels or bootstrap counts).

    Where both groups are constant, t is 0 if the means agree and +-inf if they do not; NaN where a group has
    fewer than two measured items.

    Args:
        values: quantity of each item in each cell; NaN is left out.
        first: weights of the first group in each draw.
        second: weights of the second group.
    """
    measured = ~np.isnan(values)
    center = np.where(measured.any(0), np.nanmean(np.where(measured.any(0), values, 0.0), axis=0), 0.0)
    x = np.where(measured, values - center, 0.0)  # centring first: E[x^2]-E[x]^2 cancels badly otherwise
    # Constant columns differ from their mean by rounding only, which must not become a statistic.
    x[:, np.abs(x).max(0, initial=0.0) <= 1e-12 * np.abs(center)] = 0.0
    sides: list[tuple[Array, Array]] = []
    for weights in (first, second):
        n = weights @ measured
        mean = divide(weights @ x, n)
        spread = np.maximum(weights @ x**2 - n * mean**2, 0.0)
        spread[spread <= 1e-12 * np.maximum(weights @ x**2, 1e-300)] = 0.0
        sides.append((mean, np.where(n > 1, divide(spread, n * (n - 1)), np.nan)))
    gap = sides[0][0] - sides[1][0]
    gap[np.abs(gap) <= 1e-14 * np.abs(x).max(0, initial=0.0)] = 0.0
    error = np.sqrt(sides[0][1] + sides[1][1])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((error == 0) & (gap == 0), 0.0, gap / error)
