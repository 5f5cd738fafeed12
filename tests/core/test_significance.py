"""Tests and peaks: closed forms, SciPy on one cell, false-positive rates over many, planted cells found."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analyses.core import stats
from analyses.entropy import _serial as serial
from probe.errors import InputError
from tests.planted import ar1


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_mcnemar_closed_forms():
    assert stats.mcnemar_exact(19, 0) == pytest.approx(3.8147e-6, rel=1e-4)
    assert stats.mcnemar_exact(6, 0) == pytest.approx(0.03125)
    assert stats.mcnemar_exact(0, 0) == 1.0
    assert stats.mcnemar_exact(3, 5) == stats.mcnemar_exact(5, 3)


def test_holm_steps_down_and_skips_unmade_tests():
    assert stats.holm([0.01, 0.04, np.nan, 0.03]) == pytest.approx([0.03, 0.06, np.nan, 0.06], nan_ok=True)


def test_sign_flip_is_exact_when_small():
    assert stats.sign_flip(np.array([1.0, 2, 3, 4, 5, 6])) == pytest.approx(2 / 64)
    assert stats.sign_flip(np.zeros(8)) == 1.0
    assert stats.sign_flip(np.array([3.0])) == 1.0
    assert np.isnan(stats.sign_flip(np.array([np.nan])))


def test_constant_curves_have_statistic_zero(rng):
    """Exactly 0 for both groups, or the same constant up to rounding, is no evidence; a clean split is."""
    first = np.arange(12) < 6
    x = np.stack([np.zeros(12), np.full(12, 0.1), np.full(12, 0.1) + 1e-17, np.where(first, 1.0, 0.0)], 1)
    out = stats.group_max_t(x, first, draws=200)
    assert out.t[:3].tolist() == [0, 0, 0] and out.t[3] > 3
    assert out.p_cell[0] == 1.0
    zero = stats.group_max_t(np.zeros((12, 5)), first, draws=200)
    assert zero.p == 1.0 and (zero.t == 0).all()


def test_max_t_of_one_cell_agrees_with_welch(rng):
    x, first = rng.normal(size=60), np.arange(60) < 25
    x[first] += 0.5
    ours = stats.group_max_t(x[:, None], first, draws=20_000)
    theirs = scipy_stats.ttest_ind(x[first], x[~first], equal_var=False)
    assert ours.t[0] == pytest.approx(theirs.statistic)
    assert ours.p == pytest.approx(theirs.pvalue, abs=0.01)
    low, high = theirs.confidence_interval()
    assert (ours.low[0], ours.high[0]) == (pytest.approx(low, abs=0.05), pytest.approx(high, abs=0.05))
    one = stats.mean_max_t(x[:, None], draws=20_000)
    assert one.p == pytest.approx(scipy_stats.ttest_1samp(x, 0).pvalue, abs=0.01)


@pytest.mark.parametrize("sizes", [(8, 80), (80, 8), (16, 160), (24, 24)])
def test_equal_means_of_unequal_spread_size_and_skew_are_no_difference(sizes):
    """The small group three times as variable, both log-normal: a permutation of labels finds this in .2 to .6."""
    found = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        x = np.exp(0.7 * (rng.normal(size=(sum(sizes), 12)) + rng.normal(size=(sum(sizes), 1)))) - np.exp(0.49)
        first = np.arange(len(x)) < sizes[0]
        x[first] *= 3.0
        found += stats.group_max_t(x, first, draws=200, seed=seed).p <= 0.05
    assert found <= scipy_stats.binom.ppf(0.999, 100, 0.05)


def test_intervals_hold_for_all_cells_together_and_agree_with_p(rng):
    x, first = rng.normal(size=(40, 30)), np.arange(40) < 20
    x[first, 3] += 2.0
    out = stats.group_max_t(x, first, draws=500)
    leaves_out = (out.low > 0) | (out.high < 0)
    assert leaves_out.tolist() == (out.p_cell < 0.05).tolist() and leaves_out[3]
    assert ((out.low <= out.value) & (out.value <= out.high)).all()


def test_clusters_are_the_units_of_a_max_t(rng):
    """Copies of an item add nothing."""
    x, first = rng.normal(size=(20, 5)), np.arange(20) < 10
    alone = stats.group_max_t(x, first, draws=300)
    copied = stats.group_max_t(
        np.repeat(x, 4, 0), np.repeat(first, 4), clusters=[f"{i:02d}" for i in np.repeat(range(20), 4)], draws=300
    )
    assert copied.t == pytest.approx(alone.t)
    assert stats.mean_max_t(np.repeat(x, 4, 0), clusters=np.repeat(range(10, 30), 4)).t == pytest.approx(
        stats.mean_max_t(x).t
    )


def test_a_group_difference_that_is_only_the_stratum_is_not_found():
    rng = np.random.default_rng(0)
    strata = np.repeat([0, 1], 40)
    first = np.concatenate([np.arange(40) < 32, np.arange(40) < 8])
    x = strata[:, None] * -2.0 + rng.normal(size=(80, 3))
    assert stats.group_max_t(x, first, draws=500).p < 0.01
    assert stats.group_max_t(x, first, strata=strata, draws=500).p > 0.05


def test_max_t_false_positive_rate_over_cells():
    """Null over 12 correlated cells: the corrected p is uniform, the smallest uncorrected one is not."""
    rejected = {"max_t": 0, "sign": 0}
    for seed in range(300):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(24, 12)) + rng.normal(size=(24, 1))
        rejected["max_t"] += stats.group_max_t(x, np.arange(24) < 12, draws=200, seed=seed).p <= 0.05
        rejected["sign"] += stats.mean_max_t(x, draws=200, seed=seed).p <= 0.05
    limit = scipy_stats.binom.ppf(0.999, 300, 0.05)
    assert rejected["max_t"] <= limit and rejected["sign"] <= limit


def test_planted_cell_is_found(rng):
    x = rng.normal(size=(40, 9))
    first = np.arange(40) < 20
    x[first, 4] += 1.5
    out = stats.group_max_t(x, first, draws=500)
    assert out.argmax == 4 and out.p < 0.01 and out.p_cell.argmin() == 4
    paired = stats.mean_max_t(x[first], draws=500, alternative="greater")
    assert paired.argmax == 4 and paired.p < 0.01


def test_too_few_items_says_how_many_are_needed():
    with pytest.raises(InputError, match=r"groups of 4 and 6 items: .* at least 5"):
        stats.group_max_t(np.zeros((10, 2)), np.arange(10) < 4)
    with pytest.raises(InputError, match="at least 5"):
        stats.mean_max_t(np.zeros((4, 2)))


def test_change_points_closed_form():
    assert stats.change_points(np.r_[np.zeros(10), np.ones(5)]) == (10,)
    assert stats.change_points(np.zeros(15)) == ()
    assert stats.change_points(np.r_[np.zeros(6), np.ones(5), np.zeros(6)]) == (6, 11)
    with pytest.raises(InputError, match="NaN"):
        stats.change_points(np.array([0.0, np.nan, 1.0]))


def test_change_points_of_noise_are_few():
    found = [len(stats.change_points(np.random.default_rng(s).normal(size=28))) for s in range(40)]
    assert np.mean(np.array(found) > 0) < 0.35


def test_the_interval_of_a_correlation_of_persistent_series_covers() -> None:
    """Two unrelated series of persistence .8: Fisher's plain interval leaves out 0 in a quarter of them."""
    found = np.array([serial.correlation(*ar1(np.random.default_rng(s), (2, 24), 0.8)) for s in range(300)])
    assert ((found[:, 1] <= 0) & (found[:, 2] >= 0)).mean() > 0.9
    plain = 1.96 / np.sqrt(21)
    assert (np.abs(np.arctanh(found[:, 0])) < plain).mean() < 0.85
    line = np.arange(9.0)
    assert serial.correlation(line, 2 * line) == (1.0, 1.0, 1.0)
    assert (
        np.isnan(serial.correlation(line, np.ones(9))).all() and np.isnan(serial.correlation(line[:3], line[:3])).all()
    )


