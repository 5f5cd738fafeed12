"""Data of runs in which nothing of the kind claimed is there (nulls), and in which it is (plants).

Every generator takes a random generator and gives what a rule reads. Names say what makes a null look like a finding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

Rng = np.random.Generator
Pair = tuple[np.ndarray, ...]  # shares of right answers [item] at each step
Groups = tuple[Pair, Pair]  # seen, unseen


def ar1(rng: Rng, n: int, length: int, rho: float = 0.7) -> np.ndarray:
    """Rows of n stationary series with variance 1."""
    out = rng.normal(size=(n, length))
    for i in range(1, length):
        out[:, i] = rho * out[:, i - 1] + np.sqrt(1 - rho**2) * out[:, i]
    return out


# ---- outcomes of seen and unseen items (gains)


def churned(rng: Rng, n: int, *shares: float, sd: float = 0.1) -> Pair:
    """Items answered by their ease with some churn; the share right is given for every step."""
    ease = rng.random(n)
    return tuple(((ease + rng.normal(0, sd, n)) % 1 < s).astype(float) for s in shares)


def shifted(rng: Rng, n: int, start: float, *shifts: float, spread: float = 2.0) -> Pair:
    """Items of log odds start + spread x normal, answered anew after every shift."""
    ease = start + spread * rng.normal(size=n)
    return tuple((rng.random(n) < 1 / (1 + np.exp(-ease - s))).astype(float) for s in (0.0, *shifts))


def templated(rng: Rng, templates: int, each: int, start: float, shift: float) -> Pair:
    """Items of one template go together, also in how much they gain."""
    ease, gain = (np.repeat(rng.normal(size=templates), each) for _ in range(2))
    p = [1 / (1 + np.exp(-(start + 2 * ease + s * (shift + 2 * gain)))) for s in (0, 1)]
    return tuple((rng.random(len(ease)) < x).astype(float) for x in p)


def _common(rng: Rng, steps: int) -> Groups:
    walk = np.cumsum(rng.normal(0, 0.4, steps))
    return shifted(rng, 64, 0, *walk), shifted(rng, 64, 1, *walk)


def evaluated(groups: Groups, template: int = 0) -> pd.DataFrame:
    """Rows of a swept evaluate result; with `template` items, each run of so many shares a cluster."""
    rows: list[pd.DataFrame] = []
    for role, shares in zip(("seen", "unseen"), groups, strict=True):
        for step, share in enumerate(shares):
            n = len(share)
            named: dict[str, Any] = {"item": [f"{role}{i}" for i in range(n)], "group": role, "seen": role == "seen"}
            named |= {"answer_kind": "g", "step": step, "decoding": "greedy", "sample": 0}
            frame = pd.DataFrame(named).assign(status=np.where(share > 0, "correct", "wrong"))
            rows.append(frame.assign(cluster=[f"{role}{i // template}" for i in range(n)]) if template else frame)
    return pd.concat(rows, ignore_index=True)


_ALIKE: dict[str, Callable[[Rng], Groups]] = {
    "no gain": lambda r: (churned(r, 128, 0.5, 0.5), churned(r, 128, 0.5, 0.5)),
    "equal gains": lambda r: (churned(r, 128, 0.5, 0.7), churned(r, 128, 0.5, 0.7)),
    "unequal sizes": lambda r: (churned(r, 200, 0.5, 0.7), churned(r, 24, 0.5, 0.7)),
    "difficulty: equal gains from .7 and .2": lambda r: (churned(r, 128, 0.7, 0.8), churned(r, 128, 0.2, 0.3)),
    "ceiling: equal shifts, unseen easier": lambda r: (churned(r, 128, 0.5, 0.73), churned(r, 128, 0.85, 0.94)),
    "floor: equal shifts, unseen harder": lambda r: (churned(r, 128, 0.5, 0.73), churned(r, 128, 0.05, 0.125)),
    "unequal spreads": lambda r: (shifted(r, 128, 0, 1, spread=0.5), shifted(r, 128, 0, 1, spread=4.0)),
    "training noise common to all": lambda r: _common(r, 8),
    "many looks": lambda r: (shifted(r, 64, 0, *np.linspace(0, 1, 12)), shifted(r, 64, 0, *np.linspace(0, 1, 12))),
    "few items": lambda r: (churned(r, 12, 0.5, 0.7), churned(r, 12, 0.5, 0.7)),
}
GAINS: dict[str, Callable[[Rng], pd.DataFrame]] = {
    **{name: lambda r, make=make: evaluated(make(r)) for name, make in _ALIKE.items()},
    "templates": lambda r: evaluated((templated(r, 16, 8, 0.0, 1.0), templated(r, 16, 8, 0.0, 1.0)), 8),
}
GAINS_PLANTS: dict[str, Callable[[Rng], pd.DataFrame]] = {
    f"+.{int(100 * g)} on 128 + 128": lambda r, g=g: evaluated(
        (churned(r, 128, 0.5, 0.5 + g), churned(r, 128, 0.5, 0.5))
    )
    for g in (0.1, 0.15, 0.2, 0.3)
}


# ---- nats of answers and prompts (perplexity_paradox)


def nats(
    rng: Rng, sizes: tuple[int, int] = (48, 48), steps: int = 4, *, start: tuple[float, float] = (1.5, 1.5),
    ratio: tuple[float, float] = (1.0, 1.0), prompt: tuple[float, float] = (0.0, 0.0), common: float = 0.0,
    spread: tuple[float, float] = (1.0, 1.0), outcome: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Rows of a swept perplexity result: answers go to `ratio` of their start, prompts rise, training drifts."""
    drift = np.concatenate([[0.0], np.cumsum(rng.normal(0, common, steps - 1))]) if common else np.zeros(steps)
    rise = np.concatenate([[0.0], np.cumsum(rng.normal(0, common, steps - 1))]) if common else np.zeros(steps)
    rows: list[pd.DataFrame] = []
    for g, (role, n) in enumerate(zip(("seen", "unseen"), sizes, strict=True)):
        base, own = rng.gamma(4, start[g] / 4, n), rng.gamma(8, 0.3, n)
        for step in range(steps):
            share = step / (steps - 1)
            noise = spread[g] * rng.normal(0, 0.15, n) * (step > 0)
            answer = base * np.exp(np.log(ratio[g]) * share + drift[step] + noise)
            asked = own + prompt[g] * share + rise[step] + 0.1 * rng.normal(size=n) * (step > 0)
            for mask, value, length in (("answer", answer, 3), ("prompt", asked, 20)):
                named: dict[str, Any] = {
                    "item": [f"{role}{i}" for i in range(n)],
                    "group": role,
                    "seen": role == "seen",
                }
                named |= {
                    "answer_kind": "g",
                    "step": step,
                    "mask": mask,
                    "nll_nats": value * length,
                    "n_tokens": length,
                }
                rows.append(pd.DataFrame(named))
    table = pd.concat(rows, ignore_index=True)
    return table.assign(group_from="outcomes") if outcome else table


