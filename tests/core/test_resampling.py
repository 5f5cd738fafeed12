"""Draws: strata kept, every relabelling reached, Welch's t for all draws at once, the same under a seed."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analyses.core import stats


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_two_sample_t_is_welch(rng):
    x = rng.normal(size=(17, 4)) + 1e6
    first = np.arange(17) < 6
    ours = stats.two_sample_t(x, first[None].astype(float), (~first)[None].astype(float))
    theirs = scipy_stats.ttest_ind(x[first], x[~first], equal_var=False).statistic
    np.testing.assert_allclose(ours[0], theirs, rtol=1e-5)


def test_permutation_keeps_strata():
    first = np.array([1, 1, 0, 0, 1, 0, 0, 0], bool)
    strata = np.array(["a"] * 4 + ["b"] * 4)
    labels = stats.permuted_labels(first, 500, 0, strata)
    assert (labels[:, :4].sum(1) == 2).all() and (labels[:, 4:].sum(1) == 1).all()
    assert stats.n_arrangements(first, strata) == 6 * 4
    assert len(np.unique(labels, axis=0)) == 24


def test_same_seed_same_numbers(rng):
    x = rng.normal(size=(20, 6))
    first = np.arange(20) < 10
    one, two = (stats.group_max_t(x, first, seed=4, draws=100) for _ in range(2))
    assert one.p == two.p and np.array_equal(one.null, two.null)
    assert np.array_equal(stats.resample_counts(9, 50, 1), stats.resample_counts(9, 50, 1))
