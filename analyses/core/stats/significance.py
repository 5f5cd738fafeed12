"""Tests over items: sign flips, exact tests of counts, where a curve peaks or breaks.

SciPy, statsmodels and ruptures do what they have; own code is what they lack, namely the bootstrap of an argmax. Many
cells at once are `stats.max_t`'s. A p-value is never 0: what was observed counts among the draws. NaN means
"not measured". Never imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import scipy
from jaxtyping import Float

from analyses.core.stats.max_t import Alternative
from analyses.core.stats.resampling import (
    Array,
)
from probe.errors import InputError


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


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided exact McNemar p for `b` items lost and `c` gained; 1 when nothing changed.

    >>> mcnemar_exact(0, 5)  # twice (1/2) ** 5
    0.0625
    """

    return 1.0 if b + c == 0 else float(cast(Any, scipy.stats).binomtest(min(b, c), b + c, 0.5).pvalue)


def holm(p: Sequence[float] | Array) -> Float[np.ndarray, " test"]:
    """Holm-adjusted p-values; NaN (a test not made) stays NaN and is not counted.

    >>> [round(float(p), 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    from statsmodels.stats.multitest import multipletests

    p = np.asarray(p, float)
    out = np.full(p.shape, np.nan)
    made = ~np.isnan(p)
    if made.any():
        out[made] = multipletests(p[made], method="holm")[1]
    return out


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
