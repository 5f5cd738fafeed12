"""Whether one group's log odds rose more than another's, on two scales, from paired shares before and after.

Never imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from analyses.core.stats.resampling import Array, Labels, clustered, codes_of

Z = 1.959964


@dataclass(frozen=True)
class OddsScale:
    """A difference of log odds ratios with a 95 % interval, and the one-sided p of "not larger in the first group"."""

    value: float
    low: float
    high: float
    p: float


def marginal_odds(first: Array, second: Array, units: Sequence[Labels | None]) -> OddsScale:
    """Rise of the log odds of the group's share, first minus second; [item, before and after] each.

    Shares get half an item of either outcome (Haldane), errors are by linearisation, so items keep their pairing.
    """
    sides = [_marginal(x, u) for x, u in zip((first, second), units, strict=True)]
    return _scale(sides)


def changed_odds(first: Array, second: Array, units: Sequence[Labels | None]) -> OddsScale:
    """Log odds of gaining to losing among what changed, first minus second: immune to difficulty and its spread.

    For 0/1 items standing alone p is exact (Fisher's, mid-p): of the items that changed, did as many gain in both?
    """
    sides = [_changed(x, u) for x, u in zip((first, second), units, strict=True)]
    scale = _scale([(value, error) for value, error, _ in sides])
    whole = all(u is None for u in units) and np.isin(np.concatenate([first, second]), [0.0, 1.0]).all()
    if not whole:
        return scale
    (b, c), (d, e) = (counts for _, _, counts in sides)
    return OddsScale(scale.value, scale.low, scale.high, _mid_p(round(b), round(c), round(d), round(e)))


def _marginal(x: Array, units: Labels | None) -> tuple[float, float]:
    n = len(x)
    p = (x.sum(0) + 0.5) / (n + 1)
    value = float(np.log(p[1] / (1 - p[1])) - np.log(p[0] / (1 - p[0])))
    influence = (x - x.mean(0)) / (p * (1 - p))
    floor = sum(float(1 / (n * q * (1 - q))) for q, own in zip(p, x.T, strict=True) if _few_differ(own))
    return value, float(np.sqrt(_variance(influence[:, 1] - influence[:, 0], units) + floor))


def _few_differ(own: Array) -> bool:
    return bool(min((own > 0).sum(), (own < 1).sum()) < 5)


def _changed(x: Array, units: Labels | None) -> tuple[float, float, tuple[float, float]]:
    gained, lost = (1 - x[:, 0]) * x[:, 1], x[:, 0] * (1 - x[:, 1])
    b, c = float(gained.sum()), float(lost.sum())
    value = float(np.log((b + 0.5) / (c + 0.5)))
    smooth = 1 / (b + 0.5) + 1 / (c + 0.5)
    if units is None and np.isin(x, [0.0, 1.0]).all():
        return value, float(np.sqrt(smooth)), (b, c)
    spread = _variance((gained / (b + 0.5) - lost / (c + 0.5)) * len(x), units)
    return value, float(np.sqrt(max(spread, smooth if min(b, c) < 5 else 0.0))), (b, c)


def _variance(influence: Array, units: Labels | None) -> float:
    """Variance of the mean of influences over units."""
    n = len(influence)
    sums = influence if units is None else clustered(influence[:, None], codes_of(units))[:, 0]
    k = len(sums)
    return float(np.var(sums, ddof=1) * k / n**2) if k > 1 else float("inf")


def _scale(sides: Sequence[tuple[float, float]]) -> OddsScale:
    (a, a_error), (b, b_error) = sides
    error = float(np.hypot(a_error, b_error))
    return OddsScale(a - b, a - b - Z * error, a - b + Z * error, float(scipy.stats.norm.sf((a - b) / error)))


def _mid_p(b: int, c: int, d: int, e: int) -> float:
    """Fisher's mid-p, one-sided: of what changed, b of b + c gained in the first group, d of d + e in the second."""
    under: Any = scipy.stats.hypergeom(b + c + d + e, b + d, b + c)
    return float(under.sf(b) + 0.5 * under.pmf(b))
