"""Where responses of one prompt part ways, and what each turn was worth: values of the tree of their prefixes.

Definition: V(s) = mean reward of the responses of a sampling group that pass through prefix s. The value of a token is
    V(s + token) - V(s); over a response these sum to its reward minus the group's mean (for different responses: equal
    ones with unequal rewards share the value of their end). A branch is a prefix with more than one next token. TEMPO's
    advantage of a token: [r_i - mean + V(s + token) - V(s)] / std, population std; NaN in a group without spread.
    depth: tokens until nobody else of the group goes the same way.
Units: rewards; depth in tokens.
Source: TEMPO; values and sums checked in closed form.
Does not show: whether a branch decided anything: with few responses a value is the luck of a few.
Control: the noise of these values (token_reward_noise); rewards permuted within groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.analysis import analysis
from analyses.core.figures import curve
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.credit import _log, _prefixes

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from probe import Rollouts

SHOWN = 64  # depths shown as a curve; later ones are in the rows


@analysis
def prefix_values(rollouts: Rollouts, *, seed: int = 0) -> Result:
    """Value of every token whose prefix several responses share, with branch points and TEMPO's advantage.

    Rows, one per response and token with a shared prefix (all other tokens have value 0): rollout_step, item, group,
    group_uid, sample, pos, n_before and n_after (responses through the prefix, with the token), value_before,
    value_after, delta, n_children, tempo_advantage, grpo_advantage.
    """
    rollouts.require("response_token_ids", by="prefix_values")
    rows = _log.responses(rollouts, ["reward"], "prefix_values")
    reward = rows["reward"].to_numpy(float)
    found = _prefixes.edges(rows, _prefixes.all_ids(rollouts), reward)
    own = found["response"].to_numpy(np.int64)
    grpo = _standardised(rows, reward)
    spread = np.sqrt(_log.by_cell(rows, (reward - _log.by_cell(rows, reward)) ** 2))
    delta = (found["value_after"] - found["value_before"]).to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        tempo = np.where(spread[own] > 1e-12, grpo[own] + delta / spread[own], np.nan)
    table = pd.concat(
        [rows[_log.KEYS].iloc[own].reset_index(drop=True), found.drop(columns="response").reset_index(drop=True)],
        axis=1,
    ).assign(delta=delta, tempo_advantage=tempo, grpo_advantage=grpo[own])
    flat = int((pd.Series(spread <= 1e-12).groupby(rows["cell"]).first()).sum())
    notes = [f"{flat} sampling group(s) have no spread of rewards: no advantage (NaN)"] if flat else []
    return Result.of(table, _aggregate(rows, table, own, seed), warnings=[*rollouts.notes, *notes])


def _standardised(rows: pd.DataFrame, reward: np.ndarray) -> np.ndarray:
    """(r - mean) / std per sampling group; NaN in a group without spread (nothing to be standardised)."""
    centred = reward - _log.by_cell(rows, reward)
    spread = np.sqrt(_log.by_cell(rows, centred**2))
    return np.divide(centred, spread, out=np.full(len(reward), np.nan), where=spread > 1e-12)


def _aggregate(rows: pd.DataFrame, table: pd.DataFrame, own: np.ndarray, seed: int) -> xr.Dataset:
    n = len(rows)
    branch = table["n_children"].to_numpy() > 1
    facts = rows.assign(
        depth=np.bincount(own, minlength=n).astype(float),
        branches=np.bincount(own[branch], minlength=n).astype(float) if n else np.zeros(0),
    )
    found = [
        estimate(facts, q, ["rollout_step"], seed=seed, units="tokens" if q == "depth" else "1")
        for q in ("depth", "branches")
    ]
    near = table[table["pos"] < SHOWN].assign(size=table["delta"].abs())
    if len(near):
        found.append(estimate(near, "size", ["pos"], seed=seed, name="value_moved", units="reward"))
    return xr.merge(found)


def figures(result: Result) -> dict[str, Figure]:
    """How far responses share their way, over steps, and how much value moves at each position."""
    rows = result.summary()
    extra = "step" if "step" in rows else None
    depth = rows[rows["quantity"].isin(["depth", "branches"])]
    drawn = {
        "depth": curve(
            depth, x="rollout_step", facet=["quantity", *([extra] if extra else [])],
            title="Tokens shared with another response, and branches on the way, 95 % over items",
        )
    }  # fmt: skip
    moved = rows[rows["quantity"] == "value_moved"]
    if len(moved):
        drawn["moved"] = curve(
            moved, x="pos", color=extra, title="Mean |change of value| at shared prefixes, by position"
        )
    return drawn
