"""More responses of the zoo, drawn from known rates: confidence, behaviours, temperatures, turns, gains of form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analyses.core.result import Result
from benchmarks.nulls.zoo import Rng
from benchmarks.nulls.zoo_answers import Evaluated, joined, rates, said
from tests import graded

# ---- one step (stated_confidence, behaviours)


def confident(rng: Rng, n: int, knows: float, level: float = 0.0, surely: float = 0.0, samples: int = 1) -> Result:
    """Responses right at their item's rate that state a confidence of the right mean, or `level` above it.

    Args:
        n: items.
        knows: chance that the confidence stated is that of the outcome.
        level: added to every confidence.
        surely: how much more often right responses do without a hedge.
        samples: of every item.
    """
    p = np.repeat(rates(rng, n, 1.0, 1.0), samples)
    right = rng.random(len(p)) < p
    heard = np.where(rng.random(len(p)) < knows, right, rng.random(len(p)) < 0.5)
    stated = np.clip(50 + np.where(heard, 30, -30) + 100 * level + rng.uniform(-10, 10, len(p)), 0, 100)
    asserts = rng.random(len(p)) < 0.6 + surely * (right - 0.5)
    rows = graded.answered(np.where(right, "1", "2").reshape(n, samples).tolist())
    rows = rows.assign(decoding="greedy") if samples == 1 else rows
    words = np.where(asserts, "it is so", "maybe it is so")
    return Result.of(rows.assign(text=[f"{w}. Confidence: {c:.0f}%" for w, c in zip(words, stated, strict=True)]))


CONFIDENT: Evaluated = {
    "80 items, calibrated": lambda r: confident(r, 80, 0.0),
    "40 items x 4, calibrated": lambda r: confident(r, 40, 0.0, samples=4),
}
CONFIDENT_PLANTS: Evaluated = {
    **{f"80 items, {x} too high": lambda r, x=x: confident(r, 80, 0.0, x) for x in (0.15, 0.3)},
    **{f"80 items, {x} know": lambda r, x=x: confident(r, 80, x) for x in (0.3, 0.5)},
    **{f"80 items, right ones hedge {x} less": lambda r, x=x: confident(r, 80, 0.0, surely=x) for x in (0.3, 0.6)},
}


def behaving(rng: Rng, n: int, effect: float, by_difficulty: float, behaviours: int = 1) -> Result:
    """Items of random ease; hard ones show behaviours more often, which raise the chance of being right by `effect`."""
    p = np.repeat(rng.uniform(0.2, 0.7, n), 8)
    shows = rng.random((behaviours, 8 * n)) < np.clip(0.5 + by_difficulty * (0.45 - p), 0, 1)
    right = rng.random(8 * n) < p + effect * shows[0]
    texts = [" ".join(f"b{k}" for k in range(behaviours) if shows[k, i]) or "so" for i in range(8 * n)]
    return Result.of(graded.answered(np.where(right, "1", "2").reshape(n, 8).tolist()).assign(text=texts))


BEHAVING: Evaluated = {
    "40 items": lambda r: behaving(r, 40, 0.0, 0.0),
    "40 items, hard ones show it": lambda r: behaving(r, 40, 0.0, 2.0),
    "40 items, 3 behaviours": lambda r: behaving(r, 40, 0.0, 1.0, 3),
    "12 items": lambda r: behaving(r, 12, 0.0, 1.0),
}
BEHAVING_PLANTS: Evaluated = {f"40 items, +{x}": lambda r, x=x: behaving(r, 40, x, 1.0) for x in (0.15, 0.25)}


def heated(rng: Rng, p: Sequence[np.ndarray], n: int, heats: Sequence[float]) -> Result:
    """Samples at several temperatures: the hotter, the more different wrong answers."""
    return joined(
        [
            graded.answered(said(rng, of, n, 1 + 3 * k), temperature=heat)
            for k, (heat, of) in enumerate(zip(heats, p, strict=True))
        ]
    )


TWO, FIVE = (0.2, 1.0), (0.2, 0.6, 1.0, 1.4, 1.8)


def _one_rate(rng: Rng, items: int, heats: Sequence[float], n: int, low: float = 0.5, high: float = 0.5) -> Result:
    return heated(rng, [rates(rng, items, low, high)] * len(heats), n, heats)


def _apart(rng: Rng, items: int) -> Result:
    own = rates(rng, 40)
    a, b = (np.append(own, np.repeat(x, items)) for x in ([0.5, 0.0], [0.0, 0.5]))
    return heated(rng, [a, b], 8, TWO)


HEATED: Evaluated = {
    "40 items x 8, two temperatures": lambda r: _one_rate(r, 40, TWO, 8, 0.3, 1.0),
    "40 items x 4, five temperatures": lambda r: _one_rate(r, 40, FIVE, 4, 0.3, 1.0),
    "32 items x 8, two temperatures": lambda r: _one_rate(r, 32, TWO, 8),
}
HEATED_PLANTS: Evaluated = {f"{2 * k} of {40 + 2 * k} items at one alone": lambda r, k=k: _apart(r, k) for k in (4, 8)}


def _humped(rng: Rng, items: int, shape: Sequence[float]) -> Result:
    own = rng.uniform(-0.2, 0.2, items)
    return heated(rng, [np.clip(x + own, 0, 1) for x in shape], 8, FIVE)


HUMPED: Evaluated = {
    "24 items, one accuracy": lambda r: _humped(r, 24, [0.5] * 5),
    "40 items, one accuracy of each item": lambda r: _one_rate(r, 40, FIVE, 8),
    "12 items, one accuracy": lambda r: _humped(r, 12, [0.5] * 5),
}
HUMPED_PLANTS: Evaluated = {
    f"40 items, ends {x} lower": lambda r, x=x: _humped(r, 40, [0.6 - x, 0.6 - x / 4, 0.6, 0.6 - x / 4, 0.6 - x])
    for x in (0.2, 0.4)
}


def dialogue(rng: Rng, items: int, turns: Sequence[int], n: int = 8, *, unlike: bool = True) -> Result:
    """Answers drawn from as many hypotheses as are open after each turn, of unlike weights."""
    weights = [rng.dirichlet(np.full(max(turns), 1.0 if unlike else 50.0)) for _ in range(items)]
    parts: list[pd.DataFrame] = []
    for turn, k in enumerate(turns):
        own = [[str(a) for a in rng.choice(k, n, p=w[:k] / w[:k].sum())] for w in weights]
        parts.append(graded.answered(own, right="0", turn=float(turn)))
    return joined(parts)


DIALOGUES: Evaluated = {
    "20 items, 3 idle turns": lambda r: dialogue(r, 20, [4, 4, 4]),
    "40 items, 2 idle turns x 4": lambda r: dialogue(r, 40, [6, 6], 4),
    "12 items, 2 idle turns": lambda r: dialogue(r, 12, [4, 4], unlike=False),
}
DIALOGUES_PLANTS: Evaluated = {
    f"20 items, 4 to {k} open": lambda r, k=k: dialogue(r, 20, [4, k], unlike=False) for k in (3, 2)
}


# ---- gains of form and of content (rivals)


def formed(rng: Rng, n: int, readable: tuple[float, float], right: tuple[float, float]) -> Result:
    """Two steps of eight samples: how many can be read, and how many of those are right."""
    steps: dict[int, pd.DataFrame] = {}
    own = rng.uniform(-0.2, 0.2, n)
    for step, can, knows in zip((0, 100), readable, right, strict=True):
        draws = rng.random((n, 8, 2))
        told = [
            [("1" if y < knows + e else "2") if x < can else None for x, y in of]
            for of, e in zip(draws, own, strict=True)
        ]
        steps[step] = graded.answered(told)
    return graded.swept(steps)


FORMED: Evaluated = {
    "40 items, right .3 to .6 at one form": lambda r: formed(r, 40, (0.9, 0.9), (0.3, 0.6)),
    "40 items, form .8 to .9, right .3 to .6": lambda r: formed(r, 40, (0.8, 0.9), (0.3, 0.6)),
    "40 items, nothing gained": lambda r: formed(r, 40, (0.7, 0.7), (0.5, 0.5)),
    "40 items, half of the gain is form": lambda r: formed(r, 40, (0.5, 0.75), (0.4, 0.6)),
}
FORMED_PLANTS: Evaluated = {
    f"{n} items, read .4 to .95, right .6": lambda r, n=n: formed(r, n, (0.4, 0.95), (0.6, 0.6)) for n in (40, 120)
}
