"""What is known of each prompt's success rate so far, and what k more rollouts of it would teach.

Definition: successes and failures of an item, those of earlier steps multiplied by decay per step that has passed, on
    top of a Beta(prior, prior), give Beta(a, b): n = a + b, mean = a / n. variance_reduction = mean (1 - mean) k /
    ((n + 1)(n + k)), the expected fall of the posterior variance from k rollouts. information_nats = H(BetaBinomial(k,
    a, b)) - E H(Binomial(k, phi)), the mutual information of k outcomes and the rate.
Units: variance in squared success rate; information in nats.
Source: InSight (its own weighting of the two is not covered); k rollouts for both, checked in closed form.
Does not show: the use of a prompt for training: a rate that is known may still have to be learnt (informative_groups).
Control: decay = 1 (nothing is forgotten); many rollouts (both go to 0).
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
from probe.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float
    from plotly.graph_objects import Figure

    from probe import Rollouts


@analysis
def rollout_evidence(
    rollouts: Rollouts,
    *,
    k: int = 8,
    prior: float = 1.0,
    decay: float = 1.0,
    success_above: float = 0.5,
    seed: int = 0,
) -> Result:
    """Posterior of every item's success rate after each step it was sampled at, and the value of k more rollouts.

    Rows, one per step and item: rollout_step, item, group, n_rollouts (of this step), n_successes, a, b, mean,
    variance, variance_reduction, information_nats.

    Args:
        k: further rollouts whose value is asked.
        prior: a and b before anything was seen.
        decay: what a step's counts are multiplied by at the item's next one (1: nothing is forgotten).
    """
    if k < 1 or prior <= 0 or not 0 <= decay <= 1:
        raise InputError(
            f"k={k}, prior={prior}, decay={decay}; expected k of 1 or more, prior above 0, decay in [0, 1]"
        )
    rows = _log.responses(rollouts, ["reward"], "rollout_evidence")
    rows["success"] = _log.successes(rows, success_above, "rollout_evidence")
    grouped = rows.groupby(["item", "rollout_step"], sort=True)["success"]
    table = grouped.agg(n_rollouts="size", n_successes="sum").reset_index()
    table["group"] = table["item"].map(rows.drop_duplicates("item").set_index("item")["group"])
    won = _decayed(table, table["n_successes"].to_numpy(float), decay)
    lost = _decayed(table, (table["n_rollouts"] - table["n_successes"]).to_numpy(float), decay)
    a, b = prior + won, prior + lost
    mean, n = a / (a + b), a + b
    table = table.assign(
        a=a, b=b, mean=mean, variance=mean * (1 - mean) / (n + 1),
        variance_reduction=variance_reduction(a, b, k), information_nats=information(a, b, k),
    )  # fmt: skip
    order = ["rollout_step", "item", "group", "n_rollouts", "n_successes", "a", "b", "mean", "variance"]
    table = table[[*order, "variance_reduction", "information_nats"]]
    return Result.of(table, _aggregate(table, seed), warnings=rollouts.notes)


def _decayed(table: pd.DataFrame, counts: np.ndarray, decay: float) -> np.ndarray:
    """Running counts of each item over its steps (rows sorted by item and step), forgetting as they go."""
    if decay == 1:
        return pd.Series(counts).groupby(table["item"].to_numpy()).cumsum().to_numpy()
    out = np.zeros(len(counts))
    items = table["item"].to_numpy()
    for i, count in enumerate(counts):
        out[i] = count + (decay * out[i - 1] if i and items[i] == items[i - 1] else 0.0)
    return out


def variance_reduction(
    a: Float[np.ndarray, " item"], b: Float[np.ndarray, " item"], k: int
) -> Float[np.ndarray, " item"]:
    """Expected fall of the variance of Beta(a, b) from k outcomes.

    >>> variance_reduction(np.array([1.0]), np.array([1.0]), 1).round(4)  # a sixth of 1/12 is left out of Beta(1, 1)
    array([0.0278])

    Args:
        a: successes, the prior among them.
        b: failures, the prior among them.
        k: further outcomes.
    """
    n = a + b
    return a * b / n**2 * k / ((n + 1) * (n + k))


def information(a: Float[np.ndarray, " item"], b: Float[np.ndarray, " item"], k: int) -> Float[np.ndarray, " item"]:
    """Mutual information in nats of k outcomes and the rate under Beta(a, b).

    Args:
        a: successes, the prior among them.
        b: failures, the prior among them.
        k: further outcomes.
    """
    x = np.arange(k + 1)
    log_choose = scipy.special.gammaln(k + 1) - scipy.special.gammaln(x + 1) - scipy.special.gammaln(k - x + 1)
    p = scipy.stats.betabinom.pmf(x[None], k, a[:, None], b[:, None])
    marginal = scipy.special.entr(p).sum(1)
    n, mean = a + b, a / (a + b)
    per_outcome = mean * (scipy.special.psi(a + 1) - scipy.special.psi(n + 1))
    per_outcome = per_outcome + (1 - mean) * (scipy.special.psi(b + 1) - scipy.special.psi(n + 1))
    given_rate = -(p * log_choose).sum(1) - k * per_outcome
    return marginal - given_rate


def _aggregate(table: pd.DataFrame, seed: int) -> xr.Dataset:
    units = {"mean": "1", "variance_reduction": "1", "information_nats": "nats"}
    return xr.merge([estimate(table, q, ["rollout_step"], seed=seed, units=u) for q, u in units.items()])


def figures(result: Result) -> dict[str, Figure]:
    """Mean success rate and what k more rollouts would teach, over steps."""
    rows = result.summary()
    extra = ["step"] if "step" in rows else []
    title = "Success rate, and what k more rollouts of a prompt would teach"
    return {"evidence": curve(rows, x="rollout_step", facet=["quantity", *extra], title=title)}
