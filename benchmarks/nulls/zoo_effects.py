"""Data of the zoo: effects by item and place, as analyses of models measure them, without a model.

Noise is correlated .7 between neighbouring places; names say of which law it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.core.stats import ratio_of_sums
from benchmarks.nulls.zoo import Rng, ar1, skewed

Tables = dict[str, Callable[[Rng], pd.DataFrame]]
Grid = Callable[[Rng, int, int], np.ndarray]
GROUP = {"group": "g", "answer_kind": "given"}


def rare(rng: Rng, n: int, places: int) -> np.ndarray:
    """Nine of ten effects are 0, the rest go both ways."""
    return ar1(rng, n, places) * (rng.random((n, places)) < 0.1)


def lognormal(rng: Rng, n: int, places: int) -> np.ndarray:
    return skewed(ar1(rng, n, places))


def at_one(grid: np.ndarray, size: float, place: int = 7) -> np.ndarray:
    """The same with every item's effect at one place raised."""
    return grid + size * (np.arange(grid.shape[1]) == place)


def heads(values: np.ndarray, column: str, each: int = 4, **columns: Any) -> pd.DataFrame:
    """Rows of items and heads, `each` to a layer."""
    n, k = values.shape
    at = {"item": np.repeat(np.arange(n), k), "layer": np.tile(np.arange(k) // each, n)}
    at |= {"head": np.tile(np.arange(k) % each, n), column: values.ravel()}
    return pd.DataFrame(at).assign(**GROUP, **columns)


# ---- attention on evidence (evidence_attention, evidence_shift)


def aurocs(rng: Rng, n: int, k: int, others: int, better: float = 0.0) -> np.ndarray:
    """AUROC of one evidence token among `others`, by item and head; head 7 ranks it higher by `better` sd."""
    score, rest = ar1(rng, n, k), rng.normal(size=(others, n, k))
    score = at_one(score, better)
    return (rest < score).mean(0)


def _attended(rng: Rng, n: int, k: int, others: int, better: float = 0.0) -> pd.DataFrame:
    return heads(aurocs(rng, n, k, others, better), "auroc", shuffled=0.5)


ATTENDED: Tables = {
    "24 items, 12 heads": lambda r: _attended(r, 24, 12, 20),
    "32 items, 96 heads": lambda r: _attended(r, 32, 96, 20),
    "12 items, 12 heads, 3 other tokens": lambda r: _attended(r, 12, 12, 3),
}
ATTENDED_PLANTS: Tables = {
    f"24 items, one of 12 heads +{d} sd": lambda r, d=d: _attended(r, 24, 12, 20, d) for d in (0.5, 1.0)
}


def _shifted(rng: Rng, n: int, k: int, others: int, better: float = 0.0) -> pd.DataFrame:
    base = aurocs(rng, n, k, others)
    return heads(aurocs(rng, n, k, others, better) - base, "auroc_change")


SHIFTED: Tables = {
    "24 items, 12 heads": lambda r: _shifted(r, 24, 12, 20),
    "32 items, 96 heads": lambda r: _shifted(r, 32, 96, 20),
    "32 items, 96 heads, most unmoved": lambda r: heads(0.3 * rare(r, 32, 96), "auroc_change"),
    "12 items, 12 heads, 3 other tokens": lambda r: _shifted(r, 12, 12, 3),
}
SHIFTED_PLANTS: Tables = {
    f"24 items, one of 12 heads +{d} sd": lambda r, d=d: _shifted(r, 24, 12, 20, d) for d in (0.8, 1.5)
}


def flipped(rng: Rng, n: int, up: float, down: float) -> pd.DataFrame:
    """First tokens that another way of decoding makes right, or wrong."""
    values = rng.choice([1.0, 0.0, -1.0], n, p=[up, 1 - up - down, down])
    return pd.DataFrame({"item": range(n), "gain": values}).assign(**GROUP)


FLIPPED: Tables = {
    "40 items, .1 flip either way": lambda r: flipped(r, 40, 0.1, 0.1),
    "200 items, .02 flip either way": lambda r: flipped(r, 200, 0.02, 0.02),
    "32 items, .4 flip either way": lambda r: flipped(r, 32, 0.4, 0.4),
}
FLIPPED_PLANTS: Tables = {
    f"60 items, {u} gained, .02 lost": lambda r, u=u: flipped(r, 60, u, 0.02) for u in (0.15, 0.3)
}

# ---- teachers, contexts, pairs (distillation, context_gain, teachers, reversal)


def divided(rng: Rng, n: int, classes: int, extra: float = 1.0, *, is_heavy: bool = False) -> pd.DataFrame:
    """Divergence over classes of tokens, each token's drawn alike; of the first class `extra` times as large."""
    rows: list[dict[str, Any]] = []
    for i in range(n):
        for c, size in enumerate(rng.integers(1, 9, classes)):
            drawn = rng.lognormal(0, 1.5, size) if is_heavy else rng.exponential(1.0, size)
            own = {"item": i, "token_class": f"class {c}", "n_tokens": size}
            rows.append({**own, "forward_nats_sum": float(drawn.sum()) * (extra if c == 0 else 1.0)})
    found = pd.DataFrame(rows)
    return found.assign(total=found.groupby("item")["forward_nats_sum"].transform("sum"))


DIVIDED: Tables = {
    "32 items, 2 classes": lambda r: divided(r, 32, 2),
    "32 items, 6 classes": lambda r: divided(r, 32, 6),
    "32 items, 2 classes, heavy tails": lambda r: divided(r, 32, 2, is_heavy=True),
    "12 items, 3 classes": lambda r: divided(r, 12, 3),
}
DIVIDED_PLANTS: Tables = {f"32 items, one of 3 classes x {x}": lambda r, x=x: divided(r, 32, 3, x) for x in (2, 4)}


def told(rng: Rng, n: int, law: str, gain: float = 0.0) -> np.ndarray:
    """One number an item, of mean `gain`."""
    laws: dict[str, Callable[[], np.ndarray]] = {
        "normal": lambda: rng.normal(size=n),
        "t, 4 degrees": lambda: rng.standard_t(4, size=n),
        "skewed": lambda: -skewed(rng.normal(size=n)),
        "rare": lambda: rng.normal(size=n) * (rng.random(n) < 0.2),
    }
    return laws[law]() + gain


def gains(rng: Rng, n: int, law: str, column: str, gain: float = 0.0) -> pd.DataFrame:
    return pd.DataFrame({"item": range(n), column: told(rng, n, law, gain)}).assign(**GROUP)


def of_gains(column: str, sign: float = 1.0) -> tuple[Tables, Tables]:
    """Nulls and plants of a rule that reads one signed number an item."""
    nulls = {f"{n} items, {law}": lambda r, n=n, law=law: gains(r, n, law, column)
             for n, law in ((24, "normal"), (12, "t, 4 degrees"), (32, "skewed"), (64, "rare"))}  # fmt: skip
    plants = {
        f"24 items, {sign * d:+g} sd": lambda r, d=d: gains(r, 24, "normal", column, sign * d) for d in (0.5, 1.0)
    }
    return nulls, plants


def disagreed(rng: Rng, n: int, shift: float = 0.0, sd: float = 1.0) -> pd.DataFrame:
    jsd, own = 0.2 * rng.lognormal(-(sd**2) / 2, sd, (2, n))
    tokens = rng.integers(2, 20, n)
    sums = {"disagreement_nats_sum": (own + shift) * tokens, "jsd_nats_sum": jsd * tokens}
    return pd.DataFrame({"item": range(n), "n_tokens": tokens, **sums})


DISAGREED: Tables = {
    "24 items": lambda r: disagreed(r, 24),
    "12 items": lambda r: disagreed(r, 12),
    "48 items, heavy tails": lambda r: disagreed(r, 48, sd=1.6),
}
DISAGREED_PLANTS: Tables = {f"24 items, {d} more": lambda r, d=d: disagreed(r, 24, d) for d in (0.1, 0.3)}

# ---- edges and circuits (circuit, circuit_transfer, circuit_growth)


def edges(grid: Grid, rng: Rng, n: int, count: int, size: float = 0.0, steps: Sequence[int] = ()) -> pd.DataFrame:
    """Contributions of edges in base and tuned: the same in mean, each checkpoint's measured on every item.

    With `steps`, the tuned one's change grows over them, and the first checkpoint is base.
    """
    own, worth = 0.3 * rng.normal(size=(1, count)), rng.gamma(8.0, 0.25, (n, 1))
    parts: list[pd.DataFrame] = []
    fixed = ar1(rng, n, count, 0.3)
    for step in steps or (0,):
        grown = size * (step / max(steps) if steps else 1.0)
        noise = 0.3 * grid(rng, n, count)
        for name, value in (("base", own + 0.2 * fixed), ("tuned", at_one(own + 0.2 * fixed + noise, grown))):
            estimated = value + 0.05 * rng.normal(size=value.shape)
            at = {"item": np.repeat(np.arange(n), count), "sender": [f"s{k}" for k in range(count)] * n}
            columns = {"exact": value.ravel(), "score": estimated.ravel(), "worth": np.repeat(worth, count)}
            parts.append(pd.DataFrame({**at, **columns}).assign(checkpoint=name, step=step))
    return pd.concat(parts, ignore_index=True).assign(receiver="out", **GROUP)


def normal(rng: Rng, n: int, count: int) -> np.ndarray:
    return ar1(rng, n, count, 0.0)


EDGES: Tables = {
    "24 items, 24 edges": lambda r: edges(normal, r, 24, 24),
    "16 items, 24 edges, skewed": lambda r: edges(lognormal, r, 16, 24),
    "32 items, 24 edges, most unmoved": lambda r: edges(rare, r, 32, 24),
}
EDGES_PLANTS: Tables = {f"24 items, one edge +{d} nats": lambda r, d=d: edges(normal, r, 24, 24, d) for d in (0.3, 0.6)}
STEPS = (0, 10, 20, 30)
GROWN: Tables = {
    "24 items, 12 edges, 4 steps": lambda r: edges(normal, r, 24, 12, steps=STEPS),
    "16 items, 12 edges, 4 steps, skewed": lambda r: edges(lognormal, r, 16, 12, steps=STEPS),
}
GROWN_PLANTS: Tables = {
    f"24 items, one edge +{d} nats": lambda r, d=d: edges(normal, r, 24, 12, d, STEPS) for d in (0.4, 0.8)
}


def carried(rng: Rng, n: int, tuned: float, base: float, random: float) -> pd.DataFrame:
    """What circuits restore in tuned, as shares of what clean prompts are worth."""
    worth = rng.gamma(8.0, 0.25, n)
    rows: list[pd.DataFrame] = []
    for name, share in (("tuned", tuned), ("base", base), ("random", random)):
        restored = worth * (share + 0.2 * rng.normal(size=n))
        rows.append(pd.DataFrame({"item": range(n), "worth": worth, "restored": restored, "variant": name}))
    return pd.concat(rows, ignore_index=True).assign(checkpoint="tuned", **GROUP)


CARRIED: Tables = {
    "24 items, all circuits carry .5": lambda r: carried(r, 24, 0.5, 0.5, 0.5),
    "12 items, all circuits carry .1": lambda r: carried(r, 12, 0.1, 0.1, 0.1),
}
CARRIED_PLANTS: Tables = {
    "24 items, tuned .8, base .5, random .1": lambda r: carried(r, 24, 0.8, 0.5, 0.1),
    "24 items, both .5, random .3": lambda r: carried(r, 24, 0.5, 0.5, 0.3),
}

# ---- features (crosscoder)

Features = tuple[pd.DataFrame, xr.Dataset, list[int]]


def features(rng: Rng, n: int, held: Sequence[float], worth: float = 0.0, noise: float = 0.3) -> Features:
    """Latents of which base's states hold these shares; without them answers lose `worth` more than without others."""
    own = rng.gamma(2.0, 1.0, (n, len(held)))
    found = ratio_of_sums(own * np.asarray(held) + noise * rng.normal(size=own.shape), own)
    parts = {"": found.value, "_ci_low": found.ci_low, "_ci_high": found.ci_high, "_n": found.n}
    data = xr.Dataset({f"presence{k}": ("latent", v) for k, v in parts.items()}, {"latent": np.arange(len(held))})
    gain = 1.0 + 0.3 * rng.normal(size=n)
    rows: list[pd.DataFrame] = []
    for arm in ("new", "shared", "random"):
        lost = 0.3 + worth * (arm == "new") + 0.2 * rng.normal(size=n)
        own_rows = {"item": range(n), "arm": arm, "metric": gain - 3, "metric_base": -3.0, "lost": lost}
        rows.append(pd.DataFrame(own_rows))
    return pd.concat(rows, ignore_index=True).assign(fitted=False), data, list(range(len(held)))


FEATURES: dict[str, Callable[[Rng], Features]] = {
    "24 items, base holds all of 6 latents": lambda r: features(r, 24, [1.0] * 6),
    "24 items, base holds .3 of 6 latents": lambda r: features(r, 24, [0.3] * 6),
    "12 items, base holds .5 of 20 latents, noise": lambda r: features(r, 12, [0.5] * 20, noise=2.0),
}
FEATURES_PLANTS: dict[str, Callable[[Rng], Features]] = {
    f"24 items, base holds {h} of one of 6": lambda r, h=h: features(r, 24, [h, *[0.8] * 5]) for h in (0.15, 0.0)
}
WORTHLESS: dict[str, Callable[[Rng], Features]] = {
    "24 items, new latents are worth what others are": lambda r: features(r, 24, [0.0] * 4),
    "12 items, new latents are worth what others are": lambda r: features(r, 12, [0.0] * 4),
}
WORTHY: dict[str, Callable[[Rng], Features]] = {
    f"24 items, {w} of the gain more than others": lambda r, w=w: features(r, 24, [0.0] * 4, w) for w in (0.2, 0.4)
}


# ---- directions (behaviour_direction)


def directed(grid: Grid, rng: Rng, n: int, layers: int, in_base: float = 0.0, in_tuned: float = 0.0) -> pd.DataFrame:
    """Effect of one direction, by checkpoint and layer: that of any vector, .3 nats, and what is beyond it."""
    parts: list[pd.DataFrame] = []
    shared = 0.3 * ar1(rng, n, layers)
    of_any = 0.3 + 0.3 * rng.standard_normal((n, layers))
    for name, size in (("base", in_base), ("tuned", in_tuned)):
        values = at_one(shared + 0.3 * grid(rng, n, layers), size, 2)
        at = {"item": np.repeat(np.arange(n), layers), "layer": np.tile(np.arange(layers), n)}
        both = {"beyond": values.ravel(), "effect": (values + of_any).ravel()}
        parts.append(pd.DataFrame({**at, **both}).assign(checkpoint=name))
    return pd.concat(parts, ignore_index=True).assign(arm="direction", **GROUP)


DIRECTED: Tables = {
    "24 items, 6 layers": lambda r: directed(normal, r, 24, 6),
    "12 items, 6 layers": lambda r: directed(normal, r, 12, 6),
    "24 items, 28 layers, skewed": lambda r: directed(lognormal, r, 24, 28),
    "48 items, 28 layers, rare": lambda r: directed(rare, r, 48, 28),
}
DIRECTED_PLANTS: Tables = {
    f"24 items, +{d} nats in tuned": lambda r, d=d: directed(normal, r, 24, 6, 0.0, d) for d in (0.3, 0.6)
}


# ---- tokens of two checkpoints (entropy_change)


def moved_tokens(rng: Rng, n: int, positions: int, size: float = 0.0, *, is_rare: bool = False) -> pd.DataFrame:
    """Change of entropy at every token of responses of unlike length, of mean 0; at position 3 `size` less."""
    lengths = rng.integers(4, positions, n)
    item, pos = np.repeat(np.arange(n), lengths), np.concatenate([np.arange(k) for k in lengths])
    own = 0.2 * rng.standard_t(4, len(pos)) * (rng.random(len(pos)) < (0.1 if is_rare else 1.0))
    columns = {"item": item, "pos": pos, "token": rng.integers(3, 9, len(pos)), "exact_nats": own - size * (pos == 3)}
    return pd.DataFrame(columns)


TOKENS: Tables = {
    "24 responses, 24 positions": lambda r: moved_tokens(r, 24, 24),
    "64 responses, 60 positions": lambda r: moved_tokens(r, 64, 60),
    "32 responses, 40 positions, nine of ten tokens unmoved": lambda r: moved_tokens(r, 32, 40, is_rare=True),
}
TOKENS_PLANTS: Tables = {
    f"24 responses, position 3 -{d} nats": lambda r, d=d: moved_tokens(r, 24, 24, d) for d in (0.2, 0.5)
}
