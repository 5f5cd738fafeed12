"""More data of the zoo: what analyses of models measure on items, updates and states, without a model.

As in `zoo`, every generator takes a random generator; names say what makes a null look like a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from benchmarks.nulls.zoo import Rng, ar1
from tests.planted import states_of

if TYPE_CHECKING:
    from analyses.core.reading.pooled import States

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

# ---- membership scores (memorization)

Scores = tuple[pd.DataFrame, np.ndarray]


def scores(rng: Rng, members: int, others: int, names: Sequence[str], d: float = 0.0, skew: float = 0.0) -> Scores:
    """Correlated scores of texts; members lie `d` standard deviations higher."""
    labels = np.arange(members + others) < members
    z = 0.8 * rng.normal(size=(len(labels), 1)) + 0.6 * rng.normal(size=(len(labels), len(names))) + d * labels[:, None]
    return pd.DataFrame(np.exp(skew * z) if skew else z, columns=list(names)), labels


# ---- states of two groups over layers (trajectories, neural_ode, linear_probe)


def _as_states(values: np.ndarray, first: np.ndarray, n_tokens: np.ndarray | None = None) -> States:
    return cast("States", states_of(values, first, n_tokens))


def states(rng: Rng, n: int, m: int, *, layers: int = 8, spread: float = 1.0, size: float = 0.0) -> States:
    """Random walks over layers, of wider steps in the first group; block 4 may push it along one direction."""
    first = np.arange(n + m) < n
    steps = rng.normal(size=(n + m, layers, 8)) * np.where(first, spread, 1.0)[:, None, None]
    steps[first, 4, 0] += size
    start = rng.normal(size=(n + m, 1, 8))
    return _as_states(np.concatenate([start, start + steps.cumsum(1)], 1), first)


def flows(rng: Rng, n: int, m: int, *, layers: int = 8, spread: float = 1.0, size: float = 0.0) -> States:
    """States that a field draws inwards, and along one direction outwards from block 4 on; noise is wider in the first.

    The first group may begin `size` further along that direction: the field then drives the groups apart.
    """
    first = np.arange(n + m) < n
    wide = np.where(first, spread, 1.0)[:, None]
    turn = 0.2 * rng.normal(size=(8, 8)) / np.sqrt(8) - 0.3 * np.eye(8)
    h = [rng.normal(size=(n + m, 8)) * wide + size * np.outer(first, np.arange(8) == 0)]
    for layer in range(layers):
        push = turn + (0.8 * np.outer(np.arange(8) == 0, np.arange(8) == 0) if layer >= 4 else 0.0)
        h.append(h[-1] + h[-1] @ push + 0.3 * wide * rng.normal(size=h[-1].shape))
    return _as_states(np.stack(h, 1), first)


def probed(rng: Rng, n: int, m: int, *, spread: float = 1.0, size: float = 0.0, longer: float = 0.0) -> States:
    """Three states; prompts of the first group may be longer, which all states hold; the last may tell them apart."""
    first = np.arange(n + m) < n
    length = np.round(20 + 4 * rng.normal(size=n + m) + longer * first)
    h = rng.normal(size=(n + m, 3, 8)) * np.where(first, spread, 1.0)[:, None, None]
    h[:, :, 0] += (length[:, None] - 20) / 4
    h[first, 2, 1] += size
    return _as_states(h, first, length.astype(int))


SIZES: dict[str, tuple[int, int, float]] = {
    "48 + 48": (48, 48, 1.0),
    "12 + 84": (12, 84, 1.0),
    "12 (sd x 3) against 84": (12, 84, 3.0),
    "84 (sd x 3) against 12": (84, 12, 3.0),
}
STATES: dict[str, Callable[[Rng], States]] = {
    name: lambda g, n=n, m=m, s=s: states(g, n, m, spread=s) for name, (n, m, s) in SIZES.items()
}
STATES_PLANTS: dict[str, Callable[[Rng], States]] = {
    f"48 + 48, one block +{d} sd": lambda g, d=d: states(g, 48, 48, size=d) for d in (0.8, 1.2)
}
FLOWS: dict[str, Callable[[Rng], States]] = {
    name: lambda g, n=n, m=m, s=s: flows(g, n, m, spread=s) for name, (n, m, s) in SIZES.items()
}
FLOWS_PLANTS: dict[str, Callable[[Rng], States]] = {
    f"48 + 48, start +{d} sd where the field parts": lambda g, d=d: flows(g, 48, 48, size=d) for d in (0.8, 1.5)
}
PROBED: dict[str, Callable[[Rng], States]] = {
    "48 + 48": lambda g: probed(g, 48, 48),
    "16 + 80": lambda g: probed(g, 16, 80),
    "states hold the prompt's length only": lambda g: probed(g, 48, 48, longer=6.0),
    "16 (sd x 3) against 80": lambda g: probed(g, 16, 80, spread=3.0),
}
PROBED_PLANTS: dict[str, Callable[[Rng], States]] = {
    f"48 + 48, one state +{d} sd": lambda g, d=d: probed(g, 48, 48, size=d) for d in (1.0, 2.0)
}
