"""More data of the zoo: what analyses of models measure on items, arms, updates and states, without a model.

As in `zoo`, every generator takes a random generator; names say what makes a null look like a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.nulls.zoo import Rng, ar1
from tests.planted import ArrayStates, states_of

# ---- signals and measured changes over updates (entropy_step)


def updates(rng: Rng, n: int, *, rho: float = 0.0, trend: float = 0.0, slope: float = 0.0) -> pd.DataFrame:
    """Rows of an entropy_step of one item an update: three signals, of which the first may carry the change."""
    time = trend * np.linspace(0, 1, n)
    measured, *signals = ar1(rng, 4, n, rho)
    named = {"step": range(1, n + 1), "rollout_step": 0, "item": "i", "n_tokens": 100}
    columns = dict(zip(("gradient_nats", "pooled", "omega"), signals, strict=True))
    columns = {k: v + time for k, v in columns.items()}
    return pd.DataFrame({**named, "measured_nats": measured + time + slope * signals[0], **columns})


UPDATES: dict[str, Callable[[Rng], pd.DataFrame]] = {
    **{f"24 updates, autocorrelated {r}": lambda g, r=r: updates(g, 24, rho=r) for r in (0.0, 0.5, 0.8)},
    "60 updates, autocorrelated 0.8": lambda g: updates(g, 60, rho=0.8),
    "trends": lambda g: updates(g, 36, rho=0.5, trend=6.0),
}
UPDATES_PLANTS: dict[str, Callable[[Rng], pd.DataFrame]] = {
    f"24 updates, r {r}": lambda g, r=r: updates(g, 24, slope=r / np.sqrt(1 - r**2)) for r in (0.6, 0.8, 0.95)
}

# ---- estimated and exact effects of places drawn at random (attribution_patching)


def estimates(rng: Rng, n: int, r: float = 0.0, *, is_skewed: bool = False) -> np.ndarray:
    exact, noise = rng.normal(size=(2, n))
    pairs = np.stack([r * exact + np.sqrt(1 - r**2) * noise, exact], 1)
    return np.exp(2 * pairs) if is_skewed else pairs


ESTIMATES: dict[str, Callable[[Rng], np.ndarray]] = {
    "20 places": lambda g: estimates(g, 20),
    "8 places": lambda g: estimates(g, 8),
    "20 places, skewed": lambda g: estimates(g, 20, is_skewed=True),
}
ESTIMATES_PLANTS: dict[str, Callable[[Rng], np.ndarray]] = {
    f"20 places, r {r}": lambda g, r=r: estimates(g, 20, r) for r in (0.6, 0.8)
}

# ---- effects of arms by dose (mlp_key_steering, entropy_steering)


def arms(
    rng: Rng,
    groups: Sequence[tuple[str, int, float]],
    *,
    treatment: str,
    placebos: Sequence[str],
    layers: int = 1,
    draws: int = 20,
    doses: tuple[float, ...] = (0.5,),
    none: float = 1.0,
    size: float = 0.0,
    at: int = 0,
) -> pd.DataFrame:
    """Rows of a dose-response in which the treatment is drawn exactly like its placebos, but for a plant.

    Args:
        groups: name, items and fragility (how much any push moves it, sd over draws).
        treatment: its arm; each placebo has `draws` of its own.
        placebos: their arms.
        layers: steered.
        draws: of each placebo.
        doses: besides `none`.
        none: the dose without effect.
        size: slope planted into the first group at layer `at`.
        at: that layer.
    """
    rows: list[pd.DataFrame] = []
    each = [(treatment, 0), *product(placebos, range(draws))]
    for layer, (arm, draw), (group, n, fragile) in product(range(layers), each, groups):
        own = fragile * (0.3 + rng.normal() + 0.5 * rng.normal(size=n))
        planted = arm == treatment and layer == at and group == groups[0][0]
        for dose in (none, *doses):
            push = (dose - none) * (own + size * planted)
            named: dict[str, Any] = {"item": [f"{group}{i}" for i in range(n)], "group": group, "answer_kind": "g"}
            noise = 0.1 * rng.normal(size=n) * (dose != none)
            named |= {"layer": layer, "arm": arm, "draw": draw, "alpha": dose, "metric": -0.5 + push + noise}
            rows.append(pd.DataFrame(named))
    return pd.concat(rows, ignore_index=True)


KEYS: dict[str, Any] = {"treatment": "key_overlap", "placebos": ("random_direction", "random_neurons")}
PUSH: dict[str, Any] = {"treatment": "east", "placebos": ("random_direction",), "none": 0.0, "doses": (-0.5, 0.5)}
FRAGILE = (("targets", 32, 4.0), ("others", 32, 1.0))
ALIKE = (("targets", 32, 1.0), ("others", 32, 1.0))
SIX = tuple((f"group {i}", 24, 1.0) for i in range(6))
STEERED: dict[str, Callable[[Rng], pd.DataFrame]] = {
    "one layer, groups alike": lambda g: arms(g, ALIKE, **KEYS),
    "8 layers, targets 4 x as fragile": lambda g: arms(g, FRAGILE, layers=8, **KEYS),
    "8 layers, groups alike": lambda g: arms(g, ALIKE, layers=8, **KEYS),
}
STEERED_PLANTS: dict[str, Callable[[Rng], pd.DataFrame]] = {
    f"one of 4 layers, {s} x the placebos' sd": lambda g, s=s: arms(g, ALIKE, layers=4, size=s, at=2, **KEYS)
    for s in (4.0, 8.0)
}
PUSHED: dict[str, Callable[[Rng], pd.DataFrame]] = {
    "one group": lambda g: arms(g, SIX[:1], **PUSH),
    "six groups": lambda g: arms(g, SIX, **PUSH),
}
PUSHED_PLANTS: dict[str, Callable[[Rng], pd.DataFrame]] = {
    f"one of 3 groups, {s} x the placebos' sd": lambda g, s=s: arms(g, SIX[:3], size=s, **PUSH) for s in (4.0, 8.0)
}

# ---- membership scores (memorization)

Scores = tuple[pd.DataFrame, np.ndarray]


def scores(rng: Rng, members: int, others: int, names: Sequence[str], d: float = 0.0, skew: float = 0.0) -> Scores:
    """Correlated scores of texts; members lie `d` standard deviations higher."""
    labels = np.arange(members + others) < members
    z = 0.8 * rng.normal(size=(len(labels), 1)) + 0.6 * rng.normal(size=(len(labels), len(names))) + d * labels[:, None]
    return pd.DataFrame(np.exp(skew * z) if skew else z, columns=list(names)), labels


# ---- states of two groups over layers (trajectories, linear_probe, neural_ode)


def states(rng: Rng, n: int, m: int, *, layers: int = 8, spread: float = 1.0, size: float = 0.0) -> ArrayStates:
    """Random walks over layers, of wider steps in the first group; block 4 may push it along one direction."""
    first = np.arange(n + m) < n
    steps = rng.normal(size=(n + m, layers, 8)) * np.where(first, spread, 1.0)[:, None, None]
    steps[first, 4, 0] += size
    start = rng.normal(size=(n + m, 1, 8))
    return states_of(np.concatenate([start, start + steps.cumsum(1)], 1), first)


STATES: dict[str, Callable[[Rng], ArrayStates]] = {
    "48 + 48": lambda g: states(g, 48, 48),
    "12 + 84": lambda g: states(g, 12, 84),
    "12 (sd x 3) against 84": lambda g: states(g, 12, 84, spread=3.0),
    "84 (sd x 3) against 12": lambda g: states(g, 84, 12, spread=3.0),
}
STATES_PLANTS: dict[str, Callable[[Rng], ArrayStates]] = {
    f"48 + 48, one block +{d} sd": lambda g, d=d: states(g, 48, 48, size=d) for d in (0.8, 1.2)
}
