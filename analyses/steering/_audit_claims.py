"""What a probe-gated audit allows to be said: an effect on targets beyond placebos, and beyond answers as likely."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr

from analyses.core import stats
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim

LEVEL = 0.05
UNIT = "nats/token"


def claims(data: xr.Dataset, targets: Sequence[str], draws: int) -> list[Claim]:
    """For every target group and kind of answer the gated effect, and for every kind the one beside matched answers."""
    kinds = list(map(str, data["answer_kind"].values))
    ranks = data["placebo_p"].max("arm")  # both placebos: gates elsewhere, neurons elsewhere
    corrected = dict(zip(kinds, stats.holm([float(ranks.sel(answer_kind=k)) for k in kinds]), strict=True))
    said = [_gated(data, g, k, corrected[k], len(targets) * len(kinds), draws) for g in targets for k in kinds]
    return [*filter(None, said), *_matched(data, kinds)]


def _gated(data: xr.Dataset, group: str, kind: str, p: float, looks: int, draws: int) -> Claim | None:
    cell = data.sel(arm="gated", group=group, answer_kind=kind)
    value, low, high = (float(cell[f"effect{s}"]) for s in ("", "_ci_low", "_ci_high"))
    if np.isnan(value):
        return None
    n = int(cell["effect_n"])
    what = f"gated steering moves answers of {group} beyond random gates and neurons"
    if len(data["answer_kind"]) / (1 + draws) > LEVEL:
        why, needs = f"{draws} random gates and neurons have no rank below .05", "more draws"
        return Claim("audit", UNJUDGED, what, why=why, needs=needs, group=group, n=n)
    if np.isnan(low) and value != 0:
        why, needs = "too few items moved for an interval", "more items on which the probe fires"
        return Claim("audit", UNJUDGED, what, why=why, needs=needs, group=group, n=n)
    value, low, high = stats.widened(value, low, high, n=n, looks=looks)
    is_found = p <= LEVEL and (low > 0 or high < 0)
    fired, lost, gained = (float(cell[name]) for name in ("fire_rate", "n_lost", "n_gained"))
    return Claim(
        "audit", FOUND if is_found else NONE, what if is_found else f"that {what}",
        estimand="change of the answer's log-probability where the probe fires", effect=value, low=low, high=high,
        unit=UNIT, p=p, n=n, group=group, family=f"{looks} target groups and kinds of answers",
        control="random gates, and random neurons",
        assumptions=(f"fires on {fired:.0%}", f"exact answers: {lost:.0f} lost, {gained:.0f} gained"),
    )  # fmt: skip


def _matched(data: xr.Dataset, kinds: Sequence[str]) -> Iterator[Claim]:
    what = "without a gate steering costs target answers more than others as likely"
    for kind in kinds:
        named = kind if len(kinds) > 1 else None
        cell = data.sel(arm="ungated", answer_kind=kind)
        low = float(cell["matched_difference_ci_low"]) if "matched_difference" in data else np.nan
        if np.isnan(low):
            why, needs = "too few exact answers of either side match", "exact target and control answers, 8 or more"
            yield Claim("matched", UNJUDGED, what, group=named, why=why, needs=needs)
            continue
        value, low, high = stats.widened(
            float(cell["matched_difference"]), low, float(cell["matched_difference_ci_high"]),
            n=int(cell["matched_difference_n"]), looks=len(kinds),
        )  # fmt: skip
        is_found = high < 0
        yield Claim(
            "matched", FOUND if is_found else NONE, what if is_found else f"that {what}",
            estimand="effect on exact targets minus on exact controls near in log-probability", effect=value, low=low,
            high=high, unit=UNIT, n=int(cell["matched_difference_n"]), group=named, control="matched exact controls",
            family=f"{len(kinds)} kinds of answers", caveat="fragile answers fall under any push",
        )  # fmt: skip
