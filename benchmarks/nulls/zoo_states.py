"""Data of the zoo: states, gradients and weights of checkpoints that differ by nothing of the kind claimed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.nulls.zoo import Rng
from benchmarks.nulls.zoo_effects import GROUP, Tables

Pairs = list[tuple[np.ndarray, np.ndarray]]  # states [item, d] of base and tuned, one pair a layer
States = dict[str, Callable[[Rng], Pairs]]


def spread(rng: Rng, n: int, d: int) -> np.ndarray:
    """States of dimensions of unlike size, some of them far off."""
    return rng.standard_t(5, (n, d)) * np.geomspace(4, 0.2, d)


def noisy(rng: Rng, n: int, layers: int, noise: float, scale: float = 1.0, angle: float = 0.0, d: int = 16) -> Pairs:
    """Tuned's states are base's, scaled, turned by an angle in some planes, with noise of the states' own spread."""
    made: Pairs = []
    for _ in range(layers):
        x = spread(rng, n, d)
        y = scale * x @ turn(d, angle) + noise * spread(rng, n, d)
        made.append((x, y + 3 * rng.normal(size=d)))
    return made


def turn(d: int, angle: float) -> np.ndarray:
    """A rotation by one angle in the planes of neighbouring dimensions."""
    out = np.eye(d)
    for k in range(0, d - 1, 2):
        out[k : k + 2, k : k + 2] = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    return out


TURNED: States = {
    "24 items, 5 states, noise .3": lambda r: noisy(r, 24, 5, 0.3),
    "48 items, 9 states, noise 1": lambda r: noisy(r, 48, 9, 1.0),
    "24 items, 5 states, twice the size": lambda r: noisy(r, 24, 5, 0.2, 2.0),
    "12 items, 3 states, unrelated": lambda r: noisy(r, 12, 3, 1.0, 0.0),
}
TURNED_PLANTS: States = {
    f"24 items, turned by {a} rad": lambda r, a=a: noisy(r, 24, 5, 0.2, angle=a) for a in (0.4, 0.8)
}
UNLIKE: States = {
    "40 items, 2 states": lambda r: noisy(r, 40, 2, 1.0, 0.0),
    "16 items, 4 states": lambda r: noisy(r, 16, 4, 1.0, 0.0),
    "40 items, one of 3 states unrelated": lambda r: [*noisy(r, 40, 2, 0.3), *noisy(r, 40, 1, 1.0, 0.0)],
}
UNLIKE_PLANTS: States = {f"40 items, 2 states, noise {s}": lambda r, s=s: noisy(r, 40, 2, s) for s in (2.0, 0.5)}


# ---- sentences in two languages (parallel_texts)

Texts = dict[str, Callable[[Rng], list[np.ndarray]]]  # states [problem, language, d], one array a layer


def sentences(rng: Rng, n: int, layers: int, shared: float, d: int = 16) -> list[np.ndarray]:
    made = []
    for _ in range(layers):
        meaning, offset = np.stack([spread(rng, n, d)] * 2, 1), 20 * rng.normal(size=(1, 2, d))
        made.append(shared * meaning + np.stack([spread(rng, n, d), spread(rng, n, d)], 1) + offset)
    return made


SENTENCES: Texts = {
    "24 problems, 2 states": lambda r: sentences(r, 24, 2, 0.0),
    "48 problems, 12 states": lambda r: sentences(r, 48, 12, 0.0),
    "12 problems, 2 states": lambda r: sentences(r, 12, 2, 0.0),
}
SENTENCES_PLANTS: Texts = {
    f"24 problems, {s} of the spread shared": lambda r, s=s: sentences(r, 24, 2, s) for s in (0.4, 0.8)
}


# ---- sizes of keys (key_size)


