"""The lab's GRPO windows, where every update was saved: each signal against the measured change of entropy."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses import Store, run
from probe import Rollouts, discover

if TYPE_CHECKING:
    from analyses import Result

RUNS = ("grpo-format", "grpo-true", "grpo-true-leaked", "grpo-true-fresh", "grpo-random", "grpo-incorrect")


def of_run(folder: Path, store: Store, *, n: int | None = None) -> dict[str, Any]:
    """Everything the tables say about one run: per update, per token, and what fixed states miss.

    Args:
        folder: the run (`window/`, `rollouts/`).
        store: where results are kept.
        n: only the first checkpoints of the window (for a test).
    """
    window = discover(folder / "window")[:n]
    rollouts = Rollouts.read(folder / "rollouts")
    given = {"checkpoints": window, "rollouts": rollouts, "store": store}
    return {
        "updates": per_update(run("entropy_step", **given)),
        "tokens": per_token(window, rollouts, store),
        "visits": visits(window, rollouts, store),
    }


def per_update(result: Result) -> dict[str, Any]:
    """Correlation of each signal with the measured change over updates, with both intervals."""
    data, found = result.data, {}
    for signal in data["signal"].values.tolist():
        at = data.sel(signal=signal)
        found[signal] = {
            "r": float(at["correlation"]),
            "over_items": [float(at["correlation_ci_low"]), float(at["correlation_ci_high"])],
            "over_updates": [
                float(at["correlation_over_updates_ci_low"]),
                float(at["correlation_over_updates_ci_high"]),
            ],
            "same_sign": float(at["same_sign"]),
            "n": int(at["correlation_n"]),
        }
    measured, predicted = data["measured_nats"].values, data["gradient_nats"].values
    found["gradient_slope"] = float(np.sum(measured * predicted) / np.sum(predicted**2))
    found["mean_measured_nats"] = float(measured.mean())
    return found


def per_token(window: list[Any], rollouts: Rollouts, store: Store) -> dict[str, list[float]]:
    """Spearman's rho of each token-level signal with the exact change at its state, one per rollout batch:
    the first update made from the batch."""
    found: dict[str, list[float]] = {}
    for base, tuned in pairwise(window):
        if base.step not in rollouts.steps:
            continue
        log = rollouts.where(steps=[base.step])
        result = run("entropy_attribution", base=base, tuned=tuned, rollouts=log, store=store)
        for signal in result.data["signal"].values.tolist():
            found.setdefault(signal, []).append(float(result.data["agreement"].sel(signal=signal, variant="spearman")))
    return found


def visits(window: list[Any], rollouts: Rollouts, store: Store) -> list[dict[str, float]]:
    """Change of a response's summed entropy per rollout batch (all its updates): at fixed states, to first order, and
    from reaching other states, which fixed states miss."""
    by_step = {c.step: c for c in window}
    starts = [s for s in rollouts.steps if s in by_step]
    found: list[dict[str, float]] = []
    for before, after in pairwise(starts):
        log = rollouts.where(steps=[before])
        result = run("entropy_change", base=by_step[before], tuned=by_step[after], rollouts=log, store=store)
        names = ("sequence_local_nats", "sequence_visitation_nats")
        row = {f"{n}{s}": float(result.data[n + s]) for n in names for s in ("", "_ci_low", "_ci_high")}
        found.append({"step": float(before), **row})
    return found
