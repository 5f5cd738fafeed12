"""What may be said of an update's spectrum and of what runs share: matrices are the units."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.stats import mean_of_items

FEWEST = 8  # matrices
LOW = 0.9  # of a random update's rank: its closed form is exact for large matrices only


def claims(table: pd.DataFrame) -> list[Claim]:
    """Whether the update has fewer directions than a random one, and whether runs moved the same way.

    Args:
        table: rows of whole matrices of one step of `update_spectrum`.
    """
    moved = table[table["relative_norm"] != 0]
    if moved.empty:
        return [Claim("rank", NONE, "an update at all", n=len(table))]
    several = int(moved["n_runs"].max()) > 1
    count = 1 + several
    share = (moved["erank"] / moved["erank_chance"]).to_numpy(float)
    said = [_claim("rank", share, LOW, "the update has fewer directions than a random one", count,
                   "a Gaussian update of the same shape", "effective rank as a share of the control's")]  # fmt: skip
    if several:
        said.append(_claim("agreement", -moved["agreement"].to_numpy(float), 0.0, "runs move weights the same way",
                           count, "unrelated runs (cosine 0)", "mean cosine of two runs' updates"))  # fmt: skip
    return said


def _claim(kind: str, values: np.ndarray, limit: float, what: str, count: int, control: str, estimand: str) -> Claim:
    """Found where the interval of the mean lies below `limit`; cosines come negated and are shown as they are."""
    values = values[~np.isnan(values)]
    if len(values) < FEWEST:
        why, needs = f"{len(values)} matrices are too few", f"at least {FEWEST} matrices that changed"
        return Claim(kind, UNJUDGED, what, why=why, needs=needs, n=len(values))
    mean = mean_of_items(values, level=1 - 0.05 / count)
    value, low, high = float(mean.value), float(mean.ci_low), float(mean.ci_high)
    if np.isnan(high):
        why, needs = "the matrices give no interval", "matrices whose numbers differ"
        return Claim(kind, UNJUDGED, what, why=why, needs=needs, n=len(values))
    answer = FOUND if high < limit else NONE
    if kind == "agreement":
        value, low, high = -value, -high, -low
    shown: Fields = {"effect": value, "low": low, "high": high, "n": len(values), "family": f"{count} claims"}
    return Claim(kind, answer, what if answer == FOUND else f"that {what}", control=control, estimand=estimand,
                 is_change=False, caveat="directions, not what they do", **shown)  # fmt: skip
