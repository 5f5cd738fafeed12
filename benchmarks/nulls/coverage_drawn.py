"""Coverage of intervals that are drawn, or of series, one data set at a time; `coverage` keeps them with the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypedDict

import numpy as np

from analyses.answers.calibration import equal_mass, squared_error
from analyses.core.stats import subsample_interval, subsamples
from analyses.entropy._serial import correlation
from analyses.states import activation_rotation, similarity
from benchmarks.nulls.zoo import Rng, ar1

SETS, DRAWS, WIDE = 400, 60, 16
Interval = tuple[float, float]


class Row(TypedDict):
    """One cell, as `coverage.row` makes them; these have no width to be held against."""

    what: str
    n: int
    covers: float
    told: float
    width: None


def of_series(rng: Rng, n: int, rho: float) -> Interval:
    """r = .6 between two series of persistence rho."""
    first, other = ar1(rng, 2, n, rho)
    return correlation(first, 0.6 * first + 0.8 * other)[1:]


def of_calibration(rng: Rng, n: int, shift: float) -> Interval:
    """Confidences `shift` above the share that is right."""
    confidence = 0.2 + 0.6 * rng.random(n)
    gap, bin_of = (rng.random(n) < confidence - shift) - confidence, equal_mass(confidence, min(10, n // 4))
    kept = subsamples(n, DRAWS, int(rng.integers(1 << 30)), bin_of)
    drawn = [squared_error(gap[w], bin_of[w]) for w in (np.ones(n, bool), *kept)]
    return _bounds(drawn, kept)


def states(rng: Rng, n: int) -> tuple[np.ndarray, np.ndarray]:
    """States of 16 dimensions of unequal spread, and the same a little turned, with noise."""
    x = rng.normal(size=(n, WIDE)) * np.linspace(0.3, 2, WIDE)
    turn = np.linalg.qr(np.eye(WIDE) + 0.3 * np.random.default_rng(1).normal(size=(WIDE, WIDE)))[0]
    return x, 0.8 * x @ turn + 0.6 * rng.normal(size=x.shape)


def likeness(name: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """What is computed of the states of two checkpoints under this name."""
    if name == "unmoved":
        return lambda x, y: activation_rotation.unmoved(*activation_rotation.reduced(x, y, 8))
    return lambda x, y: similarity.likeness(x, y, similarity.WITH_INTERVAL)[name]


def of_states(rng: Rng, n: int, name: str) -> Interval:
    x, y = states(rng, n)
    kept = subsamples(n, DRAWS, int(rng.integers(1 << 30)), least=4)
    return _bounds([likeness(name)(x[w], y[w]) for w in (np.ones(n, bool), *kept)], kept)


def _bounds(drawn: list[float], kept: np.ndarray) -> Interval:
    low, high = subsample_interval(np.asarray(drawn)[:, None], kept)[:, 0]
    return float(low), float(high)


def table(sets: int = SETS) -> Iterator[Row]:
    for n in (16, 32, 64, 128):
        for rho in (0.0, 0.5, 0.8):
            yield _row(
                f"correlation of series, persistence {rho}", n, lambda r, n=n, h=rho: of_series(r, n, h), 0.6, sets
            )
        for s in (0.0, 0.2):
            of = lambda r, n=n, s=s: of_calibration(r, n, s)  # noqa: E731
            yield _row(f"squared calibration error, off by {s}", n, of, s**2, sets)
        for name in ("cka_unbiased", "change", "unmoved"):
            truth = likeness(name)(*states(np.random.default_rng(2), 2000))
            of = lambda r, n=n, name=name: of_states(r, n, name)  # noqa: E731
            yield _row(f"{name} of states, 16 dimensions", n, of, truth, sets)


def _row(what: str, n: int, draw: Callable[[Rng], Interval], truth: float, sets: int) -> Row:
    bounds = np.asarray([draw(np.random.default_rng((seed, n))) for seed in range(sets)])
    told = ~np.isnan(bounds).any(1)
    inside = (bounds[told, 0] <= truth) & (truth <= bounds[told, 1])
    return Row(what=what, n=n, covers=round(float(inside.mean()), 4), told=float(told.mean()), width=None)
