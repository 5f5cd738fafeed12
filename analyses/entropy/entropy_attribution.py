"""Which sampled tokens are said to move entropy, by every token-level signal, and how far each agrees with the change.

Definition: at the base checkpoint, for sampled token k with probability p and log-probability l: S = p (l + H),
    B = sum_v p_v S_v, r = p / p_old, A the advantage. Predicted changes of entropy, up to an unknown step size:
    token_step = -r A (S - B), first order of one policy-gradient step on that token; s_only = -r A S; surprisal_gap =
    -r A (l + H); omega = -r A (1 - p)(l + H) and omega2 with (1 - p)^2 (STEER). Each is held against exact = H of
    tuned minus H of base at the same state: agreement = Pearson, Spearman, share of equal signs, and the ratio of mean
    magnitudes, over tokens. Marks: Clip_B drops A < 0 and z < -mu std for z = S - mean S; Clip_V drops A < 0 and
    D > mu std(D) for D = B - S, at most max_frac of the tokens.
Units: nats per unit step size for signals; nats for exact; agreement has none.
Source: S, B, Clip_B, Clip_V: arXiv 2602.03392 and released code; omega, weights: arXiv 2510.10150 (code computes
    p (1 - p) where its name says p (1 - p)^2: both are here); H is taken at the current policy, the code's at the old.
Does not show: that a token caused the change at its own state: parameters are shared, so a state moves because of all
    tokens of the update. Agreement per token is therefore a fact about this pair of checkpoints, not about a formula.
Control: omega beside token_step; shuffled advantages; a pair that is one update apart (see entropy_step).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import scipy
import xarray as xr

from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import curve, forest, heatmap
from analyses.core.reading import rollout_tokens
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work, passes

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from plotly.graph_objects import Figure
    from torch import Tensor

    from probe import Model, Rollouts

SIGNALS = ("token_step", "s_only", "surprisal_gap", "omega", "omega2")
AGREEMENTS = ("pearson", "spearman", "same_sign")


def _work(case: Case) -> Work:
    """A pass and its gradient over every response, of each checkpoint."""
    return passes(case, "all", times=3)


@analysis(work=_work)
def entropy_attribution(
    base: Model,
    tuned: Model,
    rollouts: Rollouts,
    *,
    centre: Literal["none", "group"] = "none",
    clip_b_mu: float = 2.5,
    clip_v_mu: float = 8.5,
    clip_v_max: float = 1e-4,
    steer_weights: Literal["exp", "linear"] = "exp",
    steer_min: float = 0.8,
    steer_max: float = 1.2,
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Token-level predictions of the change of entropy, the marks built on them, and their agreement with it.

    Rows, one per masked-in token: step (of the log; in a sweep, of the tuned checkpoint), rollout_step, item, group,
    group_uid, sample, pos, token, token_class, sign (of the advantage), advantage, ratio, logp_nats, entropy_nats, S,
    B, token_step, s_only, surprisal_gap, omega, omega2, steer_weight, clip_b_drops, clip_v_drops, exact_nats.

    Args:
        centre: none refuses advantages that do not average to zero in their sampling group; group subtracts the mean.
        clip_b_mu: Clip_B's threshold in standard deviations.
        clip_v_mu: Clip_V's threshold in standard deviations.
        clip_v_max: largest share of tokens Clip_V drops (at least one).
        steer_weights: STEER's weighting of tokens by |omega|: exponential or linear.
        steer_min: smallest STEER weight.
        steer_max: largest STEER weight (linear only).
    """

    warnings = reading.pair_warnings(base, tuned)
    rollouts = rollout_tokens.readable(rollouts, base)
    rollouts.require("advantage", by="entropy_attribution")
    if centre == "none":
        rollout_tokens.refuse_uncentred(rollouts, "entropy_attribution")
    ratio = "old_logp" in rollouts.columns
    if ratio:
        rollouts.require("old_logp", by="entropy_attribution")
    columns = ["advantage", *(["old_logp"] if ratio else [])]
    plan: dict[str, Any] = {"batch_size": batch_size, "what": "entropy attribution"}
    frame = rollout_tokens.read([base, tuned], rollouts, _values, columns=columns, **plan)
    frame["advantage"] = frame["advantage"].astype(float)
    if centre == "group":
        frame["advantage"] = rollout_tokens.centred(frame)
    frame["ratio"] = np.exp(frame["logp_nats"] - frame.pop("old_logp")) if ratio else 1.0
    frame["sign"] = rollout_tokens.sign_of(frame["advantage"])
    calls = [
        _marked(call, clip_b_mu, clip_v_mu, clip_v_max, steer_weights, steer_min, steer_max)
        for _, call in frame.groupby("rollout_step", sort=True)
    ]
    table = pd.concat(calls).sort_index()
    table.insert(0, "step", table["rollout_step"])  # a sweep puts the tuned checkpoint's step here
    return Result.of(table, _aggregate(table, seed), warnings=[*warnings, *rollouts.notes])


