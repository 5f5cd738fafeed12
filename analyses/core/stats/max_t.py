"""Which of many cells differ: tests and intervals that hold for all cells together, whatever the spreads and sizes.

A permutation of labels tests whether two *distributions* are the same: with unequal spreads, sizes and skew it rejects
equal means far too often (8 variable items against 80: .64 of nulls). Here the statistic is studentised (Welch), and
its null distribution is that of the largest |t| over all cells when items are drawn again within their own group and
measured from their own group's mean: one draw for all cells, which keeps the correlation over cells, and a standard
error anew in every draw, which keeps unequal spreads and skew. A cell in which all but a few items
are equal says too little of its own spread (drawn again, it often has none): its variance is raised by what `UNSEEN`
more items could bring, each as far off as the values of the family reach. A cell of more such items has that variance
in the draws that hold none of them, where it would have none: its t would be infinite, and so would every interval of
the family. NaN means "not measured". Never imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float

from analyses.core.stats.resampling import Array, Labels, divide, members_of
from probe.errors import InputError

Alternative: TypeAlias = Literal["two-sided", "greater", "less"]
Values: TypeAlias = Float[np.ndarray, "item *cell"]
FEWEST = 5  # items per group: below, signs cannot give p < .05 for a maximum
ALIKE = 5  # items that differ from the rest: with fewer, over one draw in a hundred has no spread at all
UNSEEN = 3  # of n more items, that may differ though none of n did (the rule of three)


@dataclass(frozen=True)
class MaxT:
    """Statistics of all cells, with p-values and intervals that hold for all cells together.

    `t` is studentised, `p_cell` each cell's adjusted p (single step), `p` that of the largest statistic, `argmax` its
    flat index, `null` the null distribution of the maximum; `value` with `low` and `high` are the estimates with 95 %
    intervals simultaneous over the cells (two-sided whatever the alternative), which leave out 0 where p is below .05.
    """

    t: Float[np.ndarray, "*cell"]
    p_cell: Float[np.ndarray, "*cell"]
    p: float
    argmax: int
    null: Float[np.ndarray, " draw"]
    value: Float[np.ndarray, "*cell"]
    low: Float[np.ndarray, "*cell"]
    high: Float[np.ndarray, "*cell"]


@dataclass(frozen=True)
class _Sums:
    """A sum of independent means: value and variance [cell], and in every draw [draw, cell]."""

    value: Array
    variance: Array
    drawn: Array
    variances: Array
    unseen: Array  # [cell]: variance that items unlike the rest could add; 0 where the cell has a spread of its own

    def __add__(self, other: _Sums) -> _Sums:
        both = np.where(self.unseen * other.unseen > 0, self.unseen + other.unseen, 0.0)
        means = self.value + other.value, self.variance + other.variance
        return _Sums(*means, self.drawn + other.drawn, self.variances + other.variances, both)

    def times(self, weight: float) -> _Sums:
        parts = self.value * weight, self.variance * weight**2, self.drawn * weight, self.variances * weight**2
        return _Sums(*parts, self.unseen * weight**2)

    def with_unseen(self) -> _Sums:
        """The variances raised wherever there is a value to doubt."""
        more = np.where(self.value != 0, self.unseen, 0.0)
        return replace(self, variance=self.variance + more, variances=self.variances + more)


def group_max_t(
    values: Values,
    is_first: Bool[np.ndarray, " item"],
    *,
    strata: Labels | None = None,
    clusters: Labels | None = None,
    seed: int = 0,
    draws: int = 2000,
    alternative: Alternative = "two-sided",
    level: float = 0.95,
) -> MaxT:
    """Cells whose mean differs between the first group of items and the rest, corrected over all cells.

    Args:
        values: one number per item and cell.
        is_first: which items are of the first group.
        strata: labels within which groups are compared; strata without two items of each group are left out.
        clusters: items of one label are one unit within their group (templates, documents).
        seed: of the draws.
        draws: bootstrap draws.
        alternative: of the first group minus the rest.
        level: at which the intervals hold together.

    Raises:
        InputError: fewer than five units in a group.
    """
    values, is_first = np.asarray(values, float), np.asarray(is_first, bool)
    flat = values.reshape(len(values), -1)
    kinds = (
        np.zeros(len(flat), int)
        if strata is None
        else np.unique(np.asarray(strata).astype(str), return_inverse=True)[1]
    )
    if clusters is not None:
        flat, is_first, kinds = _units(flat, is_first, kinds, np.asarray(clusters).astype(str))
    sizes = int(is_first.sum()), int((~is_first).sum())
    if min(sizes) < FEWEST:
        raise InputError(f"groups of {sizes[0]} and {sizes[1]} items: a comparison needs at least {FEWEST} in each")
    rng = np.random.default_rng(seed)
    found: list[tuple[float, _Sums]] = []
    for members in members_of(len(flat), kinds):
        first, rest = members[is_first[members]], members[~is_first[members]]
        if min(len(first), len(rest)) >= 2:
            difference = _mean(flat[first], draws, rng) + _mean(flat[rest], draws, rng).times(-1.0)
            found.append((len(first) * len(rest) / len(members), difference))
    if not found:
        raise InputError("no stratum has two items of each group: use fewer strata")
    whole = sum(weight for weight, _ in found)
    total, *others = (difference.times(weight / whole) for weight, difference in found)
    for other in others:
        total = total + other
    return _tested(total, values.shape[1:], alternative, level)


def mean_max_t(
    values: Values,
    *,
    clusters: Labels | None = None,
    seed: int = 0,
    draws: int = 2000,
    alternative: Alternative = "two-sided",
    level: float = 0.95,
) -> MaxT:
    """Cells whose mean over items is not 0 (paired differences, effects), corrected over all cells.

    Raises:
        InputError: fewer than five items.
    """
    values = np.asarray(values, float)
    flat = values.reshape(len(values), -1)
    if clusters is not None:
        alone = np.ones(len(flat), bool)
        flat, _, _ = _units(flat, alone, np.zeros(len(flat), int), np.asarray(clusters).astype(str))
    if len(flat) < FEWEST:
        raise InputError(f"{len(flat)} paired items: no p below .05 is possible; at least {FEWEST} are needed")
    return _tested(_mean(flat, draws, np.random.default_rng(seed)), values.shape[1:], alternative, level)


def _units(flat: Array, is_first: Array, kinds: Array, clusters: Array) -> tuple[Array, Array, Array]:
    """Items of one cluster (and group, and stratum) averaged."""
    _, codes = np.unique(np.stack([clusters, is_first.astype(str), kinds.astype(str)]), axis=1, return_inverse=True)
    codes = np.asarray(codes).ravel()
    first = np.unique(codes, return_index=True)[1]
    measured = ~np.isnan(flat)
    sums, counts = np.zeros((2, len(first), flat.shape[1]))
    np.add.at(sums, codes, np.where(measured, flat, 0.0))
    np.add.at(counts, codes, measured)
    return divide(sums, counts), is_first[first], kinds[first]


def _mean(flat: Array, draws: int, rng: np.random.Generator) -> _Sums:
    """The mean of some items, and how far the mean of items drawn again lies from it, with its variance each time."""
    measured = ~np.isnan(flat)
    n = measured.sum(0)
    mean = divide(np.where(measured, flat, 0.0).sum(0), n)
    e = np.where(measured, flat - mean, 0.0)
    e[:, np.abs(e).max(0, initial=0.0) <= 1e-12 * np.abs(np.nan_to_num(mean))] = 0.0  # rounding is no spread
    counts = rng.multinomial(len(flat), np.full(len(flat), 1 / len(flat)), size=draws).astype(float)
    drawn = counts @ measured if not measured.all() else np.full((draws, 1), float(len(flat)))
    moved = divide(counts @ e, np.broadcast_to(drawn, (draws, e.shape[1])))
    spread = np.maximum(counts @ e**2 - drawn * moved**2, 0.0)
    spread[spread <= 1e-12 * (e**2).sum(0)] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        variances = spread / (drawn * (drawn - 1))
        variance = np.where(n > 1, (e**2).sum(0) / (n * (n - 1.0)), np.nan)
    known = flat[measured]
    farthest = np.maximum(known.max(initial=0.0) - mean, mean - known.min(initial=0.0))
    doubt = UNSEEN * divide(farthest, n) ** 2
    variances = np.where((variances == 0) & (moved != 0), doubt, variances)
    return _Sums(mean, variance, moved, variances, np.where(_alike(e, measured), doubt, 0.0))


def _alike(e: Array, measured: Array) -> Array:
    """Cells in which fewer than `ALIKE` items, and at most half of them, differ from the rest."""
    known = np.where(measured | ~measured.any(0), e, np.nan)
    apart = np.abs(known - np.nanmedian(known, axis=0))
    differ = (apart > 1e-12 * np.abs(e).max(0, initial=0.0)).sum(0)
    return (differ < ALIKE) & (2 * differ <= measured.sum(0))


def _tested(sums: _Sums, cells: tuple[int, ...], alternative: Alternative, level: float) -> MaxT:
    sums = sums.with_unseen()
    t, drawn = _studentised(sums.value, sums.variance), _studentised(sums.drawn, sums.variances)
    known = ~np.isnan(t)
    drawn = np.where(known & ~np.isnan(drawn), drawn, 0.0)
    sides = {"two-sided": np.abs, "greater": np.asarray, "less": np.negative}
    directed, null = sides[alternative](t), sides[alternative](drawn).max(1)
    p_cell = (1.0 + (null[:, None] >= directed[None]).sum(0)) / (1.0 + len(null))
    p_cell[~known] = np.nan
    best = int(np.where(known, directed, -np.inf).argmax())
    reach = np.quantile(np.abs(drawn).max(1), level, method="higher") * np.sqrt(sums.variance)
    bands = (part.reshape(cells) for part in (sums.value, sums.value - reach, sums.value + reach))
    return MaxT(t.reshape(cells), p_cell.reshape(cells), float(p_cell[best]), best, null, *bands)


def _studentised(value: Array, variance: Array) -> Array:
    """value / sqrt(variance); 0 where both are 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((variance == 0) & (np.abs(value) < 1e-300), 0.0, value / np.sqrt(variance))
