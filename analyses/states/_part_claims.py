"""Where along the layers two groups part: one claim, with its interval and p for all places together."""

from __future__ import annotations

import numpy as np
import xarray as xr

from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.stats import widened

FEWEST = 8  # items of a group
LEVEL = 0.05
CAVEAT = "where the groups part, not why; wording and length part groups too"


def parted(data: xr.Dataset, groups: tuple[str, str], at: str, how: str) -> Claim:
    """Whether two groups are pushed apart, most clearly where: the unbiased squared force against permuted labels.

    Args:
        data: of `trajectories` or `neural_ode`: force_squared, its permutation draws and p_value (for all layers),
            over `layer`; NaN where nothing can be said of a layer. A permutation test has no interval: none is told.
        groups: first and second.
        at: which tokens were read, in words.
        how: what pushes, in words ("blocks", "fitted moves").
    """
    what = f"{how} part {groups[0]} and {groups[1]} {at}"
    n = int(data["force_squared_n"].max())
    if n and (few := too_few("force", what, n)):  # n is 0 where nothing can be said of any layer
        return few
    p = data["p_value"].to_numpy().astype(float)
    if np.isnan(p).all():
        needs = "more items, or a grouping that the states can tell"
        return Claim("force", UNJUDGED, what, why="the field predicts no held-out update (R2 <= 0)", needs=needs, n=n)
    z = data["force_z"].to_numpy()
    layer = int(np.nanargmin(np.where(np.isnan(p), np.inf, p - 1e-9 * np.tanh(np.nan_to_num(z)))))  # ties: the clearest
    said: Fields = {
        "p": float(p[layer]), "n": n, "family": f"{int((~np.isnan(p)).sum())} layers", "control": "permuted labels",
        "estimand": "unbiased squared distance of the groups' mean updates, in standard deviations of permuted labels",
        "place": f"layer {layer}", "caveat": CAVEAT,
    }  # fmt: skip
    if p[layer] > LEVEL:
        return Claim("force", NONE, f"that {what}", **said)
    what = f"{how} part {groups[0]} and {groups[1]} {at}, most at layer {layer}"
    return Claim("force", FOUND, what, effect=float(z[layer]), unit="SD of permuted labels", is_change=False, **said)


def together(data: xr.Dataset, name: str, place: int, count: int) -> tuple[float, float]:
    """The 95 % interval at one place, widened so that it holds for all of `count` (Bonferroni)."""
    value, low, high = (float(data[f"{name}{part}"][place]) for part in ("", "_ci_low", "_ci_high"))
    _, low, high = widened(value, low, high, n=int(data[f"{name}_n"].max()), looks=count)
    return min(value, low), max(value, high)


def too_few(kind: str, what: str, n: int) -> Claim | None:
    """The answer where a group has too few items, else None."""
    if n >= FEWEST:
        return None
    why, needs = f"a group has {n} items", f"at least {FEWEST} items of each group"
    return Claim(kind, UNJUDGED, what, why=why, needs=needs, n=n)


def told_apart(data: xr.Dataset, groups: tuple[str, str], at: str) -> Claim:
    """Whether a state tells two groups apart better than covariates do.

    Args:
        data: of `linear_probe`: auc, gain with intervals and p_value over `state`.
        groups: first and second.
        at: which tokens were read, in words.
    """
    what = f"a state {at} tells {groups[0]} from {groups[1]} better than covariates do"
    n = int(data["auc_n"].max())
    if few := too_few("told apart", what, n):
        return few
    count = data.sizes["state"]
    p = data["p_value"].to_numpy().astype(float)
    gains = np.asarray([together(data, "gain", s, count)[0] for s in range(count)])
    able = np.where(p <= LEVEL, gains, -np.inf)
    state = int(able.argmax()) if np.isfinite(able).any() else int(data["auc"].argmax("state"))
    low, high = together(data, "gain", state, count)
    said: Fields = {
        "effect": float(data["gain"][state]), "low": low, "high": high, "p": float(p[state]), "n": n,
        "family": f"{count} states", "control": "covariates alone, and permuted labels", "place": f"state {state}",
        "estimand": "AUC of the state minus AUC of the covariates", "unit": "AUC",
        "caveat": "that it can be read, not that the model uses it",
    }  # fmt: skip
    if p[state] > LEVEL or not low > 0:
        return Claim("told apart", NONE, f"that {what}", **said)
    what = f"state {state} {at} tells {groups[0]} from {groups[1]} better than covariates do"
    return Claim("told apart", FOUND, what, **said)


READ = {
    "last_prompt": "at the last prompt token",
    "mean_prompt": "over the prompt",
    "mean": "over all tokens",
    "answer_first": "where the answer begins",
    "answer": "where the answer is said",
    "answer_last": "where the answer ends",
    "rationale": "over the rationale",
}


def read_at(pooling: str, positions: tuple[int, ...]) -> str:
    """Which tokens were read, in words."""
    return f"at position {', '.join(map(str, positions))}" if positions else READ[pooling]
