"""How different responses to one prompt are: n-grams, answers, effective number of modes. Never imports torch.

Clusters are made by `reading.votes.clusters`; `f` is a cluster's share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float


def frequencies(answers: Sequence[Hashable]) -> Float[np.ndarray, " cluster"]:
    """Share of each distinct answer; empty for none."""
    counts = np.array(list(Counter(answers).values()), float)
    return counts / counts.sum() if len(counts) else counts


def semantic_entropy_nats(f: Float[np.ndarray, " cluster"]) -> float:
    """-sum f ln f: 0 for one cluster, ln G for G equal ones; NaN for none."""
    return float(-(f * np.log(f)).sum()) + 0.0 if len(f) else float("nan")


def modes(f: Float[np.ndarray, " cluster"]) -> float:
    """Effective number of modes 1 / sum f^2 (inverse Simpson), in [1, G]; NaN for none."""
    return float(1 / (f**2).sum()) if len(f) else float("nan")


def distinct_n(texts: Sequence[Sequence[str]], n: int) -> float:
    """Distinct n-grams / n-grams over all responses; NaN where none is that long."""
    grams = [gram for words in texts for gram in _grams(words, n)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def self_bleu(texts: Sequence[Sequence[str]], order: int = 4) -> float:
    """Mean BLEU of each response with the others as references, in [0, 1]: 1 where all are equal; NaN for fewer than 2.

    n-gram precisions up to ``order`` (up to the response's length, where it is shorter), geometric mean, brevity
    penalty against the nearest reference length, no smoothing: a response that shares no n-gram of some order gets 0.
    """
    if len(texts) < 2:
        return float("nan")
    return float(
        np.mean([_bleu(words, [t for j, t in enumerate(texts) if j != i], order) for i, words in enumerate(texts)])
    )


def _bleu(words: Sequence[str], references: Sequence[Sequence[str]], order: int) -> float:
    if not words:
        return 0.0
    logs: list[float] = []
    for n in range(1, min(order, len(words)) + 1):
        own = Counter(_grams(words, n))
        best: Counter[tuple[str, ...]] = Counter()
        for reference in references:
            best |= Counter(_grams(reference, n))
        shared = sum((own & best).values())
        if shared == 0:
            return 0.0
        logs.append(np.log(shared / sum(own.values())))
    nearest = min((len(r) for r in references), key=lambda length: (abs(length - len(words)), length))
    brevity = min(0.0, 1 - nearest / len(words))
    return float(np.exp(brevity + np.mean(logs)))


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
