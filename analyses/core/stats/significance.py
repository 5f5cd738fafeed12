"""Tests over items: sign flips, permutation within strata with the maximum statistic, where a curve peaks.

SciPy, statsmodels and ruptures do what they have; own code is what they lack, namely one relabelling shared
by all cells (max-t) and the bootstrap of an argmax. A p-value is never 0: the observed labelling counts among
the draws. NaN means "not measured". Never imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import scipy
from jaxtyping import Bool, Float, Int

from analyses.core.stats.resampling import (
    Array,
    Labels,
    divide,
    n_arrangements,
    permuted_labels,
    resample_counts,
    two_sample_t,
)
from probe.errors import InputError

Alternative: TypeAlias = Literal["two-sided", "greater", "less"]
Values: TypeAlias = Float[np.ndarray, "item *cell"]


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

    kept = np.asarray(differences, float)
    kept = kept[~np.isnan(kept)]
    if not len(kept):
        return float("nan")
    if not kept.any():
        return 1.0
    if len(kept) == 1:  # SciPy wants two observations; the exact distribution has two points
        as_predicted = (kept[0] > 0) == (alternative == "greater")
        return 0.5 if as_predicted and alternative != "two-sided" else 1.0
    test = cast(Any, scipy.stats).permutation_test(
        (kept,), lambda x, axis: np.mean(x, axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=draws, alternative=alternative, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(test.pvalue)


def permutation_max_t(
    values: Values,
    is_first: Bool[np.ndarray, " item"],
    *,
    strata: Labels | None = None,
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


def _check_groups(is_first: Array, strata: Labels | None) -> None:
    n_first, n_rest = int(is_first.sum()), int((~is_first).sum())
    if min(n_first, n_rest) < 2:
        raise InputError(f"groups of {n_first} and {n_rest} items: two groups need at least 2 items each")
    if n_arrangements(is_first, strata) < 20:
        raise InputError(
            f"groups of {n_first} and {n_rest} items have fewer than 20 relabellings within the strata: no p "
            "below .05 is possible, at least 3 items per group in one stratum are needed (or fewer strata)"
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
    mean = divide(np.concatenate([np.ones((1, n_items)), signs]) @ x, np.maximum(n, 1))
    spread = np.maximum((x**2).sum(0) - n * mean**2, 0.0)
    spread[spread <= 1e-12 * (x**2).sum(0)] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(mean == 0, 0.0, mean / np.sqrt(spread / (n * (n - 1))))
    t[:, n < 2] = np.nan
    return _max_t(t, differences.shape[1:], alternative)


def _max_t(t: Array, cells: tuple[int, ...], alternative: Alternative) -> MaxT:
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

    return 1.0 if b + c == 0 else float(cast(Any, scipy.stats).binomtest(min(b, c), b + c, 0.5).pvalue)


def holm(p: Sequence[float] | Array) -> Float[np.ndarray, " test"]:
    """Holm-adjusted p-values; NaN (a test not made) stays NaN and is not counted."""
    from statsmodels.stats.multitest import multipletests

    p = np.asarray(p, float)
    out = np.full(p.shape, np.nan)
    made = ~np.isnan(p)
    if made.any():
        out[made] = multipletests(p[made], method="holm")[1]
    return out


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
        curve = divide(counts @ np.where(measured, values, 0.0), counts @ measured)
    elif studentise:
        first = np.asarray(is_first, float)
        curve = two_sample_t(values, counts * first, counts * (1.0 - first))
    else:
        first = np.asarray(is_first, bool)
        measured = ~np.isnan(values)
        filled = np.where(measured, values, 0.0)
        curve = divide((counts * first) @ filled, (counts * first) @ measured)
        curve -= divide((counts * ~first) @ filled, (counts * ~first) @ measured)
    best = np.where(np.isnan(curve), -np.inf, curve)
    return np.where(np.isnan(curve).all(1), -1, best.argmax(1))


def change_points(curve: Float[np.ndarray, " layer"], *, max_breaks: int = 2) -> tuple[int, ...]:
    """Indices where the mean of a curve shifts: least squares with 0-2 breaks, their number chosen by BIC.

    A break at b separates curve[:b] from curve[b:]. Descriptive: no p-value. BIC = n ln(SSR/n) + k ln n with
    k = 2 breaks + 1 (means and positions).
    """
    from ruptures import Dynp

    curve = np.asarray(curve, float)
    if np.isnan(curve).any():
        raise InputError("change_points: the curve has cells that were not measured (NaN); leave them out")
    n = len(curve)
    floor = n * (1e-12 + 1e-9 * np.ptp(curve)) ** 2  # a perfect fit would give ln 0 and any number of breaks
    search = Dynp(model="l2", min_size=1, jump=1).fit(curve)
    best: tuple[float, tuple[int, ...]] = (np.inf, ())
    for k in range(min(max_breaks, n - 1) + 1):
        ends = cast("list[int]", search.predict(n_bkps=k)) if k else [n]
        residual = max(float(search.cost.sum_of_costs(ends)), floor)
        score = n * np.log(residual / n) + (2 * k + 1) * np.log(n)
        if score < best[0] - 1e-9:
            best = (float(score), tuple(ends[:-1]))
    return best[1]
