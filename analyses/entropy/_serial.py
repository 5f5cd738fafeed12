"""Regression of one series on another whose errors depend on what went before.

Consecutive updates of a run are not independent, and any two quantities that trend have to do with each other. Errors
are taken to be autoregressive and are whitened (Cochrane and Orcutt, iterated), intervals are Student's on what that
leaves, and an association counts only beyond a cubic trend, both in levels and in first differences: unrelated series
with errors of every persistence up to a random walk, and unrelated trends, pass both in about 5 of 100.
Never imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

from analyses.core.stats.resampling import Array

LEAST = 12  # steps: a cubic trend, two lags and a slope leave too little below
ROUNDS = 10


@dataclass(frozen=True)
class Fitted:
    """Coefficients with their covariance, residual degrees of freedom, and the autoregression of the errors."""

    values: Array
    covariance: Array
    freedom: int
    rho: Array

    def combined(self, weights: Array, level: float = 0.95) -> tuple[float, float, float]:
        """(value, low, high) of a weighted sum of coefficients, by Student's quantile."""
        value = float(weights @ self.values)
        reach = float(
            scipy.stats.t.ppf((1 + level) / 2, self.freedom) * np.sqrt(max(weights @ self.covariance @ weights, 0.0))
        )
        return value, value - reach, value + reach

    def p(self, number: int = 0) -> float:
        """Two-sided p of one coefficient being 0."""
        error = float(np.sqrt(self.covariance[number, number]))
        return float(2 * scipy.stats.t.sf(abs(self.values[number]) / error, self.freedom)) if error > 0 else 0.0


def correlation(x: Array, y: Array, level: float = 0.95) -> tuple[float, float, float]:
    """Pearson's r of two series with its interval: Fisher's z by the number of steps that are worth an independent one.

    That number is n (1 - ab) / (1 + ab), a and b the series' own correlations from one step to the next (Bartlett
    1935); with errors of persistence .8 in both, Fisher's plain interval covers .74 of 20 steps, this one .95. NaN
    below four steps or where a series does not vary. An interval that leaves out 0 may still be two trends.
    """
    if len(x) < 4 or np.isnan(x).any() or np.isnan(y).any() or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan"), float("nan"), float("nan")
    a, b = (z - z.mean() for z in (x, y))
    r = float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))
    kept = max(float(np.prod([z[1:] @ z[:-1] / (z @ z) for z in (a, b)])), 0.0)
    worth = max(len(x) * (1 - kept) / (1 + kept), 4.0)
    reach = float(scipy.stats.norm.ppf((1 + level) / 2)) / np.sqrt(worth - 3)
    if abs(r) == 1:
        return r, r, r
    return r, float(np.tanh(np.arctanh(r) - reach)), float(np.tanh(np.arctanh(r) + reach))


def whitened(y: Array, design: Array, lags: int) -> Fitted:
    """Least squares with autoregressive errors of so many lags; rows are steps in order.

    Args:
        y: what is explained.
        design: one column per coefficient.
        lags: order of the autoregression.
    """
    rho = np.zeros(lags)
    for _ in range(ROUNDS):
        values = np.linalg.lstsq(_filtered(design, rho), _filtered(y, rho), rcond=None)[0]
        errors = y - design @ values
        before = np.column_stack([errors[lags - k - 1 : len(y) - k - 1] for k in range(lags)])
        following = np.clip(np.linalg.lstsq(before, errors[lags:], rcond=None)[0], -0.99, 0.99)
        moved = np.abs(following - rho).max()
        rho = following
        if moved < 1e-4:
            break
    ours, theirs = _filtered(y, rho), _filtered(design, rho)
    values = np.linalg.lstsq(theirs, ours, rcond=None)[0]
    left = ours - theirs @ values
    freedom = max(len(ours) - design.shape[1] - lags, 1)
    covariance = float(left @ left) / freedom * np.linalg.pinv(theirs.T @ theirs)
    return Fitted(values, covariance, freedom, rho)


def _filtered(z: Array, rho: Array) -> Array:
    """What is left of a series (or of columns of them) when each value's share of the ones before it is taken off."""
    lags = len(rho)
    return z[lags:] - sum(rho[k] * z[lags - k - 1 : len(z) - k - 1] for k in range(lags))


def beyond_trend(y: Array, x: Array) -> tuple[Fitted, Fitted]:
    """Slope (coefficient 0) of y on x beyond a cubic trend of the step: in levels, and in first differences."""
    if len(y) < LEAST:
        raise ValueError(f"{len(y)} steps; at least {LEAST} are needed")
    time = np.linspace(-1, 1, len(y))
    design = np.column_stack([x, *(time**k for k in range(4))])
    changes = np.diff(design, axis=0)[:, [0, 2, 3, 4]]
    return whitened(y, design, 2), whitened(np.diff(y), changes, 2)


def is_associated(pair: tuple[Fitted, Fitted], alpha: float = 0.03) -> bool:
    """True where both say so, with one sign."""
    return max(f.p() for f in pair) <= alpha and bool(pair[0].values[0] * pair[1].values[0] > 0)
