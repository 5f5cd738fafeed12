"""Which prompts teach at all: groups with both outcomes, and the learning signal bought per token.

Definition: a sampling group is informative where its rewards differ. expected_informative = 1 - p^n - (1 - p)^n for the
    group's own share p of successes (0 at p in {0, 1}, so it is what another draw of n would give). token_value = mean
    |A| per token of the group, over all its tokens (0 in a group without spread). Where responses were stopped at
    random and kept with known probability (`inclusion_probability`), Horvitz-Thompson weights 1 / q make sums
    unbiased: mean_reward_ht, and tokens and |A| likewise.
Units: shares; |A| per 1,000 tokens.
Source: DUET.
Does not show: whether an informative group teaches the right thing.
Control: the expected share beside the observed one; p = .5 (most informative).
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
    from jaxtyping import Float
    from plotly.graph_objects import Figure

    from probe import Rollouts


@analysis
def informative_groups(rollouts: Rollouts, *, success_above: float = 0.5, seed: int = 0) -> Result:
    """Share of sampling groups whose rewards differ, and the |advantage| they give per token of budget.

    Rows, one per sampling group: rollout_step, item, group, group_uid, n, success_rate, informative,
    expected_informative, n_tokens, mean_abs_advantage, token_value (per 1,000 tokens), mean_reward_ht.
    """
    named = "inclusion_probability"
    weighted = named in rollouts.columns
    rows = _log.responses(rollouts, ["reward", *([named] if weighted else [])], "informative_groups")
    success = _log.successes(rows, success_above, "informative_groups")
    q = rows[named].to_numpy(float) if weighted else np.ones(len(rows))
    if (~(q > 0) | (q > 1)).any():
        raise InputError(f"informative_groups: {named} must lie in (0, 1]; got {np.unique(q[~(q > 0) | (q > 1)])[:3]}")
    reward = rows["reward"].to_numpy(float)
    rows = rows.assign(
        success=success,
        size=np.abs(_log.standardised(rows, reward)) / q,
        length=rows["n_tokens"] / q,
        ht=reward / q,
        w=1 / q,
    )
    grouped = rows.groupby("cell", sort=True)
    n, p = grouped.size().to_numpy(), grouped["success"].mean().to_numpy()
    spread = grouped["reward"].max().to_numpy() > grouped["reward"].min().to_numpy()
    total, length, weight = (grouped[c].sum().to_numpy() for c in ("size", "length", "w"))
    table = grouped[_log.KEYS[:4]].first().reset_index(drop=True).assign(
        n=n, success_rate=p, informative=spread, expected_informative=chance_informative(p, n),
        n_tokens=grouped["n_tokens"].sum().to_numpy(), mean_abs_advantage=total / weight,
        token_value=1000 * np.divide(total, length, out=np.full(len(n), np.nan), where=length > 0),
        mean_reward_ht=grouped["ht"].sum().to_numpy() / n if not weighted else grouped["ht"].sum().to_numpy() / weight,
    )  # fmt: skip
    return Result.of(table, _aggregate(table, seed), warnings=rollouts.notes)


def chance_informative(p: Float[np.ndarray, " group"], n: Float[np.ndarray, " group"]) -> Float[np.ndarray, " group"]:
    """1 - p^n - (1 - p)^n: the chance that n outcomes at this rate are not all alike."""
    return 1 - p**n - (1 - p) ** n


def _aggregate(table: pd.DataFrame, seed: int) -> xr.Dataset:
    rows = table.assign(informative=table["informative"].astype(float))
    units = {"informative": "1", "expected_informative": "1", "token_value": "|A| per 1,000 tokens"}
    return xr.merge([estimate(rows, q, ["rollout_step"], seed=seed, units=u) for q, u in units.items()])


def figures(result: Result) -> dict[str, Figure]:
    """Informative groups, observed and expected, and the value of tokens, over steps."""
    rows = result.summary()
    extra = "step" if "step" in rows else None
    share = rows[rows["quantity"].isin(["informative", "expected_informative"])]
    value = rows[rows["quantity"] == "token_value"]
    return {
        "informative": curve(
            share, x="rollout_step", color="quantity", facet=extra, title="Groups whose rewards differ"
        ),
        "value": curve(value, x="rollout_step", color=extra, title="Learning signal per token"),
    }