PARADOX: dict[str, Callable[[Rng], pd.DataFrame]] = {
    "nothing moves": lambda r: nats(r),
    "training noise common to all": lambda r: nats(r, common=0.1, steps=8),
    "skill in all alike": lambda r: nats(r, ratio=(0.7, 0.7), prompt=(0.2, 0.2)),
    "difficulty: one ratio, seen harder": lambda r: nats(r, start=(2.0, 1.0), ratio=(0.7, 0.7), prompt=(0.2, 0.2)),
    "difficulty: one ratio, seen easier": lambda r: nats(r, start=(1.0, 2.0), ratio=(0.7, 0.7), prompt=(0.2, 0.2)),
    "unequal sizes and spreads": lambda r: nats(r, (12, 120), ratio=(0.8, 0.8), prompt=(0.2, 0.2), spread=(3.0, 1.0)),
    "groups made from outcomes": lambda r: nats(r, ratio=(0.6, 1.0), prompt=(0.2, 0.0), outcome=True),
    "many looks": lambda r: nats(r, steps=16, prompt=(0.2, 0.2)),
}
PARADOX_PLANTS: dict[str, Callable[[Rng], pd.DataFrame]] = {
    f"seen answers x {f}, prompts +.2": lambda r, f=f: nats(r, ratio=(f, 1.0), prompt=(0.2, 0.0))
    for f in (0.9, 0.8, 0.6)
}


# ---- curves of a run (over_memorization)


def curves(
    rng: Rng, steps: int, *, ppl_noise: float = 0.0, accuracy_noise: float = 0.0, rise: float = 0.0, fall: float = 0.0,
    level: float = 0.8, n: int = 128,
) -> pd.DataFrame:  # fmt: skip
    """Accuracy of n items and perplexity by step; `rise` (ln) and `fall` happen over the second half."""
    late = np.clip(np.linspace(-1, 1, steps), 0, 1)
    p = np.clip(level - fall * late + rng.normal(0, accuracy_noise, steps), 0, 1)
    log_ppl = 0.6 + rise * late + rng.normal(0, ppl_noise, steps)
    return pd.DataFrame(
        {"step": range(steps), "accuracy": rng.binomial(n, p) / n, "perplexity": np.exp(log_ppl), "n": n}
    )


