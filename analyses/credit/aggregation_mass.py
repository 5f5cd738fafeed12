"""Whom a loss listens to: the share of gradient that positive and long responses get under each way of averaging.

Definition: T_i tokens of response i, k of G responses of a scope with A > 0, T+ and T- their tokens and the others'
    (A = 0 pulls nothing and is left out). token: T_i / (T+ + T-). sequence: 1 / G. balanced: (k / G) T_i / T+ for A > 0
    and ((G - k) / G) T_i / T- for A < 0, the mean over tokens of each sign taken apart. A share is the sum over the
    responses it names; with `by_advantage` each is multiplied by |A_i| and the whole divided by its sum.
Units: shares in [0, 1].
Source: Balanced Aggregation; token and sequence means as `loss_agg` of the usual trainers.
Does not show: what training did with it: clipping, ratios and the optimizer come after this.
Control: equal lengths (all three agree); `sequence`, which lengths do not move.
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

if TYPE_CHECKING:
    from jaxtyping import Float
    from plotly.graph_objects import Figure

    from probe import Rollouts

LOSSES = ("token", "sequence", "balanced")


@analysis
def aggregation_mass(
    rollouts: Rollouts,
    *,
    scope: Literal["group", "step", "micro_batch"] = "group",
    by_advantage: bool = False,
    seed: int = 0,
) -> Result:
    """Share of gradient mass of positive and of long responses under token, sequence and balanced means.

    Rows, one per response that pulls: rollout_step, item, group, group_uid, sample, n_tokens, advantage, is_long (more
    tokens than the median of its scope), token_mass, sequence_mass, balanced_mass (each sums to 1 over a scope).

    Args:
        scope: a sampling group, a rollout step, or a loss call (micro_batch_id).
        by_advantage: multiply by |A|.
    """
    wanted = ["advantage", *(["micro_batch_id"] if scope == "micro_batch" else [])]
    rows = _log.responses(rollouts, wanted, "aggregation_mass")
    pulls = (rows["advantage"].abs() > 0) & (rows["n_tokens"] > 0)
    silent = int((~pulls).sum())
    rows = rows[pulls].reset_index(drop=True)
    keys = {"group": ["cell"], "step": ["rollout_step"], "micro_batch": ["rollout_step", "micro_batch_id"]}[scope]
    own = rows.groupby(keys, sort=True).ngroup().to_numpy()
    length, advantage = rows["n_tokens"].to_numpy(float), rows["advantage"].to_numpy(float)
    found = masses(length, advantage, own, by_advantage)
    median = rows.groupby(own)["n_tokens"].median().to_numpy()[own] if len(rows) else np.zeros(0)
    table = rows.drop(columns=["cell", *(["micro_batch_id"] if scope == "micro_batch" else [])])
    table = table.assign(is_long=length > median, **{f"{name}_mass": v for name, v in found.items()})
    notes = (
        [f"{silent} of {silent + len(rows)} responses have advantage 0 or no token and pull nothing"] if silent else []
    )
    return Result.of(table, _aggregate(table, seed), warnings=[*rollouts.notes, *notes, *_unbalanced(table, own)])


def masses(
    length: Float[np.ndarray, " response"],
    advantage: Float[np.ndarray, " response"],
    scope: Float[np.ndarray, " response"],
    by_advantage: bool = False,
) -> dict[str, Float[np.ndarray, " response"]]:
    """Each response's share of its scope's gradient under the three means; shares of a scope sum to 1."""

    def over(values: np.ndarray, number: np.ndarray) -> np.ndarray:
        return np.bincount(number, values)[number] if len(number) else values

    signed = scope * 2 + (advantage > 0)
    same_sign, everyone = over(np.ones(len(length)), signed), over(np.ones(len(length)), scope)
    found = {
        "token": length / over(length, scope),
        "sequence": 1 / everyone,
        "balanced": same_sign / everyone * length / over(length, signed),
    }
    if by_advantage:
        found = {name: value * np.abs(advantage) for name, value in found.items()}
    return {name: value / over(value, scope) for name, value in found.items()}


def _unbalanced(table: pd.DataFrame, scope: np.ndarray) -> list[str]:
    one = pd.Series(table["advantage"].to_numpy() > 0).groupby(scope).nunique() if len(table) else pd.Series([2])
    n = int((one < 2).sum())
    return [f"{n} scope(s) hold advantages of one sign only: their share is 0 or 1 under every mean"] if n else []


def _aggregate(table: pd.DataFrame, seed: int) -> xr.Dataset:
    if table.empty:
        return xr.Dataset()
    long = pd.concat(
        [
            pd.DataFrame(
                {
                    "rollout_step": table["rollout_step"],
                    "item": table["item"],
                    "variant": name,
                    "mass": table[f"{name}_mass"],
                    "positive_share": table[f"{name}_mass"] * (table["advantage"] > 0),
                    "long_share": table[f"{name}_mass"] * table["is_long"],
                }
            )
            for name in LOSSES
        ]
    )
    how: dict[str, Any] = {"per": "mass", "seed": seed, "units": "1"}
    return xr.merge([estimate(long, q, ["rollout_step", "variant"], **how) for q in ("positive_share", "long_share")])


def figures(result: Result) -> dict[str, Figure]:
    """The share of gradient of positive, and of long responses, over steps, one line per way of averaging."""
    rows = result.summary()
    if rows.empty:
        return {}
    title = {"positive_share": "Gradient of responses with A > 0", "long_share": "Gradient of the longer half"}
    extra = [c for c in ("step",) if c in rows]
    return {
        name: curve(
            rows[rows["quantity"] == name], x="rollout_step", color="variant", facet=extra or None, reference=0.5,
            title=f"{said}, 95 % over items",
        )
        for name, said in title.items()
    }  # fmt: skip
