"""Whether a direction moves entropy as no random one of its size does: one claim per group. Never imports torch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray as xr

from analyses.core import stats
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields

LEVEL = 0.05
DRAWS = 19  # random directions below which no rank among them is at most .05
CONTROL = "random directions of its size"


def claims(
    entropy: xr.Dataset, vector: str, draws: int, moved: str = "entropy", unit: str = "nats per unit of beta"
) -> list[Claim]:
    """Claims of groups that it moves, else one that says so.

    The slope's interval (for all groups and kinds together) leaves out 0, at most 5 % of the random directions reach
    the slope, and it lies beyond what those spread by Student's t with Holm over all groups and kinds.

    Args:
        entropy: dose-response of entropy (or what `moved` says): slope, placebo_p and placebo_t_p by arm, side, group
            and kind.
        vector: name of the direction's arm.
        draws: number of random directions.
        moved: what the dose-response is of, in a word or two.
        unit: of its slope.
    """
    what = f"{vector} moves {moved} beyond random directions of its size"
    if draws < DRAWS:
        why, needs = f"{draws} random directions have no rank below .05", f"at least {DRAWS} random directions"
        return [Claim("direction", UNJUDGED, what, why=why, needs=needs, control=CONTROL)]
    cells = list(_cells(entropy, vector))
    if not any(np.isfinite(low) for _, (_, low, _), *_ in cells):
        why, needs = "no group has an interval", "at least 6 items of a group whose entropy can move"
        return [Claim("direction", UNJUDGED, what, why=why, needs=needs, control=CONTROL)]
    corrected = stats.holm([p for *_, p in cells])
    family = f"{len(cells)} groups and kinds of answers"
    found: list[Claim] = []
    for (group, slope, n, rank, _), p in zip(cells, corrected, strict=True):
        value, low, high = stats.widened(*slope, n=n, looks=len(cells))
        if p <= LEVEL and rank <= LEVEL and (low > 0 or high < 0):
            said: Fields = {
                "effect": value,
                "low": low,
                "high": high,
                "p": float(p),
                "n": n,
                "group": group,
                "family": family,
            }
            estimand = "slope of next-token entropy on beta" if moved == "entropy" else f"slope of {moved} on beta"
            said |= {"estimand": estimand, "unit": unit}
            found.append(Claim("direction", FOUND, f"{vector} moves the {moved} of {group}", control=CONTROL, **said))
    if found:
        return found
    p = float(np.fmin.reduce(corrected))  # NaN where no cell could be tested
    n = max(n for _, _, n, *_ in cells)
    return [Claim("direction", NONE, f"that {what}", p=p, n=n, family=family, control=CONTROL)]


def _cells(entropy: xr.Dataset, vector: str) -> Iterator[tuple[str, tuple[float, float, float], int, float, float]]:
    """(group and kind, slope with its interval, items, rank among random directions, p by Student's t)."""
    at = entropy.sel(variant="joint").squeeze("layer")
    kinds = at["answer_kind"].values
    for group in map(str, at["group"].values):
        for kind in map(str, kinds):
            cell = at.sel(group=group, answer_kind=kind)
            low, value, high = (float(cell[f"slope{s}"].sel(arm=vector)) for s in ("_ci_low", "", "_ci_high"))
            if np.isnan(value):
                continue
            drawn = cell.sel(arm="random_direction")
            name = f"{group} ({kind})" if len(kinds) > 1 else group
            n = int(cell["slope_n"].sel(arm=vector))
            yield name, (value, low, high), n, float(drawn["placebo_p"]), float(drawn["placebo_t_p"])
