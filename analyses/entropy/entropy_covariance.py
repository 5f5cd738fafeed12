"""Three covariances that are said to predict the change of entropy, kept apart by name.

Definition: cov_logit = Cov_{a ~ p}(log p, dz) at each state, dz the change of the logits from base to tuned: the only
    one that predicts dH quantitatively (dH = -cov_logit to first order). cov_pg = Cov_{a ~ p}(log p, p A), which
    needs A of every action; of a log, one sample per state is known, and A S_a estimates it without bias for
    centred A. cov_token_pooled = (log p - mean)(A - mean) per token, means over the `scope`: its expectation is the
    natural-gradient form pooled over states, and contains Cov_s(-H(s), mean A(s)), which moves no entropy.
    Clip-Cov and KL-Cov (arXiv 2505.22617) select tokens by it; the selections here only mark, they train nothing.
Units: nats x advantage (cov_logit: nats). Higher covariance is claimed to mean a larger fall of entropy.
Source: arXiv 2505.22617 Eq. 10 and released code: current policy's log p, means over the micro-batch of a loss call,
    A broadcast over tokens; clip_cov draws max(floor(r N), 1) of the tokens with lb < c < ub that PPO did not clip;
    kl_cov takes the top max(1, floor(k N)).
Does not show: dH. Pooled covariance can be large where entropy does not move at all; read it only beside
    entropy_change or entropy_step, whose reference it is held against.
Control: exact_nats beside it, per token; a run with a random reward; within-state covariance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import curve, scatter
from analyses.core.reading import rollout_tokens
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work, passes

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from plotly.graph_objects import Figure
    from torch import Tensor

    from probe import Model, Rollouts

FRACTIONS = (0.0002, 0.002, 0.02, 0.2, 0.5, 1.0)


def _work(case: Case) -> Work:
    """A pass of each checkpoint over every response."""
    return passes(case, "answer")


@analysis(work=_work)
def entropy_covariance(
    base: Model,
    tuned: Model,
    rollouts: Rollouts,
    *,
    scope: Literal["step", "micro_batch"] = "step",
    clip_ratio: float = 2e-4,
    clip_low: float = 1.0,
    clip_high: float = 5.0,
    kl_fraction: float = 2e-3,
    fractions: tuple[float, ...] = FRACTIONS,
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Covariances of log-probability with logit change and advantage for every logged token, with the exact change.

    Rows, one per masked-in token: step (of the log; in a sweep, of the tuned checkpoint), rollout_step, item, group,
    group_uid, sample, pos, token, token_class, advantage, logp_nats (base), cov_logit, cov_pg, cov_token_pooled,
    exact_nats (H of tuned minus H of base), clip_cov_eligible, clip_cov, kl_cov (selected or not).

    Args:
        scope: a rollout step, or a loss call (micro_batch_id).
        clip_ratio: share of tokens that Clip-Cov drops.
        clip_low: smallest covariance that Clip-Cov may drop.
        clip_high: largest covariance that Clip-Cov may drop.
        kl_fraction: share of tokens that KL-Cov penalises.
        fractions: of the top tokens whose mean covariance is tabulated.
        seed: the bootstrap over items and Clip-Cov's draw.
    """

    warnings = reading.pair_warnings(base, tuned)
    rollouts = rollout_tokens.readable(rollouts, base)
    rollouts.require("advantage", *(["micro_batch_id"] if scope == "micro_batch" else []), by="entropy_covariance")
    carried = ["advantage", "old_logp", "micro_batch_id", "clip_low", "clip_high"]
    frame = rollout_tokens.read(
        [base, tuned],
        rollouts,
        _values,
        columns=[c for c in carried if c in rollouts.columns],
        batch_size=batch_size,
        what="entropy covariance",
    )
    frame["advantage"] = frame["advantage"].astype(float)
    frame["cov_pg"] = rollout_tokens.centred(frame) * frame.pop("s")
    keys = ["rollout_step"] + ["micro_batch_id"] * (scope == "micro_batch")
    chosen = {"ratio": clip_ratio, "low": clip_low, "high": clip_high, "fraction": kl_fraction}
    parts = [_one_call(part, number, seed, **chosen) for number, (_, part) in enumerate(frame.groupby(keys, sort=True))]
    table = pd.concat(parts).sort_index()
    table = table.drop(columns=["old_logp", "clip_low", "clip_high"], errors="ignore")
    table.insert(0, "step", table["rollout_step"])  # a sweep puts the tuned checkpoint's step here
    return Result.of(table, _aggregate(table, fractions, seed), warnings=[*warnings, *rollouts.notes])


def _values(logits: tuple[Tensor, ...], targets: Tensor) -> dict[str, Tensor]:

    logp, logq = (reading.log_probs(z) for z in logits)
    found = reading.change(logp, logq)
    at = targets[:, None]
    return {
        "logp_nats": logp.gather(-1, at)[:, 0],
        "cov_logit": -found.first_order,
        "exact_nats": found.exact,
        "s": reading.discriminator(logp).gather(-1, at)[:, 0],
    }


