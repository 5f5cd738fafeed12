"""When a finding holds, and the plain intervals it is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Finding = dict[str, Any]

# Written after the pilot and seed 0, before seeds 1 and 2 were measured: what is measured, then when it holds.
RULES = {
    "thinking_needed": "base, unseen items: accuracy thinking minus forced direct. ci_low > .5",
    "latent_memory": "base, canaries: forced direct minus own mode. Forced ci_low > .5 and own ci_high < .5",
    "over_memorization_high": "SFT 2e-3: change of log PPL on gold rationales, last minus first. ci_low > ln 1.1",
    "no_over_memorization_low": "SFT 1e-4: the same change. Interval inside +-ln 1.05",
    "rise_is_style": "SFT 2e-3: share of the NLL rise that falls on style tokens. ci_low > .5",
    "accuracy_falls_high": "SFT 2e-3: change of accuracy on unseen problems. ci_high < 0",
    "format_activates_memory": "format: change of held canaries' accuracy in own mode. ci_low > .3",
    "format_destroys_thinking": "format: change of unseen accuracy. ci_high < -.5",
    "paradox": "format, leaked items: prompt minus answer change of log PPL. Answer ci_high < 0 < prompt ci_low",
    "answer_drop_is_mode": "format, leaked items: share of the answer-NLL drop on the mode token. ci_low > .5",
    "prompt_drift_not_leak_specific": "format: prompt drift of leaked minus unseen items. Interval covers 0",
    "collapse": "true, all leaked: change of unseen accuracy. ci_high < -.5, and held canaries' change ci_low > .3",
    "collapse_entropy_falls": "true, all leaked: rollout entropy, last 3 rollout steps minus first 3. ci_high < 0",
    "healthy_control": "true, half fresh: change of unseen accuracy. ci_low > -.15, held canaries' change ci_low <= .1",
    "fresh_control": "true, only fresh: the same",
    "negative_control": "random: change of held canaries' accuracy. Interval inside +-.15, and no paradox",
    "random_keeps_accuracy": "random: change of unseen accuracy. Inside +-.15 (added after the seeds were measured)",
    "incorrect_unlearns": "incorrect: change of leaked items' forced accuracy. ci_high < -.5",
    "gradient_predicts_entropy": "format: r of <grad H, step> with the measured change per update. ci_low > .5",
    "pooled_covariance_predicts_entropy": "format: r of -Cov(log p, A) with the same. ci_low > .5",
    "entropies_can_disagree": "windows of three GRPO runs: share of rollout steps after which entropy moves "
    "oppositely on the same states and on-policy. At least one with both intervals clear of 0",
    "no_single_block": "base: greatest (memory drop minus computing drop) over zeroing one MLP. No block has a memory "
    "drop with ci_low > .5 and a computing drop with ci_high < .1",
    "planted_block": "planted: zeroing which MLP costs planted items most and natural leaked items least. It is the "
    "planted one, planted accuracy left has ci_high < .3 and natural leaked accuracy left ci_low > .7",
    "planted_lens": "planted: rise of lens top-1 from the block before to the planted block. ci_low > .5",
}


def interval(values: Sequence[float] | np.ndarray[Any, Any], draws: int = 2000) -> tuple[float, list[float]]:
    """Mean over items and its 95 % bootstrap interval (seeded)."""
    x = np.asarray(values, dtype=float)
    means = x[np.random.default_rng(0).integers(0, len(x), (draws, len(x)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return round(float(x.mean()), 4), [round(float(low), 4), round(float(high), 4)]


def ratio_interval(
    top: np.ndarray[Any, Any], bottom: np.ndarray[Any, Any], draws: int = 2000
) -> tuple[float, list[float]]:
    """Ratio of sums over items and its interval: per-token (micro) averages and shares."""
    picks = np.random.default_rng(0).integers(0, len(top), (draws, len(top)))
    low, high = np.quantile(top[picks].sum(1) / bottom[picks].sum(1), [0.025, 0.975])
    return round(float(top.sum() / bottom.sum()), 4), [round(float(low), 4), round(float(high), 4)]


def group_gap(
    one: np.ndarray[Any, Any],
    other: np.ndarray[Any, Any],
    n_one: np.ndarray[Any, Any] | None = None,
    n_other: np.ndarray[Any, Any] | None = None,
) -> tuple[float, list[float]]:
    """Mean of one group of items minus that of another (per token where counts are given), resampled independently."""
    rng = np.random.default_rng(0)
    value, draws = 0.0, np.zeros(2000)
    for sign, x, n in ((1, one, n_one), (-1, other, n_other)):
        weights = np.ones(len(x)) if n is None else n
        picks = rng.integers(0, len(x), (2000, len(x)))
        value += sign * float(x.sum() / weights.sum())
        draws += sign * x[picks].sum(1) / weights[picks].sum(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return round(value, 4), [round(float(low), 4), round(float(high), 4)]


def finding(holds: bool, value: float, ci: list[float], n: int, **details: Any) -> Finding:
    return {"holds": bool(holds), "value": value, "ci": ci, "n": n, **details}


def correlation(x: Sequence[float], y: Sequence[float]) -> tuple[float, list[float]]:
    """Pearson r with a bootstrap interval over updates."""
    a, b = np.asarray(x), np.asarray(y)
    picks = np.random.default_rng(0).integers(0, len(a), (2000, len(a)))
    draws = [np.corrcoef(a[p], b[p])[0, 1] for p in picks]
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return round(float(np.corrcoef(a, b)[0, 1]), 4), [round(float(low), 4), round(float(high), 4)]