CURVES: dict[str, Callable[[Rng], pd.DataFrame]] = {
    "flat, items only": lambda r: curves(r, 10),
    "flat, 1319 items": lambda r: curves(r, 10, n=1319),
    "checkpoint noise .02": lambda r: curves(r, 10, ppl_noise=0.02),
    "checkpoint noise .06": lambda r: curves(r, 10, ppl_noise=0.06),
    "checkpoint noise .06, many looks": lambda r: curves(r, 20, ppl_noise=0.06),
    "checkpoint noise of accuracy .03": lambda r: curves(r, 10, ppl_noise=0.02, accuracy_noise=0.03),
    "at the floor": lambda r: curves(r, 10, level=0.0, rise=0.5),
}
CURVES_PLANTS: dict[str, Callable[[Rng], pd.DataFrame]] = {
    f"ln perplexity +{x}, noise .02": lambda r, x=x: curves(r, 12, ppl_noise=0.02, rise=x) for x in (0.15, 0.3, 0.6)
}
FALLS_PLANTS: dict[str, Callable[[Rng], pd.DataFrame]] = {
    f"accuracy -{x} of 128 items": lambda r, x=x: curves(r, 12, ppl_noise=0.02, fall=x) for x in (0.1, 0.2, 0.3)
}


# ---- effects of patches [item, place] (cross_patching)


def patched(values: np.ndarray, other: np.ndarray | None = None) -> pd.DataFrame:
    """Rows of cross_patching, one group or two."""
    parts: list[pd.DataFrame] = []
    for name, of in (("first", values), ("second", other)):
        if of is not None:
            items, places = of.shape
            at = {
                "item": np.repeat([f"{name}{i}" for i in range(items)], places),
                "layer": np.tile(range(places), items),
            }
            parts.append(pd.DataFrame(at).assign(group=name, effect=of.ravel()))
    fixed: dict[str, Any] = {
        "answer_kind": "g",
        "direction": "tuned_to_base",
        "site": "mlp_out",
        "head": pd.NA,
        "gap": 1.0,
    }
    return pd.concat(parts, ignore_index=True).assign(**fixed)


def skewed(z: np.ndarray) -> np.ndarray:
    """Log-normal with mean 0."""
    return np.exp(0.7 * z) - np.exp(0.245)


PLACES: dict[str, Callable[[Rng], pd.DataFrame]] = {
    "12 places, 8 items": lambda r: patched(ar1(r, 8, 12)),
    "56 places, 16 items": lambda r: patched(ar1(r, 16, 56)),
    "84 places, 64 items": lambda r: patched(ar1(r, 64, 84)),
    "skew: 28 places, 16 items": lambda r: patched(skewed(ar1(r, 16, 28))),
    "zeros: 28 places, 64 items": lambda r: patched(ar1(r, 64, 28) * (r.random((64, 28)) < 0.2)),
}
PLACES_PLANTS: dict[str, Callable[[Rng], pd.DataFrame]] = {
    f"one of 28 places +{d} sd, 32 items": lambda r, d=d: patched(ar1(r, 32, 28) + d * (np.arange(28) == 9))
    for d in (0.5, 0.8, 1.2)
}


def _two(rng: Rng, n: int, sd: float, m: int, shape: str) -> pd.DataFrame:
    z = ar1(rng, n + m, 28)
    z = skewed(z) if shape == "skewed" else z
    return patched(sd * z[:n], z[n:])


CONTRASTS: dict[str, Callable[[Rng], pd.DataFrame]] = {
    "equal groups": lambda r: _two(r, 32, 1, 32, "normal"),
    "8 (sd x 3) against 80": lambda r: _two(r, 8, 3, 80, "normal"),
    "8 (sd x 3) against 80, skewed": lambda r: _two(r, 8, 3, 80, "skewed"),
    "16 (sd x 3) against 160, skewed": lambda r: _two(r, 16, 3, 160, "skewed"),
    "64 (sd x 3) against 64, skewed": lambda r: _two(r, 64, 3, 64, "skewed"),
}
CONTRASTS_PLANTS: dict[str, Callable[[Rng], pd.DataFrame]] = {
    f"one of 28 places +{d} sd, 32 + 32": lambda r, d=d: patched(
        ar1(r, 32, 28) + d * (np.arange(28) == 9), ar1(r, 32, 28)
    )
    for d in (0.8, 1.2)
}


