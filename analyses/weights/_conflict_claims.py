"""What may be said of gradients that pull against one another: within each group, and from one group to another."""

from __future__ import annotations

from itertools import product

import xarray as xr

from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.stats import widened

FEWEST = 8  # items of a group
HALF = 0.5  # of the pairs: their mean cosine is never below 0 in the long run, whatever pulls against what
APART = "most pairs of a group's items pull against one another"
HARMS = "a step on one group harms another"
CAVEAT = "a gradient's first order, not what an optimizer's step does"


def claims(data: xr.Dataset) -> list[Claim]:
    """Conflict inside a group (most pairs opposed), and harm from one group to another (spill above 0).

    Of each kind the clearest case is told; interval and answer hold for all pairs of groups.

    Args:
        data: of `gradient_conflict`.
    """
    names = [str(g) for g in data["group"].values]
    said = [_clearest(data, "negative", [(a, a) for a in names], len(names) ** 2)]
    if len(names) > 1:
        said.append(_clearest(data, "spill", [(a, b) for a, b in product(names, names) if a != b], len(names) ** 2))
    return said


def _clearest(data: xr.Dataset, name: str, pairs: list[tuple[str, str]], looks: int) -> Claim:
    is_inside = name == "negative"
    kind, what = ("conflict", APART) if is_inside else ("spill", HARMS)
    cells = {at: data.sel(trained_on=at[0], group=at[1]) for at in pairs}
    sizes = {at: int(cell[f"{name}_n"]) for at, cell in cells.items()}
    able = [at for at in pairs if sizes[at] >= FEWEST]
    if not able:
        why, needs = f"{max(sizes.values())} items are too few", f"at least {FEWEST} items of each group"
        return Claim(kind, UNJUDGED, what, why=why, needs=needs, n=max(sizes.values()))
    told = {at: _interval(cells[at], name, sizes[at], looks) for at in able}
    at = max(able, key=lambda a: told[a][1])
    value, low, high = told[at]
    shown: Fields = {
        "effect": value, "low": low, "high": high, "n": sizes[at], "group": at[1], "caveat": CAVEAT,
        "family": f"{looks} pairs of groups",
    }  # fmt: skip
    if is_inside:
        shown |= {"estimand": "share of pairs whose gradients oppose one another", "is_change": False,
                  "control": "gradients at right angles: one half"}  # fmt: skip
        clause = f"most pairs of items of {at[0]} pull against one another"
        return Claim(kind, FOUND if low > HALF else NONE, clause if low > HALF else what, **shown)
    shown |= {"estimand": "change of the loss per unit step, mean over items", "unit": "nats",
              "control": "gradients at right angles (0)"}  # fmt: skip
    return Claim(kind, FOUND if low > 0 else NONE, f"a step on {at[0]} harms {at[1]}" if low > 0 else what, **shown)


def _interval(cell: xr.Dataset, name: str, n: int, looks: int) -> tuple[float, float, float]:
    low, high = (float(cell[f"{name}_{side}"]) for side in ("ci_low", "ci_high"))
    return widened(float(cell[name]), low, high, n=n, looks=looks)