def test_a_cell_without_spread_is_found_and_silences_no_other(rng: np.random.Generator) -> None:
    """All items alike, or all but one: drawn again such a cell has no spread, and its statistic no end."""
    values = rng.normal(0, 0.1, (24, 6))
    values[:, 0] = 0.5
    values[:, 1] = 0.4
    values[0, 1] = 0.1
    values[:, 2] += 0.3
    values[:, 5] = 0.0
    found = stats.mean_max_t(values)
    assert (found.p_cell[:3] < 0.01).all() and found.p_cell[5] == 1.0
    assert (found.low[:3] > 0).all() and (found.low[:3] < found.value[:3]).all() and (found.high[:3] < 1).all()
    assert found.low[5] == found.high[5] == 0.0
    false = sum(stats.mean_max_t(_rarely(np.random.default_rng(k)), draws=400).p < 0.05 for k in range(200))
    assert false <= 14  # 5 % expected, 7 % allowed


def test_many_cells_of_rare_effects_leave_the_others_their_intervals(rng: np.random.Generator) -> None:
    """In a draw without any of a cell's few items its t had no end, and with enough such cells no interval had one."""
    values = rng.normal(size=(64, 40)) * (rng.random((64, 40)) < 0.1)
    values[:, 3] = rng.normal(2, 0.5, 64)
    found = stats.mean_max_t(values)
    assert np.isfinite(found.low).all() and np.isfinite(found.high).all()
    assert found.low[3] > 0 and ((found.low <= 0) & (found.high >= 0)).sum() >= 38
    first = np.arange(64) < 32
    values[first, 3] += 4
    pair = stats.group_max_t(values, first)
    assert np.isfinite(pair.high).all() and pair.low[3] > 0


def _rarely(rng: np.random.Generator) -> np.ndarray:
    """Cells of mean 0: two of noise, two in which few items are not 0, of either sign."""
    values = rng.normal(0, 0.1, (24, 4))
    values[:, 2:] = rng.choice([-0.5, 0.0, 0.5], (24, 2), p=[0.04, 0.92, 0.04])
    return values
