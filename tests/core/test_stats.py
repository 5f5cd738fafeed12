"""Statistics against SciPy, closed forms, and null models with known rates."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.proportion import confint_proportions_2indep

from analyses.core import stats
from analyses.core.stats import estimates, resampling
from probe.errors import InputError


@pytest.fixture
def rng():
    return np.random.default_rng(7)


# ---- intervals


def test_intervals_are_those_of_scipy_where_nothing_is_skewed(rng):
    x = rng.normal(size=400)
    x = np.concatenate([x, -x]) + 3  # symmetric: skewness 0
    ours = stats.mean_of_items(x)
    theirs = scipy_stats.ttest_1samp(x, 0).confidence_interval()
    assert (ours.ci_low, ours.ci_high) == (pytest.approx(theirs.low), pytest.approx(theirs.high))
    assert (ours.value, ours.n) == (pytest.approx(3), 800)
    hits = np.arange(20) < 17
    exact = scipy_stats.binomtest(17, 20).proportion_ci(method="exact")
    ours = stats.mean_of_items(hits.astype(float))
    assert (ours.ci_low, ours.ci_high) == (pytest.approx(exact.low), pytest.approx(exact.high))
    many = stats.mean_of_items((np.arange(200) < 170).astype(float))
    wilson = stats.wilson(170, 200)
    assert (many.ci_low, many.ci_high) == (pytest.approx(wilson.ci_low), pytest.approx(wilson.ci_high))


@pytest.mark.parametrize(
    ("name", "draw", "truth"),
    [
        ("normal", lambda r, s: r.normal(size=s), 0.0),
        ("exponential", lambda r, s: r.exponential(size=s), 1.0),
        ("accuracy .97", lambda r, s: (r.random(s) < 0.97) * 1.0, 0.97),
        ("paired change", lambda r, s: r.choice([-1.0, 0.0, 1.0], size=s, p=[0.1, 0.6, 0.3]), 0.2),
        ("log-normal", lambda r, s: r.lognormal(size=s), np.exp(0.5)),
    ],
)
def test_intervals_cover_whatever_the_data(name, draw, truth):
    """2,000 data sets as cells of one call; `benchmarks/nulls` has the whole table."""
    for n in (8, 64):
        out = stats.mean_of_items(draw(np.random.default_rng(n), (n, 2000)))
        covered = float(((out.ci_low <= truth) & (truth <= out.ci_high)).mean())
        assert covered >= (0.88 if name == "log-normal" and n == 8 else 0.92), (name, n, covered)
        assert ((out.ci_low <= out.value) & (out.value <= out.ci_high)).all()


def test_a_ratio_of_sums_and_a_difference_of_groups_cover(rng):
    length = np.maximum(1, np.round(rng.lognormal(3.5, 0.8, size=(64, 1500))))
    out = stats.ratio_of_sums(rng.gamma(2, 0.5, size=length.shape) * length, length)
    assert ((out.ci_low <= 1) & (out.ci_high >= 1)).mean() >= 0.93
    x = np.concatenate([3 * rng.exponential(size=(16, 1500)), rng.exponential(size=(60, 1500))])
    out = stats.group_difference(x, np.arange(76) < 16)
    assert ((out.ci_low <= 2) & (out.ci_high >= 2)).mean() >= 0.93


def test_templated_items_count_by_template(rng):
    """Templates of 4 items that go together (ICC .5): items as units cover .7, templates .95."""
    template = rng.normal(size=(16, 1, 1500)) + rng.normal(size=(16, 4, 1500))
    x, labels = template.reshape(64, 1500), np.repeat(np.arange(16), 4)
    covers = lambda e: ((e.ci_low <= 0) & (e.ci_high >= 0)).mean()  # noqa: E731
    by_template = stats.mean_of_items(x, clusters=labels)
    assert covers(stats.mean_of_items(x)) < 0.85 < 0.93 <= covers(by_template)
    assert (by_template.n == 16).all()
    first = np.arange(64) < 32
    assert covers(stats.group_difference(x, first, clusters=labels)) >= 0.93


def test_too_few_to_have_an_interval():
    """Below six units, or where most agree and fewer than five differ; a share of 0/1 outcomes always has one."""
    assert np.isnan(stats.mean_of_items(np.arange(5.0)).ci_low)
    assert np.isfinite(stats.mean_of_items(np.arange(6.0)).ci_low)
    mostly = np.zeros(40)
    mostly[:4] = [0.3, 1.2, 0.7, 2.2]
    assert np.isnan(stats.mean_of_items(mostly).ci_low)
    mostly[4] = 0.9
    assert np.isfinite(stats.mean_of_items(mostly).ci_low)
    table = pd.DataFrame({"item": np.repeat(range(40), 4), "right": 1.0})
    out = stats.estimate(table, "right", units="1")
    assert float(out["right_ci_high"]) == 1.0 and 0.85 < float(out["right_ci_low"]) < 0.95


def test_clusters_come_from_a_column_or_from_the_run(rng):
    table = pd.DataFrame({"item": [f"i{i}" for i in range(60)], "x": rng.normal(size=60)})
    known = {f"i{i}": f"c{i % 10}" for i in range(60)}
    by_column = stats.estimate(table.assign(cluster=table["item"].map(known)), "x")
    with resampling.clusters(known):
        by_run = stats.estimate(table, "x")
        assert resampling.clusters_of(["i1", "i2"]) is None
    assert float(by_column["x_n"]) == 10 == float(by_run["x_n"]) and float(stats.estimate(table, "x")["x_n"]) == 60
    assert float(by_column["x_ci_low"]) == float(by_run["x_ci_low"])


def test_weighted_mean_is_a_ratio_of_sums(rng):
    """Items [ln2], [ln8] x 3: the micro mean of exp is 5.656854 and the macro mean exp is 4."""
    nll, tokens = np.array([np.log(2), 3 * np.log(8)] * 6), np.array([1.0, 3.0] * 6)
    micro = stats.ratio_of_sums(nll, tokens)
    weighted = stats.mean_of_items(nll / tokens, weights=tokens)
    macro = stats.mean_of_items(nll / tokens)
    assert np.exp(micro.value) == pytest.approx(5.656854, abs=1e-6)
    assert np.exp(macro.value) == pytest.approx(4.0)
    for part in ("value", "ci_low", "ci_high"):
        assert getattr(weighted, part) == pytest.approx(getattr(micro, part))


def test_cells_beyond_one_block_are_the_same(rng, monkeypatch):
    x = rng.normal(size=(12, 9))
    whole = stats.mean_of_items(x)
    monkeypatch.setattr(estimates, "NUMBERS_AT_ONCE", 24)
    np.testing.assert_allclose(stats.mean_of_items(x).ci_high, whole.ci_high, rtol=0, atol=1e-12)


def test_not_measured_is_left_out(rng):
    x = rng.normal(size=(6, 3))
    x[1:, 1], x[:, 2] = np.nan, np.nan
    out = stats.mean_of_items(x)
    assert out.n.tolist() == [6, 1, 0]
    assert out.value[1] == x[0, 1] and np.isnan(out.value[2])
    assert np.isnan(out.ci_low[1:]).all() and np.isfinite(out.ci_low[0])


def test_one_item_has_no_interval():
    out = stats.mean_of_items(np.array([2.0]))
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
    assert covered["items"] >= 0.90 * 200
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


def test_groups_of_an_estimate_are_apart(rng):
    """A group that is constant has no interval, whatever the other does, and keeps its n."""
    table = pd.DataFrame(
        {"item": range(40), "group": ["x"] * 10 + ["y"] * 30, "v": [0.5] * 10 + [*rng.normal(size=30)]}
    )
    data = stats.estimate(table, "v", ["group"])
    assert np.isnan(data.v_ci_low.sel(group="x")) and np.isfinite(data.v_ci_low.sel(group="y"))
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
    out = stats.paired_difference(x, x)
    assert (out.value == 0).all() and np.isnan(out.ci_low).all(), "nothing differs: too few to have an interval"


@pytest.mark.parametrize("cells", [(), (1,), (2, 3)])
def test_a_group_without_items_has_no_difference_and_no_items(cells):
    """As where no answer of one group could be graded: not measured, not 0 and not an error of shapes."""
    nothing = stats.mean_of_items(np.zeros((0, *cells)))
    alone = stats.group_difference(np.ones((8, *cells)), np.zeros(8, bool), clusters=np.arange(8))
    for found in (nothing, alone):
        assert np.isnan(found.value).all() and np.isnan(found.ci_low).all() and np.isnan(found.ci_high).all()
        assert np.shape(found.value) == np.shape(found.n) == cells and (found.n == 0).all()


def test_group_difference_agrees_with_welch(rng):
    x, first = rng.normal(size=500), np.arange(500) < 200
    ours = stats.group_difference(x, first)
    theirs = scipy_stats.ttest_ind(x[first], x[~first], equal_var=False).confidence_interval()
    assert ours.value == pytest.approx(x[first].mean() - x[~first].mean()) and ours.n == 200
    assert (ours.ci_low, ours.ci_high) == (pytest.approx(theirs.low, abs=0.01), pytest.approx(theirs.high, abs=0.01))
    hits = (np.arange(100) % 4 == 0).astype(float)
    other = stats.group_difference(np.tile(hits, 2), np.repeat([True, False], 100))
    low, high = confint_proportions_2indep(25, 100, 25, 100, method="newcomb", compare="diff")
    assert (other.ci_low, other.ci_high) == (pytest.approx(low), pytest.approx(high))


# ---- where
