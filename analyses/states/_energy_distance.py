"""How far two groups of vectors are apart, as quadratic forms in the items' Gram matrix.

Every statistic takes rows of item weights (0/1 labels or bootstrap counts), so that all permutations and all
bootstrap draws are matrix products whose cost does not depend on the dimension. Never imports torch.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray


def layer_statistics(gram: Array, first: Array, second: Array) -> dict[str, Array]:
    """Each statistic for every row of item weights, from the Gram matrix of the updates."""
    a, b = mean_weights(first, second)
    norms = [norm(gram, w, 0.0) for w in (a, b)]
    force = norm(gram, a, b)
    scale = (norms[0] + norms[1]) / 2
    return {
        "force": force,
        "force_relative": np.divide(force, scale, out=np.full_like(force, np.nan), where=scale > 0),
        "force_squared": split_half(gram, first, second),
        "velocity_difference": np.abs(norms[0] - norms[1]),
        "energy_distance": energy(gram, first, second),
    }


def mean_weights(first: Array, second: Array) -> tuple[Array, Array]:
    return first / first.sum(1, keepdims=True), second / second.sum(1, keepdims=True)


def norm(gram: Array, a: Array, b: Array | float) -> Array:
    """|sum_i (a_i - b_i) x_i| for each row of weights."""
    w = a - b
    return np.sqrt(np.maximum(((w @ gram) * w).sum(1), 0.0))


def split_half(gram: Array, first: Array, second: Array) -> Array:
    """Unbiased squared distance of the groups' means for each row of item weights.

    The mean over all split halves leaves every pair of *different* items of a group with equal weight, so it is the
    sum of the Gram matrix without its diagonal; an item drawn twice is not a pair.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    own = np.diag(gram)
    parts: list[Array] = []
    for w in (first, second):
        pairs = w.sum(1) ** 2 - (w**2).sum(1)
        total = ((w @ gram) * w).sum(1) - (w**2) @ own
        parts.append(np.divide(total, pairs, out=np.full(len(w), np.nan), where=pairs > 0))
    cross = ((first @ gram) * second).sum(1) / (first.sum(1) * second.sum(1))
    return parts[0] + parts[1] - 2 * cross


def variance_of_means(gram: Array, first: Array, second: Array) -> Array:
    """tr(S_A) / n_A + tr(S_B) / n_B of the groups that each row of labels makes: how far their means lie by chance.

    A squared distance over this is compared between labellings that give the groups other spreads (a studentised
    permutation test): without it, a small group that scatters more is called apart.
    """
    own, parts = np.diag(gram), list[Array]()
    for w in (np.asarray(first, float), np.asarray(second, float)):
        n = w.sum(1)
        squares, of_mean = w @ own, ((w @ gram) * w).sum(1) / n
        parts.append(np.divide(squares - of_mean, n * (n - 1), out=np.full(len(w), np.nan), where=n > 1))
    return parts[0] + parts[1]


def energy(gram: Array, first: Array, second: Array) -> Array:
    """Energy distance for each row of item weights; >= 0, and 0 only for equal distributions."""
    own = np.diag(gram)
    gaps = np.sqrt(np.maximum(own[:, None] + own[None] - 2 * gram, 0.0))
    np.fill_diagonal(gaps, 0.0)  # rounding leaves a small distance of an item to itself
    w = mean_weights(first, second)
    w = w[0] - w[1]
    return np.maximum(-((w @ gaps) * w).sum(1), 0.0)