def keys(
    rng: Rng, n: int, m: int, layers: int, size: float = 0.0, firm: tuple[float, float] = (60.0, 60.0)
) -> pd.DataFrame:
    """Shares of layers in the size of all keys; groups may be unlike in how much their items differ."""
    profile = np.linspace(1, 2, layers) / np.linspace(1, 2, layers).sum()
    first = np.arange(n + m) < n
    shares = np.stack([rng.dirichlet(profile * layers * firm[0 if f else 1]) for f in first])
    shares[first, 2] *= 1 + size
    shares /= shares.sum(1, keepdims=True)
    at = {"item": np.repeat(np.arange(n + m), layers), "layer": np.tile(np.arange(layers), n + m)}
    return pd.DataFrame(
        {**at, "key_share": shares.ravel(), "group": np.repeat(np.where(first, "first", "rest"), layers)}
    )


KEYS: Tables = {
    "32 + 32 items, 6 layers": lambda r: keys(r, 32, 32, 6),
    "12 + 84 items, 28 layers": lambda r: keys(r, 12, 84, 28),
    "12 (more variable) + 84 items, 6 layers": lambda r: keys(r, 12, 84, 6, firm=(7.0, 60.0)),
}
KEYS_PLANTS: Tables = {
    f"32 + 32 items, one of 6 layers x {1 + s}": lambda r, s=s: keys(r, 32, 32, 6, s) for s in (0.1, 0.2)
}


# ---- what a vector recovers (tuning_vector)


def recovered(rng: Rng, n: int, shares: Sequence[float]) -> pd.DataFrame:
    """KL without and with a vector, by item and layer; half of the change is the most that is not claimed."""
    base = rng.gamma(2.0, 1.0, n)
    rows: list[pd.DataFrame] = []
    for layer, share in enumerate(shares):
        for arm, part in (("fitted", share), ("mean_difference", share / 2), ("random", 0.0)):
            left = base * (1 - part) * rng.gamma(4.0, 0.25, n)
            at = {"item": [f"i{k}" for k in range(n)], "kl_nats": left, "kl_base_nats": base}
            rows.append(pd.DataFrame(at).assign(layer=layer, arm=arm))
    return pd.concat(rows, ignore_index=True).assign(**GROUP)


RECOVERED: Tables = {
    "24 items, 6 layers of exactly one half": lambda r: recovered(r, 24, [0.5] * 6),
    "12 items, 28 layers of exactly one half": lambda r: recovered(r, 12, [0.5] * 28),
    "24 items, 6 layers of .3": lambda r: recovered(r, 24, [0.3] * 6),
}
RECOVERED_PLANTS: Tables = {
    f"24 items, one of 6 layers {s}": lambda r, s=s: recovered(r, 24, [0.2] * 5 + [s]) for s in (0.7, 0.85)
}


# ---- logits of tokens (difference_lens)

Logits = tuple[np.ndarray, np.ndarray]  # [layer, token], and which tokens are of the training texts


def lens(rng: Rng, n: int, m: int, layers: int, size: float = 0.0, wide: float = 1.0) -> Logits:
    """Logits of n tokens of training texts alone and m of prompts alone, of one mean."""
    first = np.arange(n + m) < n
    values = np.cumsum(rng.normal(size=(layers, n + m)), 0) / np.sqrt(np.arange(1, layers + 1))[:, None]
    return values * np.where(first, wide, 1.0) + size * first, first


LENS: dict[str, Callable[[Rng], Logits]] = {
    "40 + 40 tokens, 6 layers": lambda r: lens(r, 40, 40, 6),
    "10 + 100 tokens, 28 layers": lambda r: lens(r, 10, 100, 28),
    "12 (sd x 3) + 80 tokens, 6 layers": lambda r: lens(r, 12, 80, 6, wide=3.0),
}
LENS_PLANTS: dict[str, Callable[[Rng], Logits]] = {
    f"40 + 40 tokens, +{d} sd": lambda r, d=d: lens(r, 40, 40, 6, d) for d in (0.5, 1.0)
}


# ---- gradients of items (gradient_conflict, auxiliary_gradient)

