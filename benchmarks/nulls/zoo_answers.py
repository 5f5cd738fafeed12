"""Data of the zoo: graded responses as `evaluate` gives them, drawn from rates that are known.

Rates differ from item to item (a beta law with most items nearly always or nearly never right), unless the name says
otherwise: equal rates are what real runs never have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analyses.core.result import Result
from benchmarks.nulls.zoo import Rng
from tests import graded

Evaluated = dict[str, Callable[[Rng], Result]]
OPTIONS = ("1", "2", "3", "4")


def joined(parts: Sequence[pd.DataFrame]) -> Result:
    return Result.of(pd.concat(parts, ignore_index=True))


def rates(rng: Rng, n: int, low: float = 0.5, high: float = 0.5) -> np.ndarray:
    """Chances of n items to be right."""
    return rng.beta(low, high, n)


def said(rng: Rng, p: Sequence[float] | np.ndarray, n: int, wrong: int = 3) -> list[list[str]]:
    """n answers of every item: right ("1") at its rate, else one of so many wrong ones."""
    return [["1" if x < q else str(rng.integers(2, 2 + wrong)) for x in rng.random(n)] for q in p]


# ---- two steps (pass_curves, capability, conformal_sets, abstention)


def resampled(rng: Rng, before: np.ndarray, after: np.ndarray, n: int, wrong: int = 3) -> Result:
    """Samples of the same items at two steps, right at these rates."""
    steps = zip((0, 10), (before, after), strict=True)
    return graded.swept({step: graded.answered(said(rng, p, n, wrong)) for step, p in steps})


def anew(rng: Rng, items: int, n: int, low: float = 0.5, high: float = 0.5) -> Result:
    """The same checkpoint sampled twice."""
    p = rates(rng, items, low, high)
    return resampled(rng, p, p, n)


ANEW: Evaluated = {
    "60 items x 8 samples": lambda r: anew(r, 60, 8),
    "16 items x 16 samples": lambda r: anew(r, 16, 16),
    "60 items x 8, most hard": lambda r: anew(r, 60, 8, 0.3, 2.0),
    "32 items of one rate": lambda r: resampled(r, np.full(32, 0.3), np.full(32, 0.3), 8),
}
NARROWED: Evaluated = {
    "half of 60 problems lost, half at .9": lambda r: resampled(r, np.full(60, 0.15), np.repeat([0.9, 0.0], 30), 16)
}
BROADENED: Evaluated = {
    f"15 of 60 problems from 0 to {p}": lambda r, p=p: resampled(r, *_opened(r, p), 16) for p in (0.2, 0.5)
}


def _opened(rng: Rng, p: float) -> tuple[np.ndarray, np.ndarray]:
    known = rates(rng, 45)
    return np.append(known, np.zeros(15)), np.append(known, np.full(15, p))


def _split(p: float) -> np.ndarray:
    return np.repeat([0.5, p], [40, 20])


MOVED: Evaluated = {
    f"20 of 60 from 0 to {p}": lambda r, p=p: resampled(r, _split(0.0), _split(p), 16) for p in (0.2, 0.5)
}


def known(rng: Rng, items: int, n: int, before: float, after: float, wrong: int = 1) -> Result:
    """Items of nearly one rate, which moves."""
    own = rng.uniform(-0.1, 0.1, items)
    return resampled(rng, *(np.clip(x + own, 0, 1) for x in (before, after)), n, wrong)


SHARP: Evaluated = {
    "40 items x 8, .6 at both steps": lambda r: known(r, 40, 8, 0.6, 0.6),
    "40 items x 8, .7 at both, 3 wrong answers": lambda r: known(r, 40, 8, 0.7, 0.7, 3),
    "32 items x 16, .5 at both steps": lambda r: known(r, 32, 16, 0.5, 0.5),
}
SHARPENED: Evaluated = {f"40 items x 16, .6 to {p}": lambda r, p=p: known(r, 40, 16, 0.6, p) for p in (0.8, 0.97)}


def abstained(rng: Rng, chances: Sequence[tuple[float, float]], sizes: tuple[int, int] = (40, 40)) -> Result:
    """Greedy responses that abstain with these chances, without and with an answer to give, step by step."""
    steps: dict[int, pd.DataFrame] = {}
    for step, of in enumerate(chances):
        parts: list[pd.DataFrame] = []
        for gold, chance, n in zip(("", "1"), of, sizes, strict=True):
            own = np.clip(chance + 0.3 * rng.uniform(-1, 1, n) * (0 < chance < 1), 0, 1)
            words = [
                ["(abstains)" if x < q else str(rng.integers(1, 3))] for x, q in zip(rng.random(n), own, strict=True)
            ]
            rows = graded.answered(words, decoding="greedy", gold=gold)
            right = rows["answer"] == ("1" if gold else "(abstains)")
            parts.append(rows.assign(item=(gold or "u") + rows["item"], status=np.where(right, "correct", "wrong")))
        steps[10 * step] = pd.concat(parts, ignore_index=True)
    return graded.swept(steps)


ABSTAINED: Evaluated = {
    "40 + 40, .4 of both": lambda r: abstained(r, [(0.4, 0.4)]),
    "40 + 40, .1 of both": lambda r: abstained(r, [(0.1, 0.1)]),
    "12 + 100, .5 of both": lambda r: abstained(r, [(0.5, 0.5)], (12, 100)),
}
ABSTAINED_PLANTS: Evaluated = {f"40 + 40, {p} and .1": lambda r, p=p: abstained(r, [(p, 0.1)]) for p in (0.4, 0.6)}
KEPT: Evaluated = {
    "40 items, .5 at both steps": lambda r: abstained(r, [(0.5, 0.1)] * 2),
    "40 items, .9 at both steps": lambda r: abstained(r, [(0.9, 0.1)] * 2),
    "10 items, .5 at both steps": lambda r: abstained(r, [(0.5, 0.1)] * 2, (10, 40)),
}
LOST: Evaluated = {f"40 items, .8 to {p}": lambda r, p=p: abstained(r, [(0.8, 0.1), (p, 0.1)]) for p in (0.5, 0.3)}


# ---- wordings (answer_agreement, input_diversity, cue_pairs)


def worded(rng: Rng, p: Sequence[np.ndarray], n: int, **columns: Any) -> Result:
    """Samples of several wordings of one set of problems, each right at its own rate."""
    parts: list[pd.DataFrame] = []
    for k, of in enumerate(p):
        rows = graded.answered(said(rng, of, n), variant=f"w{k}", **{c: v[k] for c, v in columns.items()})
        parts.append(rows.assign(problem=rows["item"], item=rows["item"] + f"/w{k}"))
    return joined(parts)


def alike(rng: Rng, items: int, wordings: int, n: int, lost: float = 0.0, **columns: Any) -> Result:
    """One rate for all wordings of a problem; the last wording may cost `lost` of it."""
    own = rates(rng, items, 1.0, 1.0)
    return worded(rng, [own] * (wordings - 1) + [own * (1 - lost)], n, **columns)


WORDED: Evaluated = {
    "24 problems, 2 wordings x 6": lambda r: alike(r, 24, 2, 6),
    "12 problems, 4 wordings x 4": lambda r: alike(r, 12, 4, 4),
    "40 problems, 2 wordings x 2": lambda r: alike(r, 40, 2, 2),
}
WORDED_PLANTS: Evaluated = {
    f"24 problems, one wording costs {x}": lambda r, x=x: alike(r, 24, 2, 6, x) for x in (0.6, 0.9)
}
TEXTS = [f"{who} has {n} {what}" for who in ("Ann", "Bob and his aunt") for n, what in ((1, "figs"), (2, "red caps"))]


def paired(rng: Rng, items: int, n: int, follows: float) -> Result:
    """Wordings of which two and two are alike; with chance `follows` the pair decides the answer."""
    parts: list[pd.DataFrame] = []
    for k, wording in enumerate(TEXTS):
        own = [
            [str(k // 2 + 1) if x < follows else str(rng.integers(1, 4)) for x in rng.random(n)] for _ in range(items)
        ]
        rows = graded.answered(own, right="9", wording=wording, variant=f"w{k}")
        parts.append(rows.assign(problem=rows["item"], item=rows["item"] + f"/w{k}"))
    return joined(parts)


PAIRED: Evaluated = {
    "24 problems, 4 wordings x 4": lambda r: paired(r, 24, 4, 0.0),
    "problems of unlike ease, 4 wordings x 4": lambda r: alike(r, 24, 4, 4, wording=TEXTS),
    "12 problems, 4 wordings x 2": lambda r: paired(r, 12, 2, 0.0),
}
PAIRED_PLANTS: Evaluated = {f"24 problems, {p} follow": lambda r, p=p: paired(r, 24, 4, p) for p in (0.4, 0.7)}


def cued(rng: Rng, n: int, follow: float, flip: float, tell: float, idle: float = 0.0) -> Result:
    """Problems with four options: cued answers follow the cue (and say so) or flip anywhere, with these chances.

    `idle` is the chance of any response to use the cue's words whatever it does.
    """
    rows: list[pd.DataFrame] = []
    plain, cues = np.array([rng.permutation(OPTIONS)[:2] for _ in range(n)]).T
    flips = np.array([rng.choice([x for x in OPTIONS if x != p]) for p in plain])
    follows = rng.random(n) < follow
    moved = np.where(follows, cues, np.where(rng.random(n) < flip, flips, plain))
    names = [(rng.random(n) < np.where(follows, tell, idle)), rng.random(n) < idle]
    for variant, answers, told, cue in (("cued", moved, names[0], cues), ("plain", plain, names[1], None)):
        own = graded.answered([[str(a)] for a in answers], decoding="greedy", variant=variant)
        text = np.where(told, "the hint says so", "so")
        rows.append(own.assign(problem=own["item"], item=own["item"] + "/" + variant, text=text, cue=cue))
    return joined(rows)


CUED: Evaluated = {
    "60 problems, .6 flip anywhere": lambda r: cued(r, 60, 0.0, 0.6, 0.0),
    "60 problems, .15 flip anywhere": lambda r: cued(r, 60, 0.0, 0.15, 0.0),
    "24 problems, .6 flip anywhere": lambda r: cued(r, 24, 0.0, 0.6, 0.0),
}
CUED_PLANTS: Evaluated = {f"60 problems, {p} follow": lambda r, p=p: cued(r, 60, p, 0.2, 0.0) for p in (0.15, 0.3)}
TOLD: Evaluated = {
    "60 problems, all use the words at .3": lambda r: cued(r, 60, 0.6, 0.1, 0.3, 0.3),
    "100 problems, all use the words at .7": lambda r: cued(r, 100, 0.6, 0.1, 0.7, 0.7),
}
TOLD_PLANTS: Evaluated = {
    f"60 problems, followers tell at {p}, others .1": lambda r, p=p: cued(r, 60, 0.6, 0.1, p, 0.1) for p in (0.4, 0.7)
}
