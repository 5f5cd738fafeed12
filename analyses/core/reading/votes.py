"""What several samples of one item are worth together: pass@k and majority vote, both exact. Never imports torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from math import comb

import numpy as np

from probe.errors import InputError


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased chance that at least one of k samples is correct, 1 - C(n-c, k) / C(n, k); NaN where k > n.

    >>> pass_at_k(4, 1, 2)  # one of four is right: half of the pairs hold it
    0.5

    Args:
        n: samples.
        correct: right ones among them.
        k: samples that are looked at.
    """
    if not 0 <= correct <= n or k < 1:
        raise InputError(f"pass@{k} of {correct} correct in {n}; expected 0 <= correct <= n and k >= 1")
    return float("nan") if k > n else 1.0 - comb(n - correct, k) / comb(n, k)


def clusters(answers: Sequence[str | None]) -> list[Hashable]:
    """A name for the cluster of each answer: equal answers share one, an answer that cannot be read is alone.

    The one convention for unreadable answers, everywhere: each is its own. Missing values of a table count as such.
    """
    return [("read", a) if isinstance(a, str) else ("unread", i) for i, a in enumerate(answers)]


def majority(answers: Sequence[str | None], is_correct: Sequence[float], k: int) -> float:
    """Chance that the most frequent answer of k of the samples is correct; ties count by their share.

    The mean over all C(n, k) subsets, computed from the sizes of the clusters: exact, so that maj@1 = pass@1. NaN
    where k > n. Equal texts are one answer (give answers that are equal where the grader calls them equal).

    >>> majority(["4", "4", "5"], [1, 1, 0], 3)
    1.0

    Args:
        answers: answer of each sample, None where none can be read.
        is_correct: 1 right, 0 wrong, of each.
        k: samples that vote.
    """
    n = len(answers)
    if k < 1:
        raise InputError(f"maj@{k}; expected k >= 1")
    if k > n:
        return float("nan")
    named = clusters(answers)
    sizes = Counter(named)
    right = {c for c, flag in zip(named, is_correct, strict=True) if flag == 1.0}
    won = 0.0
    for cluster in sorted(right, key=repr):
        others = [size for c, size in sizes.items() if c != cluster]
        won += sum(_wins(sizes[cluster], others, votes, k) for votes in range(1, min(k, sizes[cluster]) + 1))
    return min(1.0, won / float(comb(n, k)))


def _wins(own: int, others: Sequence[int], votes: int, k: int) -> float:
    """Subsets of k in which a cluster has `votes` votes and none has more, each weighted by 1 / clusters at the top."""
    rest = k - votes
    ways = np.zeros((rest // votes + 1, rest + 1))  # [clusters tied, votes given to the others]
    ways[0, 0] = 1.0
    for size in others:
        ways = _with(ways, size, votes)
    return float(comb(own, votes)) * float((ways[:, rest] / np.arange(1, len(ways) + 1)).sum())


def _with(ways: np.ndarray, size: int, votes: int) -> np.ndarray:
    """The ways with one more cluster of `size` samples, which gets fewer than `votes` of them or ties."""
    n = ways.shape[1]
    new = ways.copy()  # none of its samples
    for given in range(1, min(size, votes, n - 1) + 1):
        times = float(comb(size, given))
        if given < votes:
            new[:, given:] += times * ways[:, : n - given]
        else:
            new[1:, given:] += times * ways[:-1, : n - given]
    return new
