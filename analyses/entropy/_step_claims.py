"""Which signals follow what every update did to entropy, beyond the trend of the run. Never imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim
from analyses.core.stats import widened
from analyses.entropy import _over_updates
from analyses.entropy import _serial as serial

ALPHA = 0.03  # of both tests of `serial.is_associated`; shared by all signals
TOLD = {
    "gradient_nats": "the gradient of entropy along the update",
    "pooled": "the pooled covariance of log-probability and advantage",
    "tabular": "the tabular change of entropy",
    "omega": "the score omega",
}


def claims(table: pd.DataFrame, signals: Sequence[str], counted: Callable[[str], str]) -> list[Claim]:
    """One claim for every signal that was measured at each update.

    Args:
        table: rows of `entropy_step`.
        signals: columns to hold against the measured change.
        counted: the column that says over how many tokens a column was averaged.
    """
    means = {k: v[0] for k, v in _over_updates.resampled_means(table, signals, counted, 0, 1).items()}
    measured = means.pop("measured_nats")
    told = {name: x for name, x in means.items() if name in TOLD and not np.isnan(x).any()}
    return [_claim(name, x, measured, len(told)) for name, x in told.items()]


def _claim(name: str, x: np.ndarray, measured: np.ndarray, looks: int) -> Claim:
    what, n = f"{TOLD[name]} follows its measured change, r being", len(x)
    if n < serial.LEAST:
        why, needs = f"there are {n} updates", f"at least {serial.LEAST} updates, each with its checkpoint"
        return Claim("follows", UNJUDGED, what.removesuffix(", r being"), why=why, needs=needs, n=n)
    r, low, high = serial.correlation(x, measured)
    if np.isnan(r):
        why, needs = "it or the measured change is the same at every update", "updates that differ"
        return Claim("follows", UNJUDGED, what.removesuffix(", r being"), why=why, needs=needs, n=n)
    pair = serial.beyond_trend(measured, x)
    low, high = (max(min(low, r), -1.0), min(max(high, r), 1.0)) if looks < 2 else _together(r, low, high, n, looks)
    is_found = serial.is_associated(pair, ALPHA / looks) and pair[0].values[0] > 0 and low > 0
    p = min(1.0, looks * max(one.p() for one in pair))
    return Claim(
        "follows", FOUND if is_found else NONE, what if is_found else f"that {what}",
        estimand="correlation with the measured change over updates", effect=r, low=low, high=high, p=p, n=n,
        family=f"{looks} signals", control="a cubic trend, in levels and in first differences",
        caveat="at the same states; entropy on new responses moves for other reasons too",
    )  # fmt: skip


def _together(r: float, low: float, high: float, n: int, looks: int) -> tuple[float, float]:
    """The interval widened on Fisher's scale so that those of all signals hold together."""
    if abs(r) == 1:
        return r, r
    _, below, above = widened(*map(float, np.arctanh([r, low, high])), n=n, looks=looks)
    return float(np.tanh(below)), float(np.tanh(above))
