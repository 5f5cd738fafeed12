"""What may be said of where an update lands: matrices are the units, chance is the control."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.stats import mean_of_items

FEWEST = 8  # matrices
CAVEAT = "where an update lies, not what it does"


@dataclass(frozen=True)
class _Asked:
    """A share beside its chance: what a positive and a negative difference mean, and what chance is."""

    kind: str
    values: pd.Series
    more: str
    less: str
    control: str


def claims(table: pd.DataFrame, precision: str, seed: int) -> list[Claim]:
    """Sparser than rounding makes an even update; in or off the principal subspace and large weights; shared by runs.

    Args:
        table: rows of one step of `update_landing`.
        precision: what entries were rounded to.
        seed: of the even update, for the record.
    """
    moved = table[table["relative_norm"] != 0]
    if moved.empty:
        return [Claim("sparse", NONE, f"a weight that changed after rounding to {precision}", n=len(table))]
    even = f"an even update of that size, rounded to {precision} (seed {seed})"
    asked = [
        _Asked("sparse", moved["changed_even"] - moved["changed"], "the update changes fewer entries than an even one",
               "the update changes more entries than an even one", even),
        _Asked("principal", moved["principal"] - moved["principal_chance"], "the update prefers the principal subspace",
               "the update avoids the principal subspace", "a random update: k (m + n - k) / (m n)"),
        _Asked("largest", moved["largest"] - moved["largest_chance"], "the update prefers the largest weights",
               "the update avoids the largest weights", "their share of the entries"),
    ]  # fmt: skip
    if "both" in table:
        smaller = moved[["changed", "other_changed"]].min(axis=1)
        extra = (moved["both"] - moved["expected_by_size"]) / smaller.where(smaller > 0)
        asked.append(_Asked("overlap", extra, "both runs change the same entries more than chance",
                            "both runs change the same entries less than chance",
                            "two masks of these sizes, among weights as large and as near a rounding"))  # fmt: skip
    return [_claim(one, len(asked)) for one in asked]


def _claim(asked: _Asked, count: int) -> Claim:
    values = asked.values.dropna().to_numpy(float)
    if len(values) < FEWEST:
        is_rounded = asked.kind == "sparse" and not len(values)
        why = "weights were stored rounded already" if is_rounded else f"{len(values)} matrices are too few"
        needs = "checkpoints in float32" if is_rounded else f"at least {FEWEST} matrices that changed"
        return Claim(asked.kind, UNJUDGED, asked.more, why=why, needs=needs, n=len(values))
    mean = mean_of_items(values, level=1 - 0.05 / count)
    value, low, high = float(mean.value), float(mean.ci_low), float(mean.ci_high)
    shown: Fields = {
        "effect": value, "low": low, "high": high, "n": len(values), "control": asked.control, "caveat": CAVEAT,
        "family": f"{count} claims", "estimand": "share above chance, mean over matrices",
    }  # fmt: skip
    if np.isnan(low):
        why, needs = "the matrices give no interval", "matrices whose shares differ"
        return Claim(asked.kind, UNJUDGED, asked.more, why=why, needs=needs, n=len(values))
    if not (low > 0 or high < 0):
        return Claim(asked.kind, NONE, f"that {asked.more}", **shown)
    return Claim(asked.kind, FOUND, asked.more if value > 0 else asked.less, **shown)
