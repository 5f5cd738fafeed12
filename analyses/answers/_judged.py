"""Whether a mean over items is above (or below) a value, as a claim of the three-answer kind. Never imports torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analyses.core import stats
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim
from analyses.core.stats.intervals import of_difference

FEWEST = 8  # items


@dataclass(frozen=True)
class Mean:
    """A mean over items with an interval that holds for all `looks` together."""

    value: float
    low: float
    high: float
    n: int

    def is_above(self, reference: float = 0.0) -> bool:
        """True where the whole interval is above."""
        return self.low > reference

    def is_below(self, reference: float = 0.0) -> bool:
        """True where the whole interval is below."""
        return self.high < reference


def mean(rows: pd.DataFrame, column: str, looks: int, units: str = "") -> Mean:
    """The mean of a column over items; the interval is NaN where too few items differ to have one."""
    if rows.empty:
        return Mean(math.nan, math.nan, math.nan, 0)
    data = stats.estimate(rows, column, units=units)
    value, low, high, n = (float(data[column + suffix]) for suffix in ("", "_ci_low", "_ci_high", "_n"))
    _, low, high = stats.widened(value, low, high, n=int(n), looks=looks)
    return Mean(value, low, high, int(n))


def difference(first: Mean, second: Mean) -> tuple[float, float]:
    """Interval of the first mean minus the second, from the intervals of both (they are of other items)."""
    a, b = ((np.asarray(of.value), np.asarray(of.low), np.asarray(of.high)) for of in (first, second))
    low, high = of_difference(a, b)
    return float(low), float(high)


def claim(of: Mean, is_found: bool, kind: str, what: str, **said: Any) -> Claim:
    """Found or none found with the mean as its effect; cannot be judged where it has no interval to decide by.

    Args:
        of: the mean that decides.
        is_found: the decision, where there is one to make.
        kind: of the claim.
        what: its clause.
        said: further fields of the claim.
    """
    said = {"n": of.n, **said}
    nothing_moved = of.value == 0 and math.isnan(of.low)
    if of.n < FEWEST:
        why, needs = f"{of.n} items were measured", f"at least {FEWEST} items"
        return Claim(kind, UNJUDGED, what, why=why, needs=needs, **said)
    if math.isnan(of.low) and not nothing_moved:
        why, needs = "too few items differ to have an interval", "more items, or more samples of each"
        return Claim(kind, UNJUDGED, what, why=why, needs=needs, effect=of.value, **said)
    return Claim(kind, FOUND if is_found else NONE, what, effect=of.value, low=of.low, high=of.high, **said)