# ---- curves over layers (anchor_adapter)

Layers = tuple[dict[str, np.ndarray], np.ndarray]


def layered(rng: Rng, n: int, m: int, factor: float = 1.0, size: float = 0.0, profile: float = 1.0) -> Layers:
    """Necessity, sufficiency and divergence by item and layer: one profile, its scale in the first group, a plant."""
    shape = profile * (1 + np.exp(-0.5 * ((np.arange(28) - 13) / 3) ** 2) + np.exp(-0.5 * (np.arange(28) / 1.5) ** 2))
    first = np.arange(n + m) < n
    kinds: dict[str, np.ndarray] = {}
    for kind in ("nec", "suf", "jsd"):
        values = shape * (1 + 0.3 * rng.normal(size=(n + m, 1))) + 0.5 * ar1(rng, n + m, 28)
        values *= np.where(first, factor, 1.0)[:, None]
        values[first, 18:21] += size
        kinds[kind] = values
    return kinds, first


def one_block(rng: Rng, n: int, m: int, size: float, other: float) -> Layers:
    """Nothing but the last block was trained: it moves both groups, the first one more."""
    first = np.arange(n + m) < n
    kinds = {name: np.zeros((n + m, 28)) for name in ("nec", "suf", "jsd")}
    for values in kinds.values():
        values[:, -1] = np.where(first, size, other) + rng.normal(size=n + m)
    return kinds, first


LAYERS: dict[str, Callable[[Rng], Layers]] = {
    "one profile": lambda r: layered(r, 48, 48),
    "pure scale x 1.5": lambda r: layered(r, 48, 48, 1.5),
    "pure scale x 2": lambda r: layered(r, 48, 48, 2.0),
    "pure scale x 2, unequal sizes": lambda r: layered(r, 24, 96, 2.0),
    "pure scale x 3 of a faint profile": lambda r: layered(r, 96, 24, 3.0, profile=0.15),
}
LAYERS_PLANTS: dict[str, Callable[[Rng], Layers]] = {
    **{f"three layers +{d} (noise sd .5)": lambda r, d=d: layered(r, 48, 48, 1.0, d) for d in (0.2, 0.3, 0.5)},
    "only the last block moves, +1.5 sd": lambda r: one_block(r, 24, 24, 2.0, 0.5),
}


# ---- entropy and reward over steps (entropy_reward_law)

Series = tuple[np.ndarray, np.ndarray]


def walks(rng: Rng, n: int, rho: float) -> Series:
    """Two unrelated series."""
    h, r = (np.cumsum(rng.normal(size=n)) if rho == 1 else ar1(rng, 1, n, rho)[0] for _ in range(2))
    return 0.6 + 0.15 * h / h.std(), 0.5 + 0.1 * r / r.std()


def trends(rng: Rng, n: int, shape: str, noise: float = 0.02) -> Series:
    """Entropy falls and reward rises, each for reasons of its own."""
    t, e = np.linspace(0, 1, n), ar1(rng, 2, n, 0.5)
    if shape == "linear":
        return 1 - 0.9 * t + noise * e[0], 0.2 + 0.5 * t + noise * e[1]
    return 0.1 + 0.9 * np.exp(-3 * t) + noise * e[0], 0.7 - 0.5 * np.exp(-4 * t) + noise * e[1]


def lawful(rng: Rng, n: int, noise: float) -> Series:
    t, e = np.linspace(0, 1, n), ar1(rng, 2, n, 0.5)
    h = 0.1 + 0.9 * np.exp(-3 * t) + 0.03 * e[0]
    return h, 0.8 - 0.2 * np.exp(h) + noise * e[1]


SERIES: dict[str, Callable[[Rng], Series]] = {
    **{f"autocorrelated {rho}": lambda r, rho=rho: walks(r, 72, rho) for rho in (0.0, 0.5, 0.8, 0.95)},
    "random walks": lambda r: walks(r, 72, 1.0),
    "linear trends": lambda r: trends(r, 72, "linear"),
    "saturating trends": lambda r: trends(r, 72, "exponential"),
}
SERIES_PLANTS: dict[str, Callable[[Rng], Series]] = {
    f"law, noise {s}": lambda r, s=s: lawful(r, 72, s) for s in (0.01, 0.02, 0.04)
}
