"""How few tokens a predicted fall of entropy comes from.

Definition: STEER's score of a token is omega = r A (1 - p)(log p + H) as its code has it ((1 - p)^2 as its name has it:
    omega2), H of the sampling policy; the predicted change is -omega per unit step. A token collapses entropy where
    omega > 0. collapsing = share of such tokens; for each fraction q, top_share = the part of the summed fall that the
    q of all tokens with the largest omega make up (1/q times q would be an even spread). A token that lacks one of the
    numbers of omega is in none of these.
Units: shares in [0, 1].
Source: STEER, arXiv 2510.10150.
Does not show: the change of a state's entropy: omega is not -A (S - B) (sign_quadrants), nor what the weights did.
Control: sign_quadrants beside it; shuffled advantages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.analysis import analysis
from analyses.core.figures import curve
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.credit import _log
from probe.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float
    from plotly.graph_objects import Figure

    from probe import Rollouts


@analysis
def collapsing_tokens(
    rollouts: Rollouts,
    *,
    form: Literal["omega", "omega2"] = "omega",
    fractions: tuple[float, ...] = (0.001, 0.01, 0.05, 0.2),
    seed: int = 0,
) -> Result:
    """Share of tokens whose update would lower entropy by STEER's score, and how concentrated the fall is.

    Needs log-probs and entropies per token (`old_logp`, `H`); without them everything is NaN and a warning says why.

    Rows, one per response: rollout_step, item, group, group_uid, sample, n_tokens, n_measured (of which
    the log has all numbers), advantage, n_collapsing, fall (sum of omega over tokens that lower entropy), rise (over
    those that raise it); NaN where none was measured.

    Args:
        form: omega as the code computes it, or omega2 as it is named.
        fractions: of all tokens of a step, those with the largest omega.
    """
    if not fractions or min(fractions) <= 0 or max(fractions) > 1:
        raise InputError(f"fractions={fractions}; expected shares in (0, 1]")
    rows = _log.responses(rollouts, ["advantage"], "collapsing_tokens")
    table = rows[[*_log.KEYS, "n_tokens", "advantage"]]
    why = _log.measured(rollouts, "old_logp", "H")
    if why:
        blank = table.assign(n_measured=0, n_collapsing=np.nan, fall=np.nan, rise=np.nan)
        return Result.of(blank, xr.Dataset(), warnings=[*rollouts.notes, why])
    rollouts.require("old_logp", "H", by="collapsing_tokens")
    ratio = "new_logp" in rollouts.columns
    tokens = _log.tokens(rollouts, ["old_logp", "H", *(["new_logp"] if ratio else [])])
    own, old = tokens["response"].to_numpy(), tokens["old_logp"].to_numpy(float)
    new = tokens["new_logp"].to_numpy(float) if ratio else old
    scored = omega(new, old, tokens["H"].to_numpy(float), rows["advantage"].to_numpy(float)[own], form == "omega2")
    known = ~np.isnan(scored)
    own, scored = own[known], scored[known]
    up, n = np.maximum(scored, 0), np.bincount(own, minlength=len(rows))
    sums = {"n_collapsing": scored > 0, "fall": up, "rise": np.maximum(-scored, 0)}
    table = table.assign(
        n_measured=n, **{k: np.where(n > 0, np.bincount(own, v, len(rows)), np.nan) for k, v in sums.items()}
    )
    return Result.of(table, _aggregate(table, own, up, fractions, seed), warnings=rollouts.notes)


def omega(
    new: Float[np.ndarray, " token"],
    old: Float[np.ndarray, " token"],
    entropy: Float[np.ndarray, " token"],
    advantage: Float[np.ndarray, " token"],
    squared: bool = False,
) -> Float[np.ndarray, " token"]:
    """r A (1 - p)(log p + H), p of the current policy, r = p / p_old; (1 - p)^2 if `squared`."""
    p = np.clip(np.exp(new), 1e-8, 1 - 1e-8)
    return np.exp(new - old) * advantage * (1 - p) ** (2 if squared else 1) * (new + entropy)


def _aggregate(
    table: pd.DataFrame, own: np.ndarray, up: np.ndarray, fractions: tuple[float, ...], seed: int
) -> xr.Dataset:
    named: dict[str, Any] = {"name": "collapsing", "units": "1"}
    parts = [estimate(table, "n_collapsing", ["rollout_step"], per="n_measured", **named)]
    item, step = table["item"].to_numpy(), table["rollout_step"].to_numpy()
    per_item: list[pd.DataFrame] = []
    for one in np.unique(step):
        here = np.flatnonzero(step[own] == one)
        order = here[np.argsort(-up[here], kind="stable")]
        for q in fractions:
            top = np.zeros(len(table))
            chosen = order[: max(1, int(np.ceil(q * len(order))))]
            np.add.at(top, own[chosen], up[chosen])
            mine = step == one
            made = {
                "rollout_step": one,
                "fraction": q,
                "item": item[mine],
                "top": top[mine],
                "all": table["fall"][mine],
            }
            per_item.append(pd.DataFrame(made))
    rows = pd.concat(per_item)
    parts.append(estimate(rows, "top", ["rollout_step", "fraction"], per="all", seed=seed, name="top_share", units="1"))
    return xr.merge(parts)


def figures(result: Result) -> dict[str, Figure]:
    """Share of collapsing tokens over steps, and how much of the fall the top tokens make up."""
    rows = result.summary()
    if rows.empty:
        return {}
    extra = "step" if "step" in rows else None
    share, top = (rows[rows["quantity"] == q] for q in ("collapsing", "top_share"))
    return {
        "share": curve(share, x="rollout_step", color=extra, title="Share of tokens that would lower entropy"),
        "top": curve(top, x="rollout_step", color="fraction", facet=extra, title="Part of the fall in the top tokens"),
    }
