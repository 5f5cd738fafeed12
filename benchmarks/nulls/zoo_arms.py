"""Data of the zoo: effects of arms (steered, placebo) on items, as a dose-response or an audit measures them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.nulls.zoo import Rng

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
    each = [(treatment, 0), *product(placebos, range(draws))]
    names = np.repeat([g for g, *_ in groups], [n for _, n, _ in groups])
    fragile = np.repeat([f for *_, f in groups], [n for _, n, _ in groups])
    shape = (layers, len(each), len(names))
    common = np.concatenate([np.repeat(rng.normal(size=(*shape[:2], 1)), n, 2) for _, n, _ in groups], 2)
    own = fragile * (0.3 + common + 0.5 * rng.normal(size=shape))
    own[at, 0] += size * (names == groups[0][0])
    places = np.indices(shape).reshape(3, -1)
    arm, draw = (np.asarray([x[k] for x in each], object) for k in (0, 1))
    named = {"item": [f"{g}{k}" for k, g in enumerate(names)], "group": names}
    fixed = {c: np.asarray(v, object)[places[2]] for c, v in named.items()}
    fixed |= {"layer": places[0], "arm": arm[places[1]], "draw": draw[places[1]].astype(int), "answer_kind": "g"}
    rows: list[pd.DataFrame] = []
    for dose in (none, *doses):
        push = (dose - none) * own.ravel() + 0.1 * rng.normal(size=own.size) * (dose != none)
        rows.append(pd.DataFrame({**fixed, "alpha": dose, "metric": -0.5 + push}))
    return pd.concat(rows, ignore_index=True)


KEYS: dict[str, Any] = {"treatment": "key_overlap", "placebos": ("random_direction", "random_neurons")}
PUSH: dict[str, Any] = {"treatment": "east", "placebos": ("random_direction",), "none": 0.0, "doses": (-0.5, 0.5)}
FRAGILE = (("targets", 32, 4.0), ("others", 32, 1.0))
ALIKE = (("targets", 32, 1.0), ("others", 32, 1.0))
SIX = tuple((f"group {i}", 24, 1.0) for i in range(6))
STEERED: dict[str, Callable[[Rng], pd.DataFrame]] = {
    "one layer, groups alike": lambda g: arms(g, ALIKE, **KEYS),
    "6 layers, targets 4 x as fragile": lambda g: arms(g, FRAGILE, layers=6, **KEYS),
}
STEERED_PLANTS: dict[str, Callable[[Rng], pd.DataFrame]] = {
    f"one of 2 layers, {s} x the placebos' sd": lambda g, s=s: arms(g, ALIKE, layers=2, size=s, at=1, **KEYS)
    for s in (4.0, 8.0)
}
PUSHED: dict[str, Callable[[Rng], pd.DataFrame]] = {
    "one group": lambda g: arms(g, SIX[:1], **PUSH),
    "six groups": lambda g: arms(g, SIX, **PUSH),
}
PUSHED_PLANTS: dict[str, Callable[[Rng], pd.DataFrame]] = {
    f"one of 3 groups, {s} x the placebos' sd": lambda g, s=s: arms(g, SIX[:3], size=s, **PUSH) for s in (4.0, 8.0)
}

# ---- answers with and without gated steering (probe_gated_audit)


def audited(
    rng: Rng, n: int, m: int, *, size: float = 0.0, only: float = 0.0, harder: float = 0.0, draws: int = 20
) -> pd.DataFrame:
    """Rows of an audit whose neurons are drawn exactly like the random ones, but for a plant.

    Args:
        n, m: target and control items; the gate fires on nine of ten targets and on no control.
        size: what the chosen neurons cost every item beyond random ones, in nats per token.
        only: what they cost target items alone.
        harder: how much less likely target answers are at first; what an answer loses goes with how unlikely it is.
        draws: random gates, and random sets of neurons.
    """
    is_target = np.arange(n + m) < n
    off = -rng.gamma(2.0, 0.15, n + m) - harder * is_target
    fires = is_target & (rng.random(n + m) < 0.9)
    lost = [(0.3 + 0.3 * rng.normal() + 0.2 * rng.normal(size=n + m)) * (0.5 - off) for _ in range(1 + draws)]
    own = lost[0] + size + only * is_target
    gates = [rng.permutation(fires) for _ in range(draws)]
    arms = [("off", 0, own, fires & False), ("gated", 0, own, fires), ("ungated", 0, own, fires | True)]
    arms += [("random_neurons", d, other, fires) for d, other in enumerate(lost[1:])]
    arms += [("random_gate", d, own, gate) for d, gate in enumerate(gates)]
    named = {"item": [f"i{k}" for k in range(n + m)], "group": np.where(is_target, "targets", "others")}
    rows: list[pd.DataFrame] = []
    for arm, draw, cost, gate in arms:
        metric = off - cost * gate
        at = {"arm": arm, "draw": draw, "answer_kind": "g", "fires": gate, "score": 0.0}
        rows.append(pd.DataFrame({**named, **at, "metric": metric, "is_exact": (metric > EXACT) * 1.0}))
    return pd.concat(rows, ignore_index=True)


EXACT = -0.7  # nats per token above which greedy decoding gives the answer
AUDITED: dict[str, Callable[[Rng], pd.DataFrame]] = {
    "32 + 32": lambda g: audited(g, 32, 32),
    "targets less likely": lambda g: audited(g, 64, 64, harder=0.2),
    "targets more likely": lambda g: audited(g, 64, 64, harder=-0.2),
    "16 + 128": lambda g: audited(g, 16, 128),
}
COSTLY: dict[str, Callable[[Rng], pd.DataFrame]] = {
    "32 + 32, these neurons cost 1 more": lambda g: audited(g, 32, 32, size=1.0),
}
COSTLIER: dict[str, Callable[[Rng], pd.DataFrame]] = {
    "32 + 32, and targets .3 more than others": lambda g: audited(g, 32, 32, size=1.0, only=0.3),
}
