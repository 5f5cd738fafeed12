"""What may be said of a run's stages: a rise of perplexity or a fall of accuracy beyond the run's own noise.

Checkpoints differ by more than their items: training itself is noisy from one to the next. That noise is read off the
second differences of a curve (a trend has none), and a rise or fall counts only if it lasts two checkpoints and is
larger than what noise alone does in a run of as many checkpoints, in 95 of 100. Never imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from analyses.core import stats
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim
from analyses.core.stats.intervals import of_difference, proportion
from analyses.memory._curves import Array, Curves
from analyses.memory._stage_rule import OVER_FIT, UNDER, Staged

FEWEST = 5  # checkpoints: fewer have no second differences to speak of
MEMORIZED = "accuracy held while perplexity rose above its bound"
FELL = "accuracy fell below its best for good"
NEEDS_N = "per-item results, or a column `n` (items per checkpoint) beside the curves"


def noise(curve: Array) -> Array:
    """Standard deviation of what a curve does from checkpoint to checkpoint beside its trend [...]; last axis: step."""
    return np.median(np.abs(np.diff(curve, 2, axis=-1)), axis=-1) / (0.6745 * np.sqrt(6))


def lasting_rise(curve: Array) -> Array:
    """Largest rise above the smallest value so far that two checkpoints in a row keep [...]."""
    rise = curve - np.minimum.accumulate(curve, axis=-1)
    return np.minimum(rise[..., 1:], rise[..., :-1]).max(-1)


def lasting_fall(curve: Array) -> Array:
    """Largest fall below the largest value so far that two checkpoints in a row keep [...]."""
    return lasting_rise(-curve)


@lru_cache(maxsize=256)
def reach(n_steps: int, level: float = 0.95) -> float:
    """Lasting rise over noise that a flat run of independent checkpoints stays below, with probability `level`."""
    drawn = np.random.default_rng(0).normal(size=(20_000, n_steps))
    return float(np.quantile(lasting_rise(drawn) / noise(drawn), level))


def claims(curves: Curves, staged: Staged, rho: float, floor: float, group: str | None) -> Iterator[Claim]:
    """Over-memorized or not, over-fit or not, worse or not, and what to ship."""
    at: dict[str, Any] = {"group": group, "n": curves.n.get("accuracy", 0)}
    low, _ = proportion(curves.accuracy * at["n"], np.full(len(curves.step), at["n"]))
    if not at["n"]:
        for kind, what in (("over-memorized", MEMORIZED), ("ship", "one checkpoint is to be preferred")):
            yield Claim(kind, UNJUDGED, what, why="the curves do not say of how many items", needs=NEEDS_N, **at)
        return
    if not (low > floor).any():
        why = f"accuracy is nowhere clearly above its floor of {floor:g}"
        yield Claim("over-memorized", UNJUDGED, MEMORIZED, why=why, needs="a checkpoint that has learnt the task", **at)
        return
    if len(curves.step) < FEWEST:
        why, needs = f"{len(curves.step)} checkpoints do not show the run's own noise", f"at least {FEWEST} checkpoints"
        yield Claim("over-memorized", UNJUDGED, MEMORIZED, why=why, needs=needs, **at)
    else:
        yield _rise(curves, staged, rho, at)
        yield _fall(curves, staged, at)
    yield worse(curves, at)
    yield from _ship(curves, staged, rho, at)


def _rise(curves: Curves, staged: Staged, rho: float, at: dict[str, Any]) -> Claim:
    usual = noise(curves.log_ppl) * reach(len(curves.step))
    largest = float(lasting_rise(curves.log_ppl))
    is_real = staged.onset >= 0 and largest > usual and _lasts(staged)
    onset = float(curves.step[int(staged.onset)]) if is_real else None
    low, high = _drawn(curves.log_ppl_draws, at["n"])
    return Claim(
        "over-memorized", FOUND if is_real else NONE, MEMORIZED,
        estimand="largest rise of ln perplexity above its smallest so far that lasts two checkpoints", effect=largest,
        low=min(low, largest), high=max(high, largest), unit="nats per token", step=onset,
        family=f"{len(curves.step)} checkpoints", control=f"the run's own noise between checkpoints, up to {usual:.3f}",
        assumptions=(f"bound: {1 + rho:g} times the smallest perplexity so far",), **at,
    )  # fmt: skip


def _drawn(draws: Array | None, n: int) -> tuple[float, float]:
    """Interval of the largest lasting rise, from draws of items; NaN on bare curves."""
    if draws is None:
        return float("nan"), float("nan")
    low, high = stats.percentiles(lasting_rise(draws), n)
    return float(low), float(high)


def _lasts(staged: Staged) -> bool:
    """Two checkpoints in a row above the bound, the first over-memorized one among them."""
    above = ~np.isnan(staged.om_index) | (staged.stage == OVER_FIT)
    first = int(staged.onset)
    return bool(above[first : first + 2].sum() == 2)


def _fall(curves: Curves, staged: Staged, at: dict[str, Any]) -> Claim:
    usual = noise(curves.accuracy) * reach(len(curves.step))
    late = np.flatnonzero(staged.stage == OVER_FIT)
    largest = float(lasting_fall(curves.accuracy))
    is_real = len(late) > 1 and bool((np.diff(late) == 1).any()) and largest > usual
    step = float(curves.step[late[np.argmax(np.diff(late) == 1)]]) if is_real else None
    low, high = _drawn(None if curves.accuracy_draws is None else -curves.accuracy_draws, at["n"])
    return Claim(
        "over-fit", FOUND if is_real else NONE, FELL, effect=-largest, low=-max(high, largest), high=-min(low, largest),
        estimand="largest fall of accuracy below its best so far that lasts two checkpoints", step=step,
        family=f"{len(curves.step)} checkpoints", control=f"the run's own noise between checkpoints, up to {usual:.3f}",
        **at,
    )  # fmt: skip


def worse(curves: Curves, at: dict[str, Any]) -> Claim:
    """Whether accuracy at the last checkpoint is below that at the first, items paired where they are known."""
    value, low, high = _between(curves, len(curves.step) - 1, 0)
    what = "accuracy is lower at the last checkpoint than at the first"
    return Claim(
        "worse", FOUND if high < 0 else NONE, what, estimand="accuracy at the last checkpoint minus the first",
        effect=value, low=low, high=high, control=f"step {curves.step[0]:g}", **at,
    )  # fmt: skip


def _ship(curves: Curves, staged: Staged, rho: float, at: dict[str, Any]) -> Iterator[Claim]:
    chosen, best = int(staged.recommended), int(staged.best_accuracy)
    if staged.stage[chosen] == UNDER and chosen != best and not staged.feasible[best]:
        caveat = "perplexity rose with accuracy: within its bound there is only what has not learnt the task yet"
    else:
        caveat = "chosen on the items it is measured on, so chosen optimistically"
    value, low, high = _between(curves, chosen, best)
    yield Claim(
        "ship", FOUND, f"ship step {curves.step[chosen]:g}, accuracy {curves.accuracy[chosen]:.3f}; given up for it",
        estimand=f"accuracy of step {curves.step[chosen]:g} minus that of the most accurate checkpoint",
        effect=value, low=low, high=high, control=f"step {curves.step[best]:g}, the most accurate",
        assumptions=(f"perplexity at most {1 + rho:g} times its minimum",), caveat=caveat, **at,
    )  # fmt: skip


def _between(curves: Curves, one: int, other: int) -> tuple[float, float, float]:
    """Accuracy of one checkpoint minus another's, with its interval."""
    value = float(curves.accuracy[one] - curves.accuracy[other])
    if one == other:
        return value, 0.0, 0.0
    if curves.correct is not None:
        e = stats.paired_difference(curves.correct[:, one], curves.correct[:, other], clusters=curves.clusters)
        return value, float(np.fmin(e.ci_low, value)), float(np.fmax(e.ci_high, value))
    n = np.full(1, curves.n["accuracy"])
    sides = [(curves.accuracy[[i]], *proportion(curves.accuracy[[i]] * n, n)) for i in (one, other)]
    low, high = of_difference(*sides)
    return value, float(low[0]), float(high[0])
