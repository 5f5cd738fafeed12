"""How little a reward says per token: bits of outcome, and the tokens an advantage reaches.

Definition: an outcome that succeeds with chance p carries at most h(p) = -p log2 p - (1 - p) log2(1 - p) bits per
    rollout; bits_per_token divides by the mean length. supervised = share of tokens whose advantage is not 0 (all
    tokens of a response share its advantage unless the log has one per token).
Units: bits; shares in [0, 1].
Source: the information of one binary outcome; the question is that of sparse-to-dense rewards.
Does not show: whether the bits are about the right thing, nor what a dense reward or a teacher would add.
Control: groups with p of 0 or 1 (0 bits); a log with advantages per token.
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
from analyses.credit import _log

if TYPE_CHECKING:
    from jaxtyping import Float
    from plotly.graph_objects import Figure

    from probe import Rollouts


@analysis
def supervision_density(rollouts: Rollouts, *, success_above: float = 0.5, seed: int = 0) -> Result:
    """Bits per rollout and per token that the rewards of every sampling group can carry, and the tokens they reach.

    Rows, one per sampling group: rollout_step, item, group, group_uid, n, success_rate, bits_per_rollout, n_tokens,
    bits_per_token, n_told (tokens that have an advantage), n_supervised (whose advantage is not 0), supervised.
    """
    rows = _log.responses(rollouts, ["reward", "advantage"], "supervision_density")
    success = _log.successes(rows, success_above, "supervision_density")
    tokens = _log.tokens(rollouts, ["advantage"])
    told = tokens[tokens["advantage"].notna()]
    reached = np.bincount(told["response"], told["advantage"] != 0, len(rows))
    known = np.bincount(told["response"], minlength=len(rows))
    grouped = rows.assign(success=success, reached=reached, known=known).groupby("cell", sort=True)
    n, p = grouped.size().to_numpy(), grouped["success"].mean().to_numpy()
    length, supervised, told = (grouped[c].sum().to_numpy() for c in ("n_tokens", "reached", "known"))
    bits = binary_bits(p)
    some = length > 0
    table = grouped[_log.KEYS[:4]].first().reset_index(drop=True).assign(
        n=n, success_rate=p, bits_per_rollout=bits, n_tokens=length,
        bits_per_token=np.divide(bits * n, length, out=np.full(len(n), np.nan), where=some),
        n_told=told, n_supervised=supervised,
        supervised=np.divide(supervised, told, out=np.full(len(n), np.nan), where=told > 0),
    )  # fmt: skip
    return Result.of(table, _aggregate(table, seed), warnings=rollouts.notes)


def binary_bits(p: Float[np.ndarray, " group"]) -> Float[np.ndarray, " group"]:
    """Entropy in bits of one outcome with chance p; 0 at p of 0 and 1."""
    return (scipy.special.entr(p) + scipy.special.entr(1 - p)) / np.log(2)


def _aggregate(table: pd.DataFrame, seed: int) -> xr.Dataset:
    rows = table.assign(all_bits=table["bits_per_rollout"] * table["n"])
    found = [estimate(rows, "bits_per_rollout", ["rollout_step"], seed=seed, units="bits")]
    found.append(
        estimate(rows, "all_bits", ["rollout_step"], per="n_tokens", seed=seed, name="bits_per_token", units="bits")
    )
    found.append(
        estimate(rows, "n_supervised", ["rollout_step"], per="n_told", seed=seed, name="supervised", units="1")
    )
    return xr.merge(found)


def figures(result: Result) -> dict[str, Figure]:
    """Bits per rollout and per token, and the share of tokens an advantage reaches, over steps."""
    rows = result.summary()
    extra = ["step"] if "step" in rows else []
    title = "What rewards can say, 95 % over items"
    return {"density": curve(rows, x="rollout_step", facet=["quantity", *extra], title=title)}
