"""Entropy on both sides of each tool call of a response, and the same at boundaries drawn at random."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy


class Cuts(NamedTuple):
    """Where calls lie among the policy's own tokens: `at` is the first token after each, `own` its response."""

    at: np.ndarray
    own: np.ndarray


def spans(response: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First token and number of tokens of each response that has any, and the response's number (tokens in order)."""
    names, first, count = np.unique(response, return_index=True, return_counts=True)
    return names, first, count


def calls(response: np.ndarray, segment: np.ndarray) -> tuple[Cuts, bool]:
    """Where another's segment lies between two tokens of one response, and whether any does.

    In a log none of whose segments is a tool's, every boundary counts.
    """
    same = response[1:] == response[:-1]
    jump = segment[1:] - segment[:-1]
    at = np.flatnonzero(same & (jump > 1)) + 1
    if len(at):
        return Cuts(at, response[at]), True
    at = np.flatnonzero(same & (jump == 1)) + 1
    return Cuts(at, response[at]), False


def around(
    entropy: np.ndarray, cuts: Cuts, first: np.ndarray, last: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean entropy of the last and of the next `width` tokens at each cut, within its response and its neighbours.

    `first` and `last` (exclusive) bound the response of each cut; a cut's window ends at the next cut. A token whose
    entropy was not measured (NaN) leaves the mean; where none was, the mean is NaN.
    """
    seen = ~np.isnan(entropy)
    running = np.concatenate([[0.0], np.cumsum(np.where(seen, entropy, 0.0))])
    counted = np.concatenate([[0], np.cumsum(seen)])
    at, own = cuts
    same = own[1:] == own[:-1] if len(own) else np.zeros(0, bool)
    low, high = first.copy(), last.copy()
    low[1:][same] = np.maximum(low[1:][same], at[:-1][same])
    high[:-1][same] = np.minimum(high[:-1][same], at[1:][same])
    start, end = np.maximum(low, at - width), np.minimum(high, at + width)

    def mean(begin: np.ndarray, stop: np.ndarray) -> np.ndarray:
        n = counted[stop] - counted[begin]
        return np.divide(running[stop] - running[begin], n, out=np.full(len(n), np.nan), where=n > 0)

    return mean(start, at), mean(at, end)


def random_cuts(cuts: Cuts, first: np.ndarray, last: np.ndarray, rng: np.random.Generator) -> Cuts:
    """As many different boundaries in each response, anywhere within it, in order."""
    room = last - first - 1
    at = first + 1 + (rng.random(len(first)) * room).astype(np.int64)
    for _ in range(50):
        order = np.lexsort((at, cuts.own))
        at = at[order]  # first, last and own are alike within a response: sorting moves nothing else
        twice = np.flatnonzero((np.diff(at) == 0) & (np.diff(cuts.own) == 0)) + 1
        if not len(twice):
            break
        at[twice] = first[twice] + 1 + (rng.random(len(twice)) * room[twice]).astype(np.int64)
    return Cuts(at, cuts.own)


def auroc(score: np.ndarray, outcome: np.ndarray) -> float:
    """Chance that a success scores above a failure, ties one half; NaN without both or where nothing varies."""
    good = outcome > 0
    n, m = int(good.sum()), int((~good).sum())
    if n == 0 or m == 0:
        return float("nan")
    return float((scipy.stats.rankdata(score)[good].sum() - n * (n + 1) / 2) / (n * m))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rho; NaN where one of the two does not vary."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(scipy.stats.rankdata(a), scipy.stats.rankdata(b))[0, 1])


def slopes(value: np.ndarray, number: np.ndarray, own: np.ndarray, n: int) -> np.ndarray:
    """Least-squares slope of a value on the number of the call, by response; NaN with fewer than two calls.

    Calls whose value was not measured (NaN) are left out.
    """
    seen = ~np.isnan(value)
    value, number, own = value[seen], number[seen], own[seen]
    count = np.bincount(own, minlength=n)
    safe = np.maximum(count, 1)
    x = number - (np.bincount(own, number, n) / safe)[own]
    top, bottom = np.bincount(own, x * value, n), np.bincount(own, x * x, n)
    return np.divide(top, bottom, out=np.full(n, np.nan), where=bottom > 0)
