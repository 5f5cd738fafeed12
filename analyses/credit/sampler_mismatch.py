"""How far the policy that sampled is from the policy that is trained: the engine's log-probs against the trainer's.

Definition: per sampled token d = log p_trainer - log p_engine and r = exp(d). kl_nats = mean(r - 1 - d), an estimate of
    KL(engine || trainer) that is never negative and 0 only where all are equal; mean_ratio = mean r, 1 in expectation
    when the engine sampled and its log-probs are those of its own distribution; outside = share of tokens with |d| >
    `beyond`. Per response: the sum of d, and the geometric mean exp(mean d). By the token's probability under the
    engine and by position.
Units: nats; ratios and shares have none.
Source: the estimator r - 1 - ln r is J. Schulman's (k3); engine and trainer differ where kernels, precision, caches or
    weights do.
Does not show: which of the two is wrong, nor that training diverges from it: it is the first thing to rule out.
Control: equal log-probs (all 0); the log-probs of one engine rounded to bf16 (what precision alone does).
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
from probe.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float
    from plotly.graph_objects import Figure

    from probe import Rollouts

SHOWN = 256
EDGES = (0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 1.0 + 1e-9)
NAMES = tuple(f"{low:g}-{min(high, 1):g}" for low, high in pairwise(EDGES))


@analysis(renamed={"delta": "beyond"})
def sampler_mismatch(rollouts: Rollouts, *, beyond: float = 0.2, seed: int = 0) -> Result:
    """Difference of trainer's and engine's log-probs of every response, by step, probability and position.

    Needs both (`sampling_logp` of the engine, `old_logp` of the trainer); without them everything is NaN and a warning
    says why.

    Rows, one per response: rollout_step, item, group, group_uid, sample, n_tokens, kl_nats, mean_ratio, outside,
    largest (max |d|), sequence_log_ratio, geometric_ratio.

    Args:
        beyond: bound on |log ratio| beyond which a token is counted.
    """
    if beyond <= 0:
        raise InputError(f"beyond={beyond}; expected a bound above 0")
    rows = _log.responses(rollouts, [], "sampler_mismatch")
    table = rows[[*_log.KEYS, "n_tokens"]]
    why = _log.measured(rollouts, "sampling_logp", "old_logp")
    blank = ["kl_nats", "mean_ratio", "outside", "largest", "sequence_log_ratio", "geometric_ratio"]
    if why:
        return Result.of(table.assign(**dict.fromkeys(blank, np.nan)), xr.Dataset(), warnings=[*rollouts.notes, why])
    tokens = _log.tokens(rollouts, ["sampling_logp", "old_logp"])
    own, n = tokens["response"].to_numpy(), len(rows)
    engine = tokens["sampling_logp"].to_numpy(float)
    d = tokens["old_logp"].to_numpy(float) - engine
    found = per_token(d, beyond)
    seen = ~np.isnan(d)
    largest = np.zeros(n)
    np.maximum.at(largest, own[seen], np.abs(d[seen]))
    some = np.bincount(own[seen], minlength=n) > 0
    mean = _log.means_of(d, own, n)
    table = table.assign(
        **{name: _log.means_of(values, own, n) for name, values in found.items()},
        largest=np.where(some, largest, np.nan),
        sequence_log_ratio=np.where(some, np.bincount(own[seen], d[seen], n), np.nan), geometric_ratio=np.exp(mean),
    )  # fmt: skip
    place = {"own": own, "pos": tokens["pos"].to_numpy(), "engine": engine}
    return Result.of(table, _aggregate(rows, found, place, seed), warnings=[*rollouts.notes, *_temperatures(rollouts)])


def per_token(d: Float[np.ndarray, " token"], delta: float) -> dict[str, Float[np.ndarray, " token"]]:
    """kl_nats, mean_ratio and outside of each token from its log ratio; NaN stays NaN."""
    r = np.exp(d)
    outside = np.where(np.isnan(d), np.nan, np.abs(d) > delta)
    # expm1 keeps what r - 1 - d loses at differences of rounding.
    return {"kl_nats": np.expm1(d) - d, "mean_ratio": r, "outside": outside}


def _temperatures(rollouts: Rollouts) -> list[str]:
    """Log-probs at two temperatures differ for that reason alone."""
    if not {"temperature", "logp_temperature"} <= set(rollouts.columns):
        return ["the log does not say at which temperature log-probs were taken: a difference may be of temperature"]
    facts = rollouts.scalars(["temperature", "logp_temperature"])
    off = (facts["temperature"].astype(float) - facts["logp_temperature"].astype(float)).abs() > 1e-6
    n = int(off.sum())
    return [f"{n} response(s) were sampled at another temperature than the trainer's log-probs are of"] if n else []


def _aggregate(rows: pd.DataFrame, found: dict[str, np.ndarray], place: dict[str, np.ndarray], seed: int) -> xr.Dataset:
    own, seen = place["own"], ~np.isnan(found["kl_nats"])
    item, items = pd.factorize(rows["item"], sort=True)
    step, steps = pd.factorize(rows["rollout_step"], sort=True)
    level = np.clip(np.digitize(np.exp(place["engine"]), EDGES) - 1, 0, len(NAMES) - 1)
    cuts = {
        ("rollout_step", ""): (step[own], list(steps)),
        ("variant", "_by_probability"): (level, list(NAMES)),
        ("pos", "_by_pos"): (np.where(place["pos"] < SHOWN, place["pos"], -1), list(range(SHOWN))),
    }
    parts: list[xr.Dataset] = []
    for (dim, suffix), (code, names) in cuts.items():
        kept = seen & (code >= 0)
        cell = item[own[kept]] * len(names) + code[kept]
        size = len(items) * len(names)
        count = np.bincount(cell, minlength=size)
        frame = pd.DataFrame(
            {"item": np.repeat(items, len(names)), dim: np.tile(np.asarray(names, object), len(items)), "n": count}
        )
        for name in found if suffix == "" else ("kl_nats", "outside"):
            frame[name] = np.bincount(cell, found[name][kept], size)
            some = frame[frame["n"] > 0].infer_objects()
            units = "nats" if name == "kl_nats" else "1"
            parts.append(estimate(some, name, [dim], per="n", seed=seed, name=name + suffix, units=units))
    return xr.merge(parts)


def figures(result: Result) -> dict[str, Figure]:
    """KL estimate and share of outlying tokens over steps, by probability of the token and by position."""
    rows = result.summary()
    if rows.empty:
        return {}
    extra = ["step"] if "step" in rows else []
    over = rows[rows["quantity"].isin(["kl_nats", "outside", "mean_ratio"])]
    by_pos = rows[rows["quantity"] == "kl_nats_by_pos"]
    by_p = rows[rows["quantity"] == "kl_nats_by_probability"]
    by_p = by_p.assign(order=by_p["variant"].map({n: i for i, n in enumerate(NAMES)})).sort_values("order")
    color = extra[0] if extra else None
    return {
        "by_step": curve(
            over, x="rollout_step", facet=["quantity", *extra], title="Trainer against sampler over steps"
        ),
        "by_probability": forest(by_p, label="variant", color=color, title="KL estimate by probability of the token"),
        "by_pos": curve(by_pos, x="pos", color=color, title="KL estimate by position in the response"),
    }