def _values(logits: tuple[Tensor, ...], targets: Tensor) -> dict[str, Tensor]:

    logp, logq = (reading.log_probs(z) for z in logits)
    at = targets[:, None]
    return {
        "logp_nats": logp.gather(-1, at)[:, 0],
        "entropy_nats": reading.entropy(logp),
        "S": reading.discriminator(logp).gather(-1, at)[:, 0],
        "B": reading.baseline(logp),
        "exact_nats": reading.entropy(logq) - reading.entropy(logp),
    }


def _marked(
    call: pd.DataFrame, b_mu: float, v_mu: float, v_max: float, weights: str, low: float, high: float
) -> pd.DataFrame:
    """A loss call's tokens with every signal, STEER's weight and both clip marks."""
    found = signals(*(call[c].to_numpy() for c in ("logp_nats", "entropy_nats", "S", "B", "advantage", "ratio")))
    size = np.abs(found["omega"])
    weight = steer_exp(size, low) if weights == "exp" else steer_linear(size, low, high)
    advantage, s, b = (call[c].to_numpy() for c in ("advantage", "S", "B"))
    marks = {"clip_b_drops": clip_b(s, advantage, b_mu), "clip_v_drops": clip_v(b - s, advantage, v_mu, v_max)}
    return call.assign(**found, steer_weight=weight, **marks)


def signals(
    logp: Float[np.ndarray, " token"],
    entropy: Float[np.ndarray, " token"],
    s: Float[np.ndarray, " token"],
    b: Float[np.ndarray, " token"],
    advantage: Float[np.ndarray, " token"],
    ratio: Float[np.ndarray, " token"] | float = 1.0,
) -> dict[str, Float[np.ndarray, " token"]]:
    """Every signal as a predicted change of entropy (negative: a fall), per unit of step size.

    Args:
        logp: log-probability of the token, nats.
        entropy: entropy at the token, nats.
        s: S, what raising the token does to the entropy.
        b: B, its mean under the policy.
        advantage: advantage of each token.
        ratio: probability ratio of the update, 1 on policy.
    """
    push, p = -ratio * advantage, np.clip(np.exp(logp), 1e-8, 1 - 1e-8)
    gap = logp + entropy
    return {
        "token_step": push * (s - b),
        "s_only": push * s,
        "surprisal_gap": push * gap,
        "omega": push * (1 - p) * gap,
        "omega2": push * (1 - p) ** 2 * gap,
    }


def steer_exp(size: Float[np.ndarray, " token"], low: float) -> Float[np.ndarray, " token"]:
    """exp(-k |omega|) with k = -ln(low) / max(largest, .02), clamped to [low, 1]; 1 where nothing is predicted."""
    rate = -np.log(low) / max(float(size.max(initial=0.0)), 0.02)
    return np.clip(np.exp(-rate * size), low, 1.0)


def steer_linear(size: Float[np.ndarray, " token"], low: float, high: float) -> Float[np.ndarray, " token"]:
    """`high` at the smallest |omega| falling linearly to `low` at the largest; the middle where all are equal.

    Args:
        size: |omega| of each token.
        low: weight at the largest.
        high: weight at the smallest.
    """
    least, most = float(size.min(initial=np.inf)), float(size.max(initial=0.0))
    if most <= least:
        return np.full(len(size), (low + high) / 2)
    return high - (high - low) * (size - least) / (most - least)


def clip_b(
    s: Float[np.ndarray, " token"], advantage: Float[np.ndarray, " token"], mu: float
) -> Bool[np.ndarray, " token"]:
    """Tokens Clip_B drops: A < 0 and S more than mu (population) standard deviations below the call's mean.

    Args:
        s: S, what raising the token does to the entropy.
        advantage: advantage of each token.
        mu: threshold in standard deviations.
    """
    z, spread = s - s.mean(), s.std()
    return (advantage < 0) & (z < -mu * spread) if spread >= 1e-12 else np.zeros(len(s), bool)


def clip_v(
    d: Float[np.ndarray, " token"], advantage: Float[np.ndarray, " token"], mu: float, max_fraction: float
) -> Bool[np.ndarray, " token"]:
    """Tokens Clip_V drops: A < 0 and D = B - S > mu std(D); of more than max(1, max_fraction N), the largest D.

    Args:
        d: D = B - S of each token.
        advantage: advantage of each token.
        mu: threshold in standard deviations.
        max_fraction: largest share of tokens that is dropped.
    """
    over = (advantage < 0) & (d > mu * d.std())
    cap = max(1, int(max_fraction * len(d)))
    if over.sum() <= cap:
        return over
    chosen = np.zeros(len(d), bool)
    places = np.flatnonzero(over)
    chosen[places[np.argsort(-d[places], kind="stable")[:cap]]] = True
    return chosen


