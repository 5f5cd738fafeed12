"""How often a Monte-Carlo reward of a single token points the right way, by position.

Definition: a token's reward is V(after) - V(before), V the chance of success from a prefix. With K fresh continuations
    from each of both prefixes its estimate has variance [V(1 - V) + V'(1 - V')] / K. right: chance that the estimate
    has the sign of the true difference; tie: that it is 0 (both binomials, exactly); normal: Phi(|r| / SD), which is
    right + tie / 2 and not right. The values are those of the log's own prefix tree, taken as the truth.
Units: probabilities; variance in squared reward (rewards of 0 and 1).
Source: SKPO; the exact form is this toolkit's.
Does not show: the noise of the log's values themselves, which come from few responses (n_before, n_after).
Control: tokens of equal values (right = (1 - tie) / 2 by symmetry, reported as NaN: there is no right way).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy
import xarray as xr

from analyses.core.analysis import analysis
from analyses.core.figures import curve
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.credit import _log, _prefixes
from probe.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float
    from plotly.graph_objects import Figure

    from probe import Rollouts

SHOWN = 64
QUANTITIES = ("sd", "right", "tie", "normal")


@analysis
def token_reward_noise(rollouts: Rollouts, *, k: int = 8, success_above: float = 0.5, seed: int = 0) -> Result:
    """Variance and sign accuracy of a token reward from K continuations, at every shared prefix whose value changes.

    Rows, one per response and token: rollout_step, item, group, group_uid, sample, pos, n_before, n_after,
    value_before, value_after, reward_of_token, sd, right, tie, normal.

    Args:
        k: continuations from each prefix.
    """
    if k < 1:
        raise InputError(f"k={k}; expected at least one continuation")
    rollouts.require("response_token_ids", by="token_reward_noise")
    rows = _log.responses(rollouts, ["reward"], "token_reward_noise")
    success = _log.successes(rows, success_above, "token_reward_noise")
    found = _prefixes.edges(rows, _prefixes.all_ids(rollouts), success)
    found = found[found["n_after"] < found["n_before"]]  # where everybody goes the same way nothing is rewarded
    own = found["response"].to_numpy(np.int64)
    names = rows[_log.KEYS].iloc[own].reset_index(drop=True)
    table = pd.concat([names, found.drop(columns=["response", "n_children"]).reset_index(drop=True)], axis=1)
    before, after = table["value_before"].to_numpy(float), table["value_after"].to_numpy(float)
    table = table.assign(reward_of_token=after - before, **noise(before, after, k))
    return Result.of(table, _aggregate(table, seed), warnings=rollouts.notes)


def noise(
    before: Float[np.ndarray, " token"], after: Float[np.ndarray, " token"], k: int
) -> dict[str, Float[np.ndarray, " token"]]:
    """sd, right, tie and normal of the estimated difference of two chances of success, K trials each."""
    pairs, where = np.unique(np.stack([before, after]), axis=1, return_inverse=True)
    v, w = pairs
    counts = np.arange(k + 1)
    p, q = (scipy.stats.binom.pmf(counts[None], k, x[:, None]) for x in (v, w))
    tie = (p * q).sum(1)
    rises = (q[:, 1:] * np.cumsum(p, axis=1)[:, :-1]).sum(1)  # the second estimate above the first
    right = np.where(w > v, rises, 1 - tie - rises)
    sd = np.sqrt((v * (1 - v) + w * (1 - w)) / k)
    with np.errstate(divide="ignore", invalid="ignore"):
        normal = scipy.stats.norm.cdf(np.abs(w - v) / sd)
    same = v == w
    found = {"sd": sd, "right": np.where(same, np.nan, right), "tie": tie, "normal": np.where(same, np.nan, normal)}
    return {name: values[where] for name, values in found.items()}


def _aggregate(table: pd.DataFrame, seed: int) -> xr.Dataset:
    near = table[table["pos"] < SHOWN]
    if near.empty:
        return xr.Dataset()
    return xr.merge([estimate(near, q, ["pos"], seed=seed, units="reward" if q == "sd" else "1") for q in QUANTITIES])


def figures(result: Result) -> dict[str, Figure]:
    """Sign accuracy (and ties) of token rewards by position."""
    rows = result.summary()
    if rows.empty:
        return {}
    said = rows[rows["quantity"].isin(["right", "tie", "normal"])]
    extra = "step" if "step" in rows else None
    title = "How often a token's Monte-Carlo reward has the right sign"
    return {"sign": curve(said, x="pos", color="quantity", facet=extra, reference=0.5, title=title)}
