"""Entropy of the window after each token, for easy, medium and hard prompts.

Definition: the window entropy of a token is the mean entropy of the next w tokens of its response (all w must exist;
    w = 1 is the next token's). A prompt is easy where at least 2/3 of its rollouts of a step succeed, medium from 1/3,
    hard below. threshold = mean over responses of each one's given percentile of window entropy; high = share of
    windows at or above it; cost = sum of max(0, window entropy - threshold) per response.
Units: nats.
Source: ARES, arXiv 2510.08457 (trigger words there; forking_tokens marks those, here every token begins a window).
Does not show: that a high window explores: entropy is high before any choice that does not matter, too.
Control: a constant entropy (every window is that constant, nothing lies above it); difficulty permuted over prompts.
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
from analyses.credit import _log
from probe.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from plotly.graph_objects import Figure

    from probe import Rollouts

LEVELS = ("easy", "medium", "hard")


@analysis
def window_entropy(
    rollouts: Rollouts,
    *,
    window: int = 4,
    percentile: float = 95.0,
    success_above: float = 0.5,
    seed: int = 0,
) -> Result:
    """Mean and high window entropies of every response, by the difficulty of its prompt.

    Needs entropies per token (`H`); without them everything is NaN and a warning says why.

    Rows, one per response: rollout_step, item, group, group_uid, sample, n_tokens, pass_rate, difficulty, window_nats,
    high_share, cost_nats (all NaN for a response of no more than `window` tokens).

    Args:
        window: those after each token.
        percentile: of each response's windows whose mean over responses is the threshold.
    """
    if window < 1 or not 0 < percentile < 100:
        raise InputError(
            f"window={window}, percentile={percentile}; expected 1 or more tokens, a percentile in (0, 100)"
        )
    rows = _log.responses(rollouts, ["reward"], "window_entropy")
    success = _log.successes(rows, success_above, "window_entropy")
    rate = pd.Series(success).groupby([rows["rollout_step"].to_numpy(), rows["item"].to_numpy()]).transform("mean")
    table = rows[[*_log.KEYS, "n_tokens"]].assign(pass_rate=rate.to_numpy(), difficulty=difficulty(rate.to_numpy()))
    why = _log.measured(rollouts, "H")
    if why:
        blank = table.assign(window_nats=np.nan, high_share=np.nan, cost_nats=np.nan)
        return Result.of(blank, xr.Dataset(), warnings=[*rollouts.notes, why])
    rollouts.require("H", by="window_entropy")
    tokens = _log.tokens(rollouts, ["H"])
    own, n = tokens["response"].to_numpy(), len(rows)
    ahead = windows(tokens["H"].to_numpy(float), own, window)
    seen = ~np.isnan(ahead)
    high = pd.Series(ahead[seen]).groupby(own[seen]).quantile(percentile / 100)
    bound = float(high.mean()) if len(high) else np.nan
    over = np.where(seen, ahead >= bound, np.nan)
    cost = np.where(seen, np.maximum(ahead - bound, 0), 0.0)
    none = np.bincount(own[seen], minlength=n) == 0
    table = table.assign(
        window_nats=_log.means_of(ahead, own, n), high_share=_log.means_of(over, own, n),
        cost_nats=np.where(none, np.nan, np.bincount(own, cost, n)),
    )  # fmt: skip
    data = _aggregate(table, seed).assign(threshold_nats=bound)
    return Result.of(table, data, warnings=rollouts.notes)


def windows(
    entropy: Float[np.ndarray, " token"], response: Int[np.ndarray, " token"], width: int
) -> Float[np.ndarray, " token"]:
    """Mean entropy of the `width` tokens after each; NaN where the response ends before, or one was not measured."""
    n = len(entropy)
    out = np.full(n, np.nan)
    if n <= width:
        return out
    gone = np.isnan(entropy)
    running = np.concatenate([[0.0], np.cumsum(np.where(gone, 0.0, entropy))])
    lacking = np.concatenate([[0], np.cumsum(gone)])
    whole = response[width:] == response[:-width]  # the last token of the window is of the same response
    whole &= lacking[1 + width :] == lacking[1 : n - width + 1]
    out[: n - width][whole] = ((running[1 + width :] - running[1 : n - width + 1]) / width)[whole]
    return out


def difficulty(pass_rate: Float[np.ndarray, " response"]) -> np.ndarray:
    """easy from 2/3 of rollouts that succeed, medium from 1/3, hard below."""
    return np.select([pass_rate >= 2 / 3 - 1e-9, pass_rate >= 1 / 3 - 1e-9], LEVELS[:2], LEVELS[2])


def _aggregate(table: pd.DataFrame, seed: int) -> xr.Dataset:
    rows = table.rename(columns={"difficulty": "variant"})
    units = {"window_nats": "nats", "high_share": "1", "cost_nats": "nats"}
    return xr.merge([estimate(rows, q, ["rollout_step", "variant"], seed=seed, units=u) for q, u in units.items()])


def figures(result: Result) -> dict[str, Figure]:
    """Window entropy over steps, one line per difficulty."""
    rows = result.summary()
    if rows.empty:
        return {}
    said = rows[rows["quantity"].isin(["window_nats", "high_share"])]
    extra = ["step"] if "step" in rows else []
    title = "Entropy of the tokens ahead, by difficulty of the prompt, 95 % over items"
    return {"windows": curve(said, x="rollout_step", color="variant", facet=["quantity", *extra], title=title)}