Gradients = tuple[np.ndarray, np.ndarray, np.ndarray]  # g [item, parameter], ids, groups


def gradients(rng: Rng, n: int, m: int, across: float = 0.0, ways: int = 0, d: int = 48) -> Gradients:
    """Gradients of two groups, of unlike lengths: at right angles but for what is planted.

    Args:
        n, m: items.
        across: each group's pull, against the other's.
        ways: the first group's gradients lie near so many directions whose sum is 0; 0: they do not.
        d: parameters.
    """
    g = rng.normal(size=(n + m, d)) * rng.lognormal(0, 0.5, (n + m, 1))
    first, one = np.arange(n + m) < n, np.eye(d)[0]
    if ways:
        corners = np.eye(d)[:ways] - np.eye(d)[:ways].mean(0)
        g[:n] = 0.1 * g[:n] + np.sqrt(d) * corners[np.arange(n) % ways]
    g += np.where(first, 1.0, -1.0)[:, None] * across * np.sqrt(d) * one
    return g, np.asarray([f"i{k}" for k in range(n + m)], object), np.where(first, "a", "b").astype(object)


GRADIENTS: dict[str, Callable[[Rng], Gradients]] = {
    "24 + 24 items at right angles": lambda r: gradients(r, 24, 24),
    "12 + 48 items at right angles": lambda r: gradients(r, 12, 48),
    "24 + 24 items, 8 parameters": lambda r: gradients(r, 24, 24, d=8),
}
GRADIENTS_PLANTS: dict[str, Callable[[Rng], Gradients]] = {
    **{f"24 + 24 items, groups opposed by {x}": lambda r, x=x: gradients(r, 24, 24, across=x) for x in (0.2, 0.4)},
    **{f"16 + 24 items, {k} ways that cancel": lambda r, k=k: gradients(r, 16, 24, ways=k) for k in (8, 3)},
}
Two = tuple[np.ndarray, np.ndarray]


def two_losses(rng: Rng, n: int, m: int, shared: float = 0.0, d: int = 48) -> Two:
    """Item gradients of two objectives, each with a direction of its own; `shared` of the second's is the first's."""
    main, other = (np.sqrt(d) * 0.5 * np.eye(d)[k] for k in (0, 1))
    noise = rng.normal(size=(n + m, d)) * rng.lognormal(0, 0.5, (n + m, 1))
    return noise[:n] + main, noise[n:] + shared * main + np.sqrt(1 - shared**2) * other


LOSSES: dict[str, Callable[[Rng], Two]] = {
    "24 + 24 items": lambda r: two_losses(r, 24, 24),
    "12 + 60 items": lambda r: two_losses(r, 12, 60),
    "24 + 24 items, 8 parameters": lambda r: two_losses(r, 24, 24, d=8),
}
LOSSES_PLANTS: dict[str, Callable[[Rng], Two]] = {
    f"24 + 24 items, cosine {c}": lambda r, c=c: two_losses(r, 24, 24, c) for c in (0.4, 0.8)
}


def pulled(rng: Rng, n: int, shared: float = 0.0, *, is_heavy: bool = False) -> pd.DataFrame:
    """Two updates' changes of the log-probability of 10 tokens an item."""
    main, aux = rng.standard_t(3, (2, 10 * n)) if is_heavy else rng.normal(size=(2, 10 * n))
    return pd.DataFrame({"item": np.repeat(np.arange(n), 10), "group": "g", "main": main, "aux": aux + shared * main})


PULLED: Tables = {
    "16 items": lambda r: pulled(r, 16),
    "48 items, heavy tails": lambda r: pulled(r, 48, is_heavy=True),
    "10 items": lambda r: pulled(r, 10),
}
PULLED_PLANTS: Tables = {f"16 items, {s} shared": lambda r, s=s: pulled(r, 16, s) for s in (0.2, 0.5)}

# ---- weights (update_spectrum, update_landing)

Weights = list[tuple[np.ndarray, list[np.ndarray]]]  # of every matrix: base, and what runs made of it