def _one_call(
    part: pd.DataFrame, number: int, seed: int, *, ratio: float, low: float, high: float, fraction: float
) -> pd.DataFrame:
    """The columns that depend on which tokens are pooled."""
    logp, advantage = part["logp_nats"].to_numpy(), part["advantage"].to_numpy()
    c = token_covariance(logp, advantage)
    eligible = clip_cov_eligible(c, ppo_clipped(part), low, high)
    drawn = clip_cov(eligible, ratio, np.random.default_rng([seed, number]))
    return part.assign(cov_token_pooled=c, clip_cov_eligible=eligible, clip_cov=drawn, kl_cov=kl_cov(c, fraction))


def token_covariance(
    logp: Float[np.ndarray, " token"], advantage: Float[np.ndarray, " token"]
) -> Float[np.ndarray, " token"]:
    """(log p - mean)(A - mean) of every token, means over the tokens given: what one loss call pools."""
    return (logp - logp.mean()) * (advantage - advantage.mean())


def ppo_clipped(part: pd.DataFrame) -> Bool[np.ndarray, " token"]:
    """Tokens whose PPO term is clipped: ratio outside [1 - low, 1 + high] on the side that A pushes to.

    False throughout where the log has no log-probs of the sampling policy or no bounds (on-policy: ratio 1).
    """
    if not {"old_logp", "clip_low", "clip_high"} <= set(part.columns):
        return np.zeros(len(part), bool)
    ratio = np.exp(part["logp_nats"] - part["old_logp"])
    over = (part["advantage"] > 0) & (ratio > 1 + part["clip_high"])
    under = (part["advantage"] < 0) & (ratio < 1 - part["clip_low"])
    return (over | under).to_numpy()


def clip_cov_eligible(
    c: Float[np.ndarray, " token"], clipped: Bool[np.ndarray, " token"], low: float, high: float
) -> Bool[np.ndarray, " token"]:
    """Tokens that Clip-Cov may drop: low < c < high, not already clipped by PPO.

    Args:
        c: covariance of each token.
        clipped: True where PPO clips already.
        low: smallest covariance.
        high: largest.
    """
    return (c > low) & (c < high) & ~clipped


def clip_cov(
    eligible: Bool[np.ndarray, " token"], ratio: float, rng: np.random.Generator
) -> Bool[np.ndarray, " token"]:
    """The tokens Clip-Cov drops: max(floor(ratio N), 1) of the eligible ones, uniformly at random.

    Args:
        eligible: tokens that may be dropped.
        ratio: share of all tokens that is dropped.
        rng: draws them.
    """
    wanted = min(max(int(ratio * len(eligible)), 1), int(eligible.sum()))
    chosen = np.zeros(len(eligible), bool)
    chosen[rng.choice(np.flatnonzero(eligible), wanted, replace=False)] = True
    return chosen


def kl_cov(c: Float[np.ndarray, " token"], fraction: float) -> Bool[np.ndarray, " token"]:
    """The tokens KL-Cov penalises: the max(1, floor(fraction N)) of largest covariance (ties: the first)."""
    chosen = np.zeros(len(c), bool)
    chosen[np.argsort(-c, kind="stable")[: max(1, int(fraction * len(c)))]] = True
    return chosen


def top_fraction_means(c: Float[np.ndarray, " token"], fractions: Sequence[float]) -> Float[np.ndarray, " fraction"]:
    """Mean covariance of the top share of tokens (at least one token) for each share."""
    falling = np.sort(c)[::-1]
    return np.array([falling[: max(1, int(f * len(c)))].mean() for f in fractions])


def _aggregate(table: pd.DataFrame, fractions: Sequence[float], seed: int) -> xr.Dataset:

    rows = table.assign(n_tokens=1.0)
    units = {"cov_logit": "nats", "cov_pg": "nats x advantage", "cov_token_pooled": "nats x advantage"}
    found = [
        estimate(rows, q, ["rollout_step"], per="n_tokens", seed=seed, units=u)
        for q, u in {**units, "exact_nats": "nats"}.items()
    ]
    steps = sorted(table["rollout_step"].unique())
    tops = [
        top_fraction_means(table.loc[table["rollout_step"] == s, "cov_token_pooled"].to_numpy(), fractions)
        for s in steps
    ]
    data = xr.merge(found)
    data["top_fraction_mean"] = (("rollout_step", "fraction"), np.array(tops))
    data = data.assign_coords(fraction=list(fractions))
    data["top_fraction_mean"].attrs.update(units="nats x advantage", long_name="mean covariance of the top share")
    for name in ("clip_cov_eligible", "clip_cov", "kl_cov"):
        share = table.groupby("rollout_step")[name].mean().reindex(steps)
        data[f"{name}_share"] = ("rollout_step", share.to_numpy(float), {"units": "1"})
    return data


def figures(result: Result) -> dict[str, Figure]:
    """Each covariance over the rollouts' steps, and the pooled one of a token against the exact change there."""

    rows = result.summary()
    extra = [c for c in ("step",) if c in rows]
    shown = result.table.iloc[:: max(1, len(result.table) // 4000)]
    return {
        "means": curve(
            rows,
            x="rollout_step",
            color=extra or None,
            facet="quantity",
            reference=0.0,
            title="Mean covariances by name",
        ),
        "tokens": scatter(
            shown,
            x="cov_token_pooled",
            y="exact_nats",
            color="token_class",
            title="Pooled covariance of a token against the exact change of entropy there",
            x_title="(log p - mean)(A - mean)",
            y_title="H(q) - H(p) (nats)",
        ),
    }
