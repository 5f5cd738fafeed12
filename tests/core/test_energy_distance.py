"""Distances between two groups of vectors: against their definitions, and unbiased where that is claimed."""

from itertools import combinations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from analyses.states import _energy_distance as energy_distance


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_split_half_is_the_mean_over_all_halves(rng):
    """Every way to halve both groups of four, averaged, equals the closed form."""
    x = rng.normal(size=(8, 5))
    first = np.arange(8) < 4
    closed = energy_distance.split_half(x @ x.T, first[None], ~first[None])[0]
    halves = [
        (x[list(a)].mean(0) - x[list(b)].mean(0)) @ (x[list(a2)].mean(0) - x[list(b2)].mean(0))
        for a in combinations(range(4), 2)
        for b in combinations(range(4, 8), 2)
        for a2 in [sorted(set(range(4)) - set(a))]
        for b2 in [sorted(set(range(4, 8)) - set(b))]
    ]
    assert closed == pytest.approx(np.mean(halves))


def test_split_half_is_unbiased_where_force_is_not(rng):
    found = {"squared": [], "naive": []}
    for _ in range(400):
        x = rng.normal(size=(12, 20))
        first = np.arange(12) < 6
        x[first, 0] += 1.0
        gram = x @ x.T
        found["squared"].append(energy_distance.split_half(gram, first[None], ~first[None])[0])
        stats = energy_distance.layer_statistics(gram, first[None].astype(float), ~first[None].astype(bool))
        found["naive"].append(stats["force"][0] ** 2)
    error = np.std(found["squared"]) / 20
    assert np.mean(found["squared"]) == pytest.approx(1.0, abs=4 * error)
    assert np.mean(found["naive"]) > 4.0  # 1 + 20 (1/6 + 1/6)


def test_energy_distance_by_definition(rng):
    x, first = rng.normal(size=(11, 4)), np.arange(11) < 5
    a, b = x[first], x[~first]
    expected = 2 * cdist(a, b).mean() - cdist(a, a).mean() - cdist(b, b).mean()
    assert energy_distance.energy(x @ x.T, first[None], ~first[None])[0] == pytest.approx(expected)