def agreement(predicted: Float[np.ndarray, " token"], exact: Float[np.ndarray, " token"]) -> dict[str, float]:
    """Pearson, Spearman and the share of equal signs over tokens; NaN where one of the two does not vary."""
    if len(exact) < 3 or np.ptp(predicted) == 0 or np.ptp(exact) == 0:
        return dict.fromkeys(AGREEMENTS, float("nan"))
    both = (predicted != 0) & (exact != 0)
    return {
        "pearson": float(np.corrcoef(predicted, exact)[0, 1]),
        "spearman": _rank_correlation(predicted, exact),
        "same_sign": float((np.sign(predicted) == np.sign(exact))[both].mean()) if both.any() else float("nan"),
    }


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rho of values rounded to 1e-4 of their range: samples of one prompt share states, and rounding of
    fp32 must not decide which of two equal values ranks first."""

    rounded = [np.round(x / np.abs(x).max(), 4) for x in (a, b)]
    if any(np.ptp(x) == 0 for x in rounded):
        return float("nan")
    return float(np.asarray(scipy.stats.spearmanr(*rounded))[0])


def _aggregate(table: pd.DataFrame, seed: int, draws: int = 200) -> xr.Dataset:
    """Agreement of each signal with intervals over items, and means of signals by class and sign."""

    parts = [
        estimate(
            table.assign(n=1.0),
            q,
            ["token_class", "sign"],
            per="n",
            seed=seed,
            name=f"{q}_mean",
            units="nats" if q == "exact_nats" else "nats per unit step",
        )
        for q in ("exact_nats", "token_step")
    ]
    informative, drawn = _resampled_agreement(table, seed, draws)
    low, high = _interval(drawn[1:], informative)
    unknown = np.isnan(drawn[0])
    data = xr.merge(parts).assign_coords(signal=list(SIGNALS), variant=list(AGREEMENTS))
    columns = {"": drawn[0], "_ci_low": low, "_ci_high": high}
    for suffix, values in columns.items():
        data["agreement" + suffix] = (("signal", "variant"), np.where(unknown, np.nan, values))
    data["agreement_n"] = (("signal", "variant"), np.where(unknown, 0, informative))
    data["agreement"].attrs.update(units="1", long_name="agreement with the exact change over tokens")
    exact = table["exact_nats"].abs().mean()
    sizes = [float(table[s].abs().mean() / exact) if exact > 0 else np.nan for s in SIGNALS]
    data["magnitude_ratio"] = ("signal", sizes, {"units": "1", "long_name": "mean |signal| / mean |exact|"})
    for mark in ("clip_b_drops", "clip_v_drops"):
        data[f"{mark}_share"] = float(table[mark].mean())
    return data


def _interval(drawn: np.ndarray, n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """95 % over the draws in which the agreement is defined; NaN where it never is, or where one item says it all."""
    low, high = np.full(drawn.shape[1:], np.nan), np.full(drawn.shape[1:], np.nan)
    seen = ~np.isnan(drawn).all(0)
    if n_items < 2 or not seen.any():
        return low, high
    low[seen], high[seen] = np.nanquantile(drawn[:, seen], [0.025, 0.975], axis=0)
    return low, high


def _resampled_agreement(table: pd.DataFrame, seed: int, draws: int) -> tuple[int, np.ndarray]:
    """Items that say anything (a signal that is not 0), and [draw, signal, agreement]; row 0 is the data themselves.

    A group without spread has advantage 0 and predicts nothing: items that speak and silent ones are drawn apart, so
    that no draw is of silent ones alone.
    """
    rng = np.random.default_rng(seed)
    codes, items = pd.factorize(table["item"], sort=True)
    order = np.argsort(codes, kind="stable")
    ends = np.searchsorted(codes[order], np.arange(len(items) + 1))
    values = table[[*SIGNALS, "exact_nats"]].to_numpy()
    spoken = np.unique(codes[(values[:, :-1] != 0).any(1)])
    out = np.full((draws + 1, len(SIGNALS), len(AGREEMENTS)), np.nan)
    kinds = [k for k in (spoken, np.setdiff1d(np.arange(len(items)), spoken)) if len(k)]
    for draw in range(draws + 1):
        picked = np.arange(len(items)) if draw == 0 else np.concatenate([rng.choice(k, len(k)) for k in kinds])
        rows = values[np.concatenate([order[ends[i] : ends[i + 1]] for i in picked])]
        for place in range(len(SIGNALS)):
            out[draw, place] = list(agreement(rows[:, place], rows[:, -1]).values())
    return len(spoken), out


def figures(result: Result) -> dict[str, Figure]:
    """Agreement of every signal with the exact change; mean exact change and mean prediction by class and sign."""

    rows = result.summary()
    agreed = rows[rows["quantity"] == "agreement"]
    title = "Agreement of token-level signals with the exact change of entropy"
    if "step" in rows:
        return {"agreement": curve(agreed, x="step", color="signal", facet="variant", reference=0.0, title=title)}
    means = rows[rows["quantity"] == "exact_nats_mean"]
    return {
        "agreement": forest(agreed, label="signal", color="variant", title=title),
        "by_class": heatmap(means, x="sign", y="token_class", title="Mean exact change by class and sign of A"),
    }
