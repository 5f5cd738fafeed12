"""Whether turning neurons up or down is selective: what a dose-response allows to be said. Never imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from analyses.core import stats
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim

SPARED = 0.5  # a group whose slope is more than half of the targets' is not spared
VERBS = {"below": "lowering", "above": "raising"}
WHETHER = "steering is selective"
NEEDS_MATCHED = "items of another group that are as likely, unaltered, as the targets"


@dataclass(frozen=True)
class SteeredCell:
    """One layer, side and kind of answer: which of the conditions it meets."""

    name: str
    slope: tuple[float, float, float]
    n: int
    is_effect: bool
    effect_p: float  # max-t over layers and doses, of this side's best dose
    placebo_p: float
    is_spared: bool
    is_matched: bool | None  # None: no item of another group is as likely

    @property
    def is_selective(self) -> bool:
        return self.is_effect and self.is_spared and self.is_matched is True


def claims(data: xr.Dataset, treatment: str, targets: Sequence[str], kinds: Sequence[str]) -> list[Claim]:
    """Where the treatment is selective, one claim per layer and side, else one that says so. All of this must hold:

    the slope's interval on every target group excludes 0; some dose on that side has a max-t p (over all layers and
    doses) of at most .05; at most 5 % of the draws of every placebo reach the slope, and the slope lies beyond what
    those draws spread, by Student's t with Holm over all layers, sides and kinds of answers; every other group is
    spared: the interval of the difference of slopes lies beyond half of the slope, for all its items and, for at least
    one group and every one that has them, for items matched by their unaltered metric. (A difference beyond 0 would
    not do: where everything breaks, something always breaks a little more.)
    """
    others = set(map(str, data["group"].values)) - set(targets)
    if not others:
        why, needs = "there is no control group", "name targets; the other groups are then controls"
        return [Claim("selective", UNJUDGED, WHETHER, why=why, needs=needs)]
    if "placebo_p" not in data:
        return [Claim("selective", UNJUDGED, WHETHER, why="there is no placebo", needs="at least 19 placebo draws")]
    cells = list(_cells(data, treatment, targets, kinds))
    corrected = dict(zip((c.name for c in cells), stats.holm([c.placebo_p for c in cells]), strict=True))
    met = [c for c in cells if corrected[c.name] <= 0.05]
    found = [c for c in met if c.is_selective]
    if found:
        return [_claim(c, targets, max(corrected[c.name], c.effect_p), len(cells)) for c in found]
    if any(c.is_effect and c.is_spared and c.is_matched is None for c in met):
        why = "no control item is as likely as the targets"
        return [Claim("selective", UNJUDGED, WHETHER, why=why, needs=NEEDS_MATCHED)]
    both = {c.name: float(np.fmax(corrected[c.name], c.effect_p)) for c in cells}  # each is needed: the larger counts
    best = min(cells, key=lambda c: np.nan_to_num(both[c.name], nan=np.inf))
    family, p = f"{len(cells)} layers, sides and kinds of answers", both[best.name]
    return [Claim("selective", NONE, "an effect on targets alone at any layer steered", p=p, family=family, n=best.n)]


def _claim(cell: SteeredCell, targets: Sequence[str], p: float, looks: int) -> Claim:
    value, low, high = stats.widened(*cell.slope, n=cell.n, looks=looks)
    return Claim(
        "selective", FOUND, f"{cell.name} changes the answers of {', '.join(targets)} and spares the others",
        estimand="slope of the answer's log-probability on the dose, mean over target items", effect=value, low=low,
        high=high, unit="nats/token per unit of alpha", p=float(p), n=cell.n, group=", ".join(targets), place=cell.name,
        family=f"{looks} layers, sides and kinds of answers", control="placebos, and items as likely in other groups",
        caveat="the answer hangs on these neurons in this direction; no proof of storage",
    )  # fmt: skip


def _cells(data: xr.Dataset, treatment: str, targets: Sequence[str], kinds: Sequence[str]) -> Iterator[SteeredCell]:
    several = len(kinds) > 1
    for layer in data["layer"].values:
        for side in [s for s in VERBS if s in data["variant"].values]:
            for kind in kinds:
                name = f"{VERBS[side]} layer {layer}" + (f" ({kind})" if several else "")
                cell = _cell(data.sel(layer=layer, answer_kind=kind), side, treatment, targets, name)
                if not np.isnan(cell.slope[0]):
                    yield cell


def _cell(cell: xr.Dataset, side: str, treatment: str, targets: Sequence[str], name: str) -> SteeredCell:
    at = cell.sel(variant=side)
    on_targets: Any = at.sel(group=list(targets))
    treated = at.sel(arm=treatment)
    slopes = on_targets.sel(arm=treatment)
    first = tuple(float(slopes[f"slope{s}"].mean()) for s in ("", "_ci_low", "_ci_high"))
    sign, half = float(np.sign(first[0])), SPARED * abs(first[0])
    ranks = on_targets["placebo_p"].dropna("arm", how="all")
    doses = cell["alpha"] < 1 if side == "below" else cell["alpha"] > 1
    p_max_t = cell["p_max_t"].sel(group=list(targets)).where(doses).min("alpha")
    is_effect = _beyond(slopes, "slope", sign) and bool((p_max_t <= 0.05).all()) and bool((ranks <= 0.05).all())
    has_matched = "matched_specificity" in treated and bool(treated["matched_specificity"].notnull().any())
    return SteeredCell(
        name, (first[0], first[1], first[2]), int(np.nan_to_num(slopes["slope_n"].min())), is_effect and ranks.size > 0,
        float(p_max_t.max()), float(on_targets["placebo_t_p"].max()), _beyond(treated, "specificity", sign, half),
        _beyond(treated, "matched_specificity", sign, half) if has_matched else None,
    )  # fmt: skip


def _beyond(cell: xr.Dataset, name: str, sign: float, bound: float = 0.0) -> bool:
    """Every measured interval lies beyond `bound` on the side of `sign`, and there is one."""
    if name not in cell:
        return False
    near = cell[f"{name}_ci_low" if sign > 0 else f"{name}_ci_high"]
    near = near.dropna("group")
    return near.size > 0 and bool((near * sign > bound).all())
