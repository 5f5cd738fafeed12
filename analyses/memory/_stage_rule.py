"""Stages of a fine-tuning run from its accuracy and perplexity curves, and the checkpoint to ship.

The paper that named over-memorization (arXiv 2508.04117) colours three regions and gives no decision rule. This
one is explicit. With acc* the best accuracy of the run, PPLmin_t the smallest perplexity up to t, a tolerance
delta of accuracy and rho of perplexity, and t0 the first t with acc_t >= acc* - delta:

    under-trained   t < t0
    good fit        acc_t >= acc* - delta and PPL_t <= (1 + rho) PPLmin_t
    over-memorized  acc_t >= acc* - delta and PPL_t >  (1 + rho) PPLmin_t
    over-fit        acc_t <  acc* - delta, after t0

Pure functions of arrays whose last axis is the checkpoint; leading axes are bootstrap draws. Never imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

UNDER, GOOD, OVER_MEMORIZED, OVER_FIT = range(4)
SLACK = 1e-9  # .74 >= .75 - .01 and 1.65 <= 1.1 * 1.5 are meant exactly; binary fractions miss both


@dataclass(frozen=True)
class Staged:
    """What the rule says; arrays over [*draw, step] or [*draw]. Indices count checkpoints, -1 where there is none.

    Attributes:
        stage: index in ``STAGES``.
        early_rise: perplexity already above the bound while accuracy is still low.
        om_index: ln PPL_t - ln PPLmin_t at over-memorized checkpoints, NaN elsewhere (nats per token).
        onset: first over-memorized checkpoint.
        rise: first checkpoint since t0 with PPL_t > (1 + rho) PPLmin_t, whether or not accuracy still holds.
        area: sum of ``om_index`` (nats per token, summed over checkpoints); 0 without any.
        best_accuracy: first checkpoint of largest accuracy.
        least_ppl: first checkpoint of smallest perplexity.
        feasible: PPL_t <= (1 + rho) min PPL of the run.
        recommended: most accurate feasible checkpoint, the earliest of ties.
    """

    stage: Int[np.ndarray, "*draw step"]
    early_rise: Bool[np.ndarray, "*draw step"]
    om_index: Float[np.ndarray, "*draw step"]
    onset: Int[np.ndarray, "*draw"]
    rise: Int[np.ndarray, "*draw"]
    area: Float[np.ndarray, "*draw"]
    best_accuracy: Int[np.ndarray, "*draw"]
    least_ppl: Int[np.ndarray, "*draw"]
    feasible: Bool[np.ndarray, "*draw step"]
    recommended: Int[np.ndarray, "*draw"]


def stage_rule(
    accuracy: Float[np.ndarray, "*draw step"],
    log_ppl: Float[np.ndarray, "*draw step"],
    *,
    delta: float = 0.01,
    rho: float = 0.10,
) -> Staged:
    """Stage of every checkpoint, onset, area and recommended checkpoint; offline, over a whole run.

    Args:
        accuracy: fractions in 0..1.
        log_ppl: mean NLL in nats per token (natural log of perplexity).
        delta: tolerance of accuracy (fraction).
        rho: relative tolerance of perplexity; inf switches the bound off.
    """
    accuracy, log_ppl = np.asarray(accuracy, float), np.asarray(log_ppl, float)
    bound = np.log1p(rho) + SLACK
    high = accuracy >= accuracy.max(-1, keepdims=True) - delta - SLACK
    reached = np.maximum.accumulate(high, axis=-1)
    rise = log_ppl - np.minimum.accumulate(log_ppl, axis=-1)
    above = rise > bound
    stage = np.where(~reached, UNDER, np.where(~high, OVER_FIT, np.where(above, OVER_MEMORIZED, GOOD)))
    memorized = stage == OVER_MEMORIZED
    feasible = log_ppl - log_ppl.min(-1, keepdims=True) <= bound
    return Staged(
        stage=stage,
        early_rise=~reached & above,
        om_index=np.where(memorized, rise, np.nan),
        onset=_first(memorized),
        rise=_first(reached & above),
        area=np.where(memorized, rise, 0.0).sum(-1),
        best_accuracy=accuracy.argmax(-1),
        least_ppl=log_ppl.argmin(-1),
        feasible=feasible,
        recommended=np.where(feasible, accuracy, -np.inf).argmax(-1),
    )


def _first(claim: Bool[np.ndarray, "*draw step"]) -> Int[np.ndarray, "*draw"]:
    """Index of the first True along the last axis, -1 where there is none."""
    return np.where(claim.any(-1), claim.argmax(-1), -1)


def matched(
    level_a: Float[np.ndarray, " a"],
    value_a: Float[np.ndarray, " a"],
    level_b: Float[np.ndarray, " b"],
    value_b: Float[np.ndarray, " b"],
    levels: int = 5,
) -> Float[np.ndarray, "levels 3"]:
    """(level, value of a, value of b) of two runs at equal ``level``, not at equal epoch.

    Each run is read where it first passes the level (linear between its checkpoints), at ``levels`` evenly
    spaced levels of the range both runs cover after their start; no rows where the ranges do not overlap.
    Two runs of unlike learning rate reach the same accuracy (or training NLL) after unlike numbers of epochs:
    compared at the same epoch, the amount of training is confounded with what is compared.
    """
    rising = level_a[-1] + level_b[-1] >= level_a[0] + level_b[0]
    sign = 1.0 if rising else -1.0
    low = max(sign * level_a[0], sign * level_b[0])
    high = min((sign * level_a).max(), (sign * level_b).max())
    if not high > low:
        return np.empty((0, 3))
    wanted = np.linspace(low, high, levels + 1)[1:]
    sides = [_first_passage(sign * at, of, wanted) for at, of in ((level_a, value_a), (level_b, value_b))]
    return np.stack([sign * wanted, *sides], axis=1)


def _first_passage(
    level: Float[np.ndarray, " t"], value: Float[np.ndarray, " t"], wanted: Float[np.ndarray, " k"]
) -> Float[np.ndarray, " k"]:
    """Value where ``level`` first reaches each wanted level, linear between the checkpoints on either side."""
    out = np.empty(len(wanted))
    for number, target in enumerate(wanted):
        after = int(np.argmax(level >= target - SLACK))
        before = max(after - 1, 0)
        span = level[after] - level[before]
        share = 1.0 if span <= 0 else min((target - level[before]) / span, 1.0)
        out[number] = value[before] + share * (value[after] - value[before])
    return out
