"""Data of the zoo: rollouts and runs, for rules that read their entropies, ratios and losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.nulls.zoo import Rng
from benchmarks.nulls.zoo_effects import Tables
from probe import Rollouts

# ---- entropy of prompts by difficulty (difficulty_entropy)

RATES = (0.95, 0.5, 0.05)


def by_difficulty(
    rng: Rng, sizes: tuple[int, int, int], u: float = 0.0, own: float = 0.0, wide: float = 1.0
) -> pd.DataFrame:
    """Eight rollouts a prompt; entropy `u` higher of easy and hard prompts, and `own` higher of a success.

    `wide` is how much more prompts of the middle class differ from one another.
    """
    made: list[pd.DataFrame] = []
    for k, (rate, n) in enumerate(zip(RATES, sizes, strict=True)):
        for i in range(n):
            success = (rng.random(8) < rate).astype(float)
            prompt = 0.2 * (wide if k == 1 else 1.0) * rng.normal()
            entropy = 1 + u * (k != 1) + prompt + own * success + 0.2 * rng.normal(size=8)
            named = {"rollout_step": 0, "item": f"{k}-{i}", "group": "g"}
            made.append(pd.DataFrame({**named, "success": success, "entropy_nats": entropy}))
    return pd.concat(made, ignore_index=True)


DIFFICULTY: Tables = {
    "24 prompts a class": lambda r: by_difficulty(r, (24, 24, 24)),
    "24 prompts a class, success lowers entropy": lambda r: by_difficulty(r, (24, 24, 24), own=-0.3),
    "24 prompts a class, the middle varies x 4": lambda r: by_difficulty(r, (24, 24, 24), wide=4.0),
    "8, 40 and 8 prompts": lambda r: by_difficulty(r, (8, 40, 8)),
}
DIFFICULTY_PLANTS: Tables = {
    f"24 prompts a class, u {u} nats": lambda r, u=u: by_difficulty(r, (24, 24, 24), u) for u in (0.3, 0.6)
}

# ---- entropy across calls (segment_entropy)

Logs = dict[str, Callable[[Rng], Rollouts]]


def called(rng: Rng, items: int, calls: int, size: float = 0.0, drift: float = 0.3) -> Rollouts:
    """Responses whose entropy drifts, with calls at random places; across a call it may fall by `size`."""
    rows: list[dict[str, Any]] = []
    for item in range(items):
        n = int(rng.integers(16, 32))
        at = np.sort(rng.choice(np.arange(2, n - 2, 2), calls, replace=False))
        entropy = (
            1 + size * calls + np.cumsum(rng.normal(0, drift, n)) - size * np.searchsorted(at, np.arange(n), "right")
        )
        mask = ~np.isin(np.arange(n), at)
        row = {"step": 1, "prompt_id": f"q{item}", "prompt_token_ids": [1], "response_token_ids": [2] * n}
        rows.append({**row, "response_mask": mask, "H": np.abs(entropy), "logp_temperature": 1.0})
    return Rollouts.of(rows)


CALLED: Logs = {
    "12 responses, one call": lambda r: called(r, 12, 1),
    "32 responses, 2 calls": lambda r: called(r, 32, 2),
    "32 responses, one call, entropies that hardly drift": lambda r: called(r, 32, 1, drift=0.05),
}
CALLED_PLANTS: Logs = {f"32 responses, -{s} nats at a call": lambda r, s=s: called(r, 32, 1, s) for s in (0.4, 0.8)}

# ---- choosing a checkpoint by its loss (loss_choice)

Grids = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]  # summed nats, tokens, right answers [item, step]


def chosen(rng: Rng, n: int, accuracy: np.ndarray, log_ppl: np.ndarray) -> Grids:
    """Items of unlike ease answered at checkpoints of this accuracy; their loss follows a curve of its own."""
    ease, length = rng.uniform(-0.15, 0.15, n)[:, None], rng.integers(4, 20, n)[:, None]
    right = (rng.random((n, len(accuracy))) < np.clip(accuracy + ease, 0, 1)).astype(float)
    nll = length * np.clip(log_ppl + 0.2 * rng.normal(size=right.shape), 0.01, None)
    tokens = np.broadcast_to(length, right.shape).astype(float)
    return pd.DataFrame(nll), pd.DataFrame(tokens), pd.DataFrame(right)


# ---- merges of checkpoints (rotated_merge)


def merged(rng: Rng, n: int, linear: float = 0.0, checkpoint: float = 0.0, spread: float = 0.2) -> pd.DataFrame:
    """Answers' nats under four merges, which differ from the aligned one by so many nats per token in the mean."""
    tokens, own = rng.integers(3, 12, n), rng.gamma(4.0, 0.3, n)
    parts: list[pd.DataFrame] = []
    for name, more in (("aligned", 0.0), ("linear", linear), ("random", linear), ("checkpoint", checkpoint)):
        nll = (own + more + spread * rng.normal(size=n)) * tokens
        parts.append(pd.DataFrame({"item": range(n), "nll_nats": nll, "n_tokens": tokens, "variant": name}))
    return pd.concat(parts, ignore_index=True).assign(source_step=10)


MERGED: Tables = {
    "24 items, all merges alike": lambda r: merged(r, 24),
    "12 items, all merges alike, noise": lambda r: merged(r, 12, spread=0.6),
}
MERGED_PLANTS: Tables = {f"24 items, others {d} nats worse": lambda r, d=d: merged(r, 24, d, d) for d in (0.2, 0.4)}

T = np.linspace(0, 1, 8)
CHOSEN: dict[str, Callable[[Rng], Grids]] = {
    "80 items, accuracy flat at .7": lambda r: chosen(r, 80, np.full(8, 0.7), 1 - 0.5 * T),
    "80 items, accuracy flat, loss too": lambda r: chosen(r, 80, np.full(8, 0.5), np.full(8, 1.0)),
    "32 items, both best at the end": lambda r: chosen(r, 32, 0.4 + 0.3 * T, 1 - 0.5 * T),
    "80 items, flat behind the least loss": lambda r: chosen(r, 80, np.minimum(0.4 + 0.6 * T, 0.6), 1 + (T - 0.4) ** 2),
}
CHOSEN_PLANTS: dict[str, Callable[[Rng], Grids]] = {
    f"80 items, +{x} behind the least loss": lambda r, x=x: chosen(r, 80, 0.4 + x * T, 1 + T) for x in (0.15, 0.3)
}
