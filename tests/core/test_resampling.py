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


def test_a_subsample_takes_half_of_each_stratum_and_no_item_twice():
    strata = np.array(["a"] * 9 + ["b"] * 4)
    kept = stats.subsamples(13, 50, 0, strata)
    assert kept.dtype == bool and (kept[:, :9].sum(1) == 5).all() and (kept[:, 9:].sum(1) == 2).all()
    assert (stats.subsamples(13, 50, 0, strata) == kept).all() and len(np.unique(kept, axis=0)) > 10


def test_the_interval_of_subsamples_is_that_of_a_mean():
    """The spread of means of half the items, none twice, is the standard error of the mean of all."""
    x = np.random.default_rng(1).normal(size=400)
    kept = stats.subsamples(400, 4000, 2)
    values = np.concatenate([[x.mean()], (kept * x).sum(1) / kept.sum(1)])[:, None]
    low, high = stats.subsample_interval(values, kept)[:, 0]
    assert (high - low) / 2 == pytest.approx(1.96 * x.std() / np.sqrt(400), rel=0.05)
    assert (low + high) / 2 == pytest.approx(x.mean())


def test_a_statistic_of_pairs_lies_in_its_interval_and_in_no_bootstraps():
    """Mean distance between two samples of one distribution: doubles of an item lower it in every bootstrap draw."""
    x = np.random.default_rng(3).normal(size=(20, 30))
    gaps = np.linalg.norm(x[:, None] - x[None], axis=-1)

    def spread(w):
        return (w @ gaps * w).sum(1) / w.sum(1) ** 2

    counts = stats.resample_counts(20, 500, 4)
    assert spread(np.ones((1, 20)))[0] > np.quantile(spread(counts), 0.975)
    kept = stats.subsamples(20, 500, 4)
    values = np.concatenate([spread(np.ones((1, 20))), spread(kept.astype(float))])[:, None]
    low, high = stats.subsample_interval(values, kept)[:, 0]
    assert low < values[0, 0] < high