def weights(
    rng: Rng, count: int, shape: tuple[int, int], size: float, runs: int = 2, *, shared: float = 0.0, rank: int = 0,
    kept: float = 1.0,
) -> Weights:  # fmt: skip
    """Matrices and Gaussian updates of them, of which a share is common to runs, a few directions or few entries."""
    made: Weights = []
    for _ in range(count):
        base = (0.05 * rng.normal(size=shape)).astype(np.float32)
        common = rng.normal(size=shape)
        after: list[np.ndarray] = []
        for _ in range(runs):
            own = rng.normal(size=shape) if not rank else low_rank(rng, shape, rank)
            own = np.sqrt(1 - shared) * own + np.sqrt(shared) * common
            after.append((base + size * own * (rng.random(shape) < kept)).astype(np.float32))
        made.append((base, after))
    return made


def low_rank(rng: Rng, shape: tuple[int, int], rank: int) -> np.ndarray:
    return rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1])) / np.sqrt(rank)


Matrices = dict[str, Callable[[Rng], Weights]]
MATRICES: Matrices = {
    "12 matrices of 24 x 16": lambda r: weights(r, 12, (24, 16), 1e-3),
    "24 matrices of 32 x 8": lambda r: weights(r, 24, (32, 8), 1e-3),
    "12 matrices of 24 x 16, a faint update": lambda r: weights(r, 12, (24, 16), 1e-4),
}
SPECTRA_PLANTS: Matrices = {
    "12 matrices, rank 4 of 16": lambda r: weights(r, 12, (24, 16), 1e-3, rank=4),
    "12 matrices, a tenth common to runs": lambda r: weights(r, 12, (24, 16), 1e-3, shared=0.1),
}
LANDED_PLANTS: Matrices = {
    "12 matrices, half of the entries": lambda r: weights(r, 12, (24, 16), 1e-3, kept=0.5),
    "12 matrices, one entry in ten": lambda r: weights(r, 12, (24, 16), 1e-3, kept=0.1),
}


# ---- forgetting over KL (forgetting_law)

Runs = tuple[pd.DataFrame, pd.DataFrame]


def forgot(rng: Rng, curves: Sequence[Callable[[np.ndarray], np.ndarray]], noise: float, items: int = 12) -> Runs:
    """Two swept runs whose forgetting is a function of time of its own, with noise over checkpoints and items."""
    t, made = np.linspace(0, 1, 8), []
    for curve in curves:
        kl = rng.uniform(0.5, 1.2) * t
        mean = curve(kl) + noise * rng.normal(size=8) * (t > 0)
        rows: list[dict[str, Any]] = []
        for step, x, y in zip(range(0, 80, 10), kl, mean, strict=True):
            for k, (a, b) in enumerate(1 + 0.1 * rng.normal(size=(items, 2))):
                own = {"item": f"i{k}", "step": step, "kl_nats": a * x, "forgotten_nats": b * y, **GROUP}
                rows += [{**own, "variant": "new"}, {**own, "variant": "old"}]
        made.append(pd.DataFrame(rows))
    return made[0], made[1]


FORGOT: dict[str, Callable[[Rng], Runs]] = {
    "nothing forgotten": lambda r: forgot(r, [np.zeros_like] * 2, 0.05),
    "random walks": lambda r: forgot(r, [lambda x: np.cumsum(0.2 * r.normal(size=len(x))) * (x > 0)] * 2, 0.0),
    "one run forgets, the other does not": lambda r: forgot(r, [lambda x: x, np.zeros_like], 0.05),
    "curves of unlike slope, 1 and 4": lambda r: forgot(r, [lambda x: x, lambda x: 4 * x], 0.05),
}
FORGOT_PLANTS: dict[str, Callable[[Rng], Runs]] = {
    f"one curve, noise {s}": lambda r, s=s: forgot(r, [lambda x: x + x**2] * 2, s) for s in (0.2, 0.05)
}
