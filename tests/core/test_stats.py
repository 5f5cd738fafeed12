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


def test_wilson_upper_bounds_of_zero_events():
    assert stats.wilson(0, 30).ci_high == pytest.approx(0.114, abs=5e-4)
    assert stats.wilson(0, 100).ci_high == pytest.approx(0.037, abs=5e-4)
    assert np.isnan(stats.wilson(0, 0).value)
    with pytest.raises(InputError):
        stats.wilson(3, 2)


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
