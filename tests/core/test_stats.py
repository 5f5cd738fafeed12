"""Statistics against SciPy, closed forms, and null models with known rates."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from analyses.core import stats
from probe.errors import InputError


@pytest.fixture
def rng():
    return np.random.default_rng(7)


# ---- intervals


def test_bootstrap_mean_agrees_with_scipy(rng):
    x = rng.gamma(2.0, size=60)
    ours = stats.bootstrap_mean(x, seed=1, draws=20_000)
    theirs = scipy_stats.bootstrap((x,), np.mean, n_resamples=20_000, method="percentile", rng=2)
    assert ours.value == pytest.approx(x.mean())
    assert ours.ci_low == pytest.approx(theirs.confidence_interval.low, abs=0.02)
    assert ours.ci_high == pytest.approx(theirs.confidence_interval.high, abs=0.02)
    assert ours.n == 60


def test_weighted_mean_is_a_ratio_of_sums(rng):
    """Items [ln2], [ln8] x 3: the micro mean of exp is 5.656854 and the macro mean exp is 4."""
    nll, tokens = np.array([np.log(2), 3 * np.log(8)]), np.array([1.0, 3.0])
    micro = stats.bootstrap_ratio(nll, tokens, seed=0)
    weighted = stats.bootstrap_mean(nll / tokens, weights=tokens, seed=0)
    macro = stats.bootstrap_mean(nll / tokens, seed=0)
    assert np.exp(micro.value) == pytest.approx(5.656854, abs=1e-6)
    assert np.exp(macro.value) == pytest.approx(4.0)
    for part in ("value", "ci_low", "ci_high"):
        assert getattr(weighted, part) == pytest.approx(getattr(micro, part))


def test_one_resample_serves_all_cells(rng):
    """Two identical cells differ by exactly 0 in every draw, so their intervals are equal."""
    x = rng.normal(size=40)
    both = stats.bootstrap_mean(np.stack([x, x, x + 1], 1), seed=3)
    assert both.ci_low[0] == both.ci_low[1]
    assert both.ci_low[2] == pytest.approx(both.ci_low[0] + 1)


def test_cells_beyond_one_block_are_the_same(rng, monkeypatch):
    x = rng.normal(size=(12, 9))
    whole = stats.bootstrap_mean(x, seed=0)
    monkeypatch.setattr(stats, "CELLS_AT_ONCE", 2)
    np.testing.assert_allclose(stats.bootstrap_mean(x, seed=0).ci_high, whole.ci_high, rtol=0, atol=1e-12)


def test_not_measured_is_left_out(rng):
    x = rng.normal(size=(5, 3))
    x[1:, 1], x[:, 2] = np.nan, np.nan
    out = stats.bootstrap_mean(x, seed=0)
    assert out.n.tolist() == [5, 1, 0]
    assert out.value[1] == x[0, 1] and np.isnan(out.value[2])
    assert np.isnan(out.ci_low[1:]).all() and np.isfinite(out.ci_low[0])


def test_one_item_has_no_interval():
    out = stats.bootstrap_mean(np.array([2.0]), seed=0)
    assert (out.value, out.n) == (2.0, 1) and np.isnan(out.ci_low) and np.isnan(out.ci_high)


def test_interval_covers_the_truth_of_clustered_rows():
    """20 correlated tokens per item: resampling items covers the truth, resampling tokens does not."""
    covered = {"items": 0, "tokens": 0}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        rows = rng.normal(size=(40, 1)) + 0.3 * rng.normal(size=(40, 20))
        table = pd.DataFrame({"item": np.repeat(np.arange(40), 20), "x": rows.ravel()})
        data = stats.estimate(table, "x", draws=400, seed=seed)
        covered["items"] += bool(data.x_ci_low <= 0 <= data.x_ci_high)
        wrong = stats.estimate(table.assign(item=np.arange(len(table))), "x", draws=100, seed=seed)
        covered["tokens"] += bool(wrong.x_ci_low <= 0 <= wrong.x_ci_high)
    assert covered["items"] >= 0.88 * 200  # percentile intervals at n = 40 cover about .93
    assert covered["tokens"] < 0.5 * 200


# ---- estimate()


def toy_table():
    return pd.DataFrame(
        {
            "item": ["a", "a", "b", "b", "c", "a"],
            "group": ["x", "x", "y", "y", "y", "x"],
            "layer": [0, 1, 0, 1, 0, 0],
            "nll": [1.0, 2.0, 3.0, np.nan, 5.0, 3.0],
            "tokens": [1, 1, 1, 1, 3, 1],
        }
    )


def test_estimate_has_named_dims_and_companions():
    data = stats.estimate(toy_table(), "nll", ["group", "layer"], units="nats", name="q")
    assert set(data.data_vars) == {"q", "q_ci_low", "q_ci_high", "q_n"}
    assert data.q.dims == ("group", "layer") and data.q.attrs == {"units": "nats", "long_name": "q"}
    assert data.q.sel(group="x", layer=0) == 2.0  # macro: rows 1 and 3 of item a are one number
    assert data.q.sel(group="y", layer=0) == 4.0
    assert np.isnan(data.q.sel(group="y", layer=1)) and data.q_n.sel(group="y", layer=1) == 0
    assert data.q_n.values.tolist() == [[1, 1], [2, 0]]


def test_estimate_per_is_micro():
    data = stats.estimate(toy_table(), "nll", ["layer"], per="tokens")
    assert data.nll.sel(layer=0) == pytest.approx((1 + 3 + 3 + 5) / (1 + 1 + 1 + 3))


def test_estimate_weight_is_weighted_mean():
    data = stats.estimate(toy_table(), "nll", ["layer"], weight="tokens")
    assert data.nll.sel(layer=0) == pytest.approx((1 + 3 + 3 + 15) / 6)


def test_estimate_ignores_row_order(rng):
    table = pd.DataFrame(
        {"item": rng.integers(0, 30, 300), "layer": rng.integers(0, 4, 300), "v": rng.normal(size=300)}
    )
    one = stats.estimate(table, "v", ["layer"], seed=5)
    other = stats.estimate(table.sample(frac=1, random_state=1), "v", ["layer"], seed=5)
    for name in one.data_vars:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=1e-12)


def test_estimate_resamples_within_groups(rng):
    """A group that is constant has an interval of width 0 whatever the other does, and keeps its n."""
    table = pd.DataFrame(
        {"item": range(40), "group": ["x"] * 10 + ["y"] * 30, "v": [1.0] * 10 + [*rng.normal(size=30)]}
    )
    data = stats.estimate(table, "v", ["group"])
    assert data.v_ci_low.sel(group="x") == data.v_ci_high.sel(group="x") == 1.0
    assert data.v_n.values.tolist() == [10, 30]


def test_estimate_without_by_is_a_scalar():
    data = stats.estimate(toy_table(), "nll")
    assert data.nll.dims == () and int(data.nll_n) == 3


def test_estimate_names_a_missing_column():
    with pytest.raises(InputError, match=r"no column.*'site'"):
        stats.estimate(toy_table(), "nll", ["site"])


# ---- tests


def test_mcnemar_closed_forms():
    assert stats.mcnemar_exact(19, 0) == pytest.approx(3.8147e-6, rel=1e-4)
    assert stats.mcnemar_exact(6, 0) == pytest.approx(0.03125)
    assert stats.mcnemar_exact(0, 0) == 1.0
    assert stats.mcnemar_exact(3, 5) == stats.mcnemar_exact(5, 3)


def test_wilson_upper_bounds_of_zero_events():
    assert stats.wilson(0, 30).ci_high == pytest.approx(0.114, abs=5e-4)
    assert stats.wilson(0, 100).ci_high == pytest.approx(0.037, abs=5e-4)
    assert np.isnan(stats.wilson(0, 0).value)
    with pytest.raises(InputError):
        stats.wilson(3, 2)


def test_holm_steps_down_and_skips_unmade_tests():
    assert stats.holm([0.01, 0.04, np.nan, 0.03]) == pytest.approx([0.03, 0.06, np.nan, 0.06], nan_ok=True)


def test_sign_flip_is_exact_when_small():
    assert stats.sign_flip(np.array([1.0, 2, 3, 4, 5, 6])) == pytest.approx(2 / 64)
    assert stats.sign_flip(np.zeros(8)) == 1.0
    assert stats.sign_flip(np.array([3.0])) == 1.0
    assert np.isnan(stats.sign_flip(np.array([np.nan])))


def test_two_sample_t_is_welch(rng):
    x = rng.normal(size=(17, 4)) + 1e6
    first = np.arange(17) < 6
    ours = stats.two_sample_t(x, first[None].astype(float), (~first)[None].astype(float))
    theirs = scipy_stats.ttest_ind(x[first], x[~first], equal_var=False).statistic
    np.testing.assert_allclose(ours[0], theirs, rtol=1e-5)


def test_constant_curves_have_statistic_zero(rng):
    """Exactly 0 for both groups, or the same constant up to rounding, is no evidence; a clean split is."""
    first = np.arange(12) < 6
    x = np.stack([np.zeros(12), np.full(12, 0.1), np.full(12, 0.1) + 1e-17, np.where(first, 1.0, 0.0)], 1)
    out = stats.permutation_max_t(x, first, draws=200)
    assert out.t[:3].tolist() == [0, 0, 0] and np.isinf(out.t[3])
    assert out.p_cell[0] == 1.0
    zero = stats.permutation_max_t(np.zeros((12, 5)), first, draws=200)
    assert zero.p == 1.0 and (zero.t == 0).all()


def test_permutation_max_t_agrees_with_scipy_on_one_cell(rng):
    x, first = rng.normal(size=16), np.arange(16) < 8
    x[first] += 1.0
    ours = stats.permutation_max_t(x[:, None], first, draws=20_000, alternative="greater")
    welch = lambda a, b, axis: scipy_stats.ttest_ind(a, b, equal_var=False, axis=axis).statistic  # noqa: E731
    theirs = scipy_stats.permutation_test(
        (x[first], x[~first]), welch, vectorized=True, alternative="greater", n_resamples=np.inf
    )
    assert ours.p == pytest.approx(theirs.pvalue, abs=4 * np.sqrt(theirs.pvalue / 20_000) + 1e-4)


def test_permutation_keeps_strata():
    first = np.array([1, 1, 0, 0, 1, 0, 0, 0], bool)
    strata = np.array(["a"] * 4 + ["b"] * 4)
    labels = stats.permuted_labels(first, 500, 0, strata)
    assert (labels[:, :4].sum(1) == 2).all() and (labels[:, 4:].sum(1) == 1).all()
    assert stats.n_arrangements(first, strata) == 6 * 4
    assert len(np.unique(labels, axis=0)) == 24


def test_a_group_difference_that_is_only_the_stratum_is_not_found():
    rng = np.random.default_rng(0)
    strata = np.repeat([0, 1], 40)
    first = np.concatenate([np.arange(40) < 32, np.arange(40) < 8])
    x = strata[:, None] * -2.0 + rng.normal(size=(80, 3))
    assert stats.permutation_max_t(x, first, draws=500).p < 0.01
    assert stats.permutation_max_t(x, first, strata=strata, draws=500).p > 0.05


def test_max_t_false_positive_rate_over_cells():
    """Null over 12 correlated cells: the corrected p is uniform, the smallest uncorrected one is not."""
    rejected = {"max_t": 0, "sign": 0}
    for seed in range(300):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(24, 12)) + rng.normal(size=(24, 1))
        rejected["max_t"] += stats.permutation_max_t(x, np.arange(24) < 12, draws=200, seed=seed).p <= 0.05
        rejected["sign"] += stats.sign_flip_max_t(x, draws=200, seed=seed).p <= 0.05
    limit = scipy_stats.binom.ppf(0.999, 300, 0.05)
    assert rejected["max_t"] <= limit and rejected["sign"] <= limit


def test_planted_cell_is_found(rng):
    x = rng.normal(size=(40, 9))
    first = np.arange(40) < 20
    x[first, 4] += 1.5
    out = stats.permutation_max_t(x, first, draws=500)
    assert out.argmax == 4 and out.p < 0.01 and out.p_cell.argmin() == 4
    paired = stats.sign_flip_max_t(x[first], draws=500, alternative="greater")
    assert paired.argmax == 4 and paired.p < 0.01


def test_too_few_items_says_how_many_are_needed():
    with pytest.raises(InputError, match="at least 2 items each"):
        stats.permutation_max_t(np.zeros((5, 2)), np.arange(5) < 1)
    with pytest.raises(InputError, match="at least 3 items per group"):
        stats.permutation_max_t(np.zeros((4, 2)), np.arange(4) < 2)
    with pytest.raises(InputError, match="at least 6"):
        stats.sign_flip_max_t(np.zeros((4, 2)))


# ---- differences


def test_paired_difference_of_equal_arrays_is_zero(rng):
    x = rng.normal(size=(9, 2))
    out = stats.paired_difference(x, x, seed=0)
    assert (out.value == 0).all() and (out.ci_low == 0).all() and (out.ci_high == 0).all()


def test_group_difference_agrees_with_scipy(rng):
    x, first = rng.normal(size=50), np.arange(50) < 20
    ours = stats.group_difference(x, first, seed=0, draws=20_000)
    theirs = scipy_stats.bootstrap(
        (x[first], x[~first]), lambda a, b, axis: a.mean(axis) - b.mean(axis), n_resamples=20_000,
        method="percentile", rng=1,
    ).confidence_interval  # fmt: skip
    assert ours.value == pytest.approx(x[first].mean() - x[~first].mean()) and ours.n == 20
    assert (ours.ci_low, ours.ci_high) == (
        pytest.approx(theirs.low, abs=0.02),
        pytest.approx(theirs.high, abs=0.02),
    )


# ---- where


def test_bootstrap_argmax_is_sure_of_a_clear_peak_and_unsure_of_a_flat_curve(rng):
    x, first = rng.normal(size=(60, 8)), np.arange(60) < 30
    flat = stats.bootstrap_argmax(x, first, draws=400)
    assert np.bincount(flat, minlength=8).max() < 0.9 * 400
    x[first, 5] += 2
    assert (stats.bootstrap_argmax(x, first, draws=400) == 5).mean() > 0.95
    assert (stats.bootstrap_argmax(x, first, draws=400, studentise=False) == 5).mean() > 0.95
    assert (stats.bootstrap_argmax(x[first], draws=400) == 5).mean() > 0.95


def test_change_points_closed_form():
    assert stats.change_points(np.r_[np.zeros(10), np.ones(5)]) == (10,)
    assert stats.change_points(np.zeros(15)) == ()
    assert stats.change_points(np.r_[np.zeros(6), np.ones(5), np.zeros(6)]) == (6, 11)
    with pytest.raises(InputError, match="NaN"):
        stats.change_points(np.array([0.0, np.nan, 1.0]))


def test_change_points_of_noise_are_few():
    found = [len(stats.change_points(np.random.default_rng(s).normal(size=28))) for s in range(40)]
    assert np.mean(np.array(found) > 0) < 0.35


def test_same_seed_same_numbers(rng):
    x = rng.normal(size=(20, 6))
    first = np.arange(20) < 10
    one, two = (stats.permutation_max_t(x, first, seed=4, draws=100) for _ in range(2))
    assert one.p == two.p and np.array_equal(one.null, two.null)
    assert np.array_equal(stats.resample_counts(9, 50, 1), stats.resample_counts(9, 50, 1))
