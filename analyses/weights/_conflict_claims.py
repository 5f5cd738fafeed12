"""What may be said of gradients that pull against one another: within each group, and from one group to another."""

from __future__ import annotations

from itertools import product
from typing import Any

import xarray as xr

from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim
from analyses.core.stats import widened

FEWEST = 8  # items of a group
CAVEAT = "a gradient's first order, not what an optimizer's step does"


def claims(data: xr.Dataset) -> list[Claim]:
    """Conflict inside every group (mean cosine below 0), and harm or help between any two (spill off 0).

    Args:
        data: of `gradient_conflict`.
    """
    names = [str(g) for g in data["group"].values]
    looks = len(names) ** 2
    said = [_one(data, "cosine", (a, a), looks) for a in names]
    return said + [_one(data, "spill", (a, b), looks) for a, b in product(names, names) if a != b]


def _one(data: xr.Dataset, name: str, at: tuple[str, str], looks: int) -> Claim:
    cell = data.sel(trained_on=at[0], group=at[1])
    n = int(cell[f"{name}_n"])
    is_inside = name == "cosine"
    what = f"items of {at[0]} pull against one another" if is_inside else f"a step on {at[0]} harms {at[1]}"
    kind = "conflict" if is_inside else "spill"
    if n < FEWEST:
        why, needs = f"{n} items are too few", f"at least {FEWEST} items of each group"
        return Claim(kind, UNJUDGED, what, group=at[1], why=why, needs=needs, n=n)
    low, high = (float(cell[f"{name}_{side}"]) for side in ("ci_low", "ci_high"))
    value, low, high = widened(float(cell[name]), low, high, n=n, looks=looks)
    shown: dict[str, Any] = {
        "effect": value, "low": low, "high": high, "n": n, "group": at[1], "caveat": CAVEAT,
        "family": f"{looks} pairs of groups", "control": "gradients at right angles (0)",
        "estimand": "mean cosine of pairs" if is_inside else "change of the loss per unit step, mean over items",
        "unit": "cosine" if is_inside else "nats",
    }  # fmt: skip
    if is_inside:
        return Claim(kind, FOUND if high < 0 else NONE, what if high < 0 else f"that {what}", **shown)
    if high < 0:
        return Claim(kind, NONE, f"that {what}; it helps", **shown)
    return Claim(kind, FOUND if low > 0 else NONE, what if low > 0 else f"that {what}", **shown)
