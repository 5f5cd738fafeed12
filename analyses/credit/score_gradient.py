"""How large the gradient of a sampled token's log-probability is on average, against the entropy it was sampled at.

Definition: for logits z and p = softmax(z), the mean over tokens a ~ p of |grad_z log p(a)|^2 = 1 - sum p^2 = 1 -
    exp(-H2), H2 the collision entropy: 0 where one token is sure, 1 - 1/V at a uniform choice. Certain tokens
    therefore learn little whatever their advantage. correlation: Pearson's r of it with the entropy H over tokens.
    weighted = (1 - sum p^2) |A|, the size of the policy-gradient term per token.
Units: dimensionless, in [0, 1 - 1/V]; entropy in nats.
Source: EMPG, arXiv 2509.09265 (Proposition 1).
Does not show: gradients of the weights: only that of a position's own logits.
Control: tokens of entropy 0 (0); shuffled advantages for `weighted`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.analysis import analysis
from analyses.core.figures import curve, forest
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.credit import _log

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from probe import Rollouts

EDGES = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, np.inf)


@analysis
def score_gradient(rollouts: Rollouts, *, seed: int = 0) -> Result:
    """Mean squared score gradient 1 - sum p^2 of every response, by entropy of its tokens, and their correlation.

    Needs a log with entropies and sums of squares (`H`, `sum_p2`: the recorder's, or probe.recompute); without them
    everything is NaN and a warning says why.

    Rows, one per response: rollout_step, item, group, group_uid, sample, n_tokens, entropy_nats, score_gradient,
    weighted (NaN without advantages).
    """
    has_advantage = "advantage" in rollouts.columns
    rows = _log.responses(rollouts, ["advantage"] if has_advantage else [], "score_gradient")
    why = _log.measured(rollouts, "H", "sum_p2")
    size = np.abs(rows["advantage"].to_numpy(float)) if has_advantage else np.full(len(rows), np.nan)
    table = rows[[*_log.KEYS, "n_tokens"]]
    if why:
        blank = table.assign(entropy_nats=np.nan, score_gradient=np.nan, weighted=np.nan)
        return Result.of(blank, xr.Dataset(), warnings=[*rollouts.notes, why])
    rollouts.require("H", "sum_p2", by="score_gradient")
    tokens = _log.tokens(rollouts, ["H", "sum_p2"])
    own = tokens["response"].to_numpy()
    entropy, gradient = tokens["H"].to_numpy(float), 1 - tokens["sum_p2"].to_numpy(float)
    mean = _log.means_of(gradient, own, len(rows))
    table = table.assign(entropy_nats=_log.means_of(entropy, own, len(rows)), score_gradient=mean, weighted=mean * size)
    return Result.of(table, _aggregate(rows, table, own, entropy, gradient, seed), warnings=rollouts.notes)


def _aggregate(
    rows: pd.DataFrame, table: pd.DataFrame, own: np.ndarray, entropy: np.ndarray, gradient: np.ndarray, seed: int
) -> xr.Dataset:
    found = [estimate(table, q, ["rollout_step"], seed=seed, units="1") for q in ("score_gradient", "weighted")]
    bins = np.digitize(entropy, EDGES[1:-1])
    names = [f"{low:g}-{high:g}" if np.isfinite(high) else f"{low:g}+" for low, high in pairwise(EDGES)]
    cells = pd.DataFrame({"item": rows["item"].to_numpy()[own], "bin": bins, "top": gradient, "n": 1.0})
    per_item = cells.groupby(["item", "bin"], sort=True)[["top", "n"]].sum().reset_index()
    per_item["variant"] = [names[b] for b in per_item.pop("bin")]
    found.append(estimate(per_item, "top", ["variant"], per="n", seed=seed, name="by_entropy", units="1"))
    seen = ~(np.isnan(entropy) | np.isnan(gradient))
    varies = seen.sum() > 2 and np.ptp(entropy[seen]) > 0 and np.ptp(gradient[seen]) > 0
    data = xr.merge(found)
    data["correlation"] = float(np.corrcoef(entropy[seen], gradient[seen])[0, 1]) if varies else float("nan")
    data["correlation"].attrs.update(units="1", long_name="correlation of 1 - sum p^2 with entropy over tokens")
    return data


def figures(result: Result) -> dict[str, Figure]:
    """The score gradient by the entropy of the token, and over steps."""
    rows = result.summary()
    if rows.empty:
        return {}
    extra = "step" if "step" in rows else None
    binned = rows[rows["quantity"] == "by_entropy"].assign(
        low=lambda r: r["variant"].str.extract(r"^([\d.]+)")[0].astype(float)
    )
    title = "Mean squared score gradient by the token's entropy (nats), 95 % over items"
    steps = rows[rows["quantity"] == "score_gradient"]
    return {
        "by_entropy": forest(binned.sort_values("low"), label="variant", color=extra, reference=None, title=title),
        "by_step": curve(steps, x="rollout_step", color=extra, title="Mean squared score gradient over steps"),
    }
