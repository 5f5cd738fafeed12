"""Which kinds of tokens push entropy down: the sign of the advantage against the side of the distribution.

Definition: for a sampled token of probability p and log-probability l at entropy H, S = p (l + H) and B = the mean of S
    under the policy: a policy-gradient step of size e on the token changes entropy by -e r A (S - B) to first order, r
    the ratio to the sampling policy. A token is `likely` where S > B, `unlikely` where S < B. Quadrants: A > 0 likely
    and A < 0 unlikely lower entropy, the other two raise it. change = -r A (S - B); share = the quadrant's part of all
    |change|. rule_of_surprisal: share of tokens on which the simpler rule (surprisal below or above H, the sign of S)
    names the same side: it fails where 0 < S < B.
Units: change in nats per unit step and token; shares in [0, 1].
Source: arXiv 2602.03392 (S, B and the corollaries about the four cases).
Does not show: that the token caused the change: parameters are shared between states (see entropy_step).
Control: shuffled advantages; entropy_step, whose reference this is held against.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.analysis import analysis
from analyses.core.figures import heatmap
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.credit import _log

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from probe import Rollouts

SIDES = ("likely", "unlikely", "S = B")


@analysis
def sign_quadrants(rollouts: Rollouts, *, seed: int = 0) -> Result:
    """First-order change of entropy by sign of the advantage and side of the distribution, from a log alone.

    Needs log-probs, entropies and B per token (`old_logp`, `H`, `B`: the recorder's, or probe.recompute); without them
    everything is NaN and a warning says why. Advantages are centred within their sampling group.

    Rows, one per response: rollout_step, item, group, group_uid, sample, n_tokens, advantage (centred), change (mean
    over its tokens), n_likely, n_unlikely.
    """
    rows = _log.responses(rollouts, ["advantage"], "sign_quadrants")
    advantage = rows["advantage"].to_numpy(float)
    table = rows[[*_log.KEYS, "n_tokens"]].assign(advantage=advantage - _log.by_cell(rows, advantage))
    why = _log.measured(rollouts, "old_logp", "H", "B")
    if why:
        blank = table.assign(change=np.nan, n_likely=np.nan, n_unlikely=np.nan)
        return Result.of(blank, xr.Dataset(), warnings=[*rollouts.notes, why])
    rollouts.require("old_logp", "H", "B", by="sign_quadrants")
    ratio = "new_logp" in rollouts.columns
    tokens = _log.tokens(rollouts, ["old_logp", "H", "B", *(["new_logp"] if ratio else [])])
    own = tokens["response"].to_numpy()
    logp = tokens["old_logp"].to_numpy(float)
    s = np.exp(logp) * (logp + tokens["H"].to_numpy(float))
    gap = s - tokens["B"].to_numpy(float)
    r = np.exp(tokens["new_logp"].to_numpy(float) - logp) if ratio else 1.0  # one that lacks it is not measured
    change = -r * table["advantage"].to_numpy()[own] * gap
    n = len(rows)
    table = table.assign(
        change=_log.means_of(change, own, n), n_likely=np.bincount(own[gap > 0], minlength=n),
        n_unlikely=np.bincount(own[gap < 0], minlength=n),
    )  # fmt: skip
    data = _aggregate(rows, table["advantage"].to_numpy(), own, s, gap, change, seed)
    return Result.of(table, data, warnings=rollouts.notes)


def _aggregate(
    rows: pd.DataFrame,
    advantage: np.ndarray,
    own: np.ndarray,
    s: np.ndarray,
    gap: np.ndarray,
    change: np.ndarray,
    seed: int,
) -> xr.Dataset:
    signs = np.select([advantage > 0, advantage < 0], [0, 1], 2)[own]
    sides = np.select([gap > 0, gap < 0], [0, 1], 2)
    seen = ~np.isnan(change)
    item, items = pd.factorize(rows["item"], sort=True)
    cell = (item[own] * 3 + signs) * 3 + sides
    size = len(items) * 9
    sums = {
        "change": np.bincount(cell[seen], change[seen], size),
        "moved": np.bincount(cell[seen], np.abs(change[seen]), size),
        "n": np.bincount(cell[seen], minlength=size).astype(float),
    }
    where = np.unravel_index(np.arange(size), (len(items), 3, 3))
    cells = pd.DataFrame(sums).assign(
        item=items[where[0]], sign=np.array(["A > 0", "A < 0", "A = 0"])[where[1]], variant=np.array(SIDES)[where[2]]
    )
    totals = cells.groupby("item")[["moved", "n"]].transform("sum")
    cells = cells.assign(all_moved=totals["moved"], all_n=totals["n"])
    by: dict[str, Any] = {"by": ["sign", "variant"], "seed": seed}
    found = [
        estimate(cells, "change", per="all_n", name="change", units="nats per unit step", **by),
        estimate(cells, "moved", per="all_moved", name="share_of_change", units="1", **by),
        estimate(cells, "n", per="all_n", name="share_of_tokens", units="1", **by),
    ]
    data = xr.merge(found)
    agree = (np.sign(s) == np.sign(gap))[seen & (gap != 0)]
    data["rule_of_surprisal"] = float(agree.mean()) if len(agree) else float("nan")
    data["rule_of_surprisal"].attrs.update(units="1", long_name="tokens on which the sign of S is that of S - B")
    return data


def figures(result: Result) -> dict[str, Figure]:
    """The four quadrants: change of entropy, share of all change, share of tokens."""
    rows = result.summary().replace({"variant": {SIDES[2]: "neither"}})
    titles = {
        "change": "First-order change of mean entropy by quadrant",
        "share_of_change": "Share of all |change| by quadrant",
        "share_of_tokens": "Share of tokens by quadrant",
    }
    extra = "step" if "step" in rows else None
    return {
        name: heatmap(rows[rows["quantity"] == name], x="variant", y="sign", facet=extra, title=title)
        for name, title in titles.items()
        if len(rows) and (rows["quantity"] == name).any()
    }
