"""Three covariances by name: published numbers, invariances, and the one that moves no entropy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analyses import run
from analyses.entropy.entropy_covariance import (
    clip_cov,
    clip_cov_eligible,
    kl_cov,
    token_covariance,
    top_fraction_means,
)
from probe import InputError, Rollouts
from tests import logs, tiny

LOGP, A = np.array([-0.01, -3, -0.5, -2]), np.array([1.0, 1, -1, -1])


def example(folder: Path) -> dict[str, Any]:
    series = tiny.series(folder / "run", steps=(0, 20))
    log = Rollouts.of(logs.rows(vocab=200))
    return {"base": series / "checkpoint-0", "tuned": series / "checkpoint-20", "rollouts": log}


def test_four_tokens() -> None:
    c = token_covariance(LOGP, A)
    np.testing.assert_allclose(c, [1.3675, -1.6225, -0.8775, 0.6225], atol=1e-12)
    assert c.mean() == pytest.approx(-0.1275, abs=1e-12)
    assert c.mean() == pytest.approx(np.cov(LOGP, A, bias=True)[0, 1], abs=1e-12)


def test_invariances() -> None:
    rng = np.random.default_rng(0)
    logp, a = -rng.exponential(size=50), rng.normal(size=50)
    c = token_covariance(logp, a)
    np.testing.assert_allclose(token_covariance(logp + 3, a - 7), c, atol=1e-12)
    np.testing.assert_allclose(token_covariance(logp, np.full(50, 2.0)), 0, atol=1e-12)
    order = rng.permutation(50)
    np.testing.assert_allclose(token_covariance(logp[order], a[order]), c[order], atol=1e-12)
    halves = np.concatenate([token_covariance(logp[:25], a[:25]), token_covariance(logp[25:], a[25:])])
    assert np.abs(halves - c).max() > 1e-2  # a micro-batch split changes it
    means = top_fraction_means(c, (0.02, 0.2, 0.5, 1.0))
    assert (np.diff(means) <= 0).all()
    assert means[-1] == pytest.approx(c.mean())


def test_selections() -> None:
    c = token_covariance(LOGP, A)
    assert kl_cov(c, 1e-9).tolist() == [True, False, False, False]
    assert kl_cov(c, 0.5).tolist() == [True, False, False, True]
    rng = np.random.default_rng(0)
    none = np.zeros(4, bool)
    assert clip_cov(clip_cov_eligible(c, none, 1, 5), 2e-4, rng).tolist() == [True, False, False, False]
    assert clip_cov(clip_cov_eligible(c, none, 2, 5), 2e-4, rng).sum() == 0
    assert clip_cov_eligible(c, np.array([True, False, False, False]), 1, 5).sum() == 0
    many = np.ones(10_000, bool)
    assert clip_cov(many, 2e-3, rng).sum() == 20
    drawn = np.mean([np.flatnonzero(clip_cov(np.ones(10, bool), 0.1, rng))[0] for _ in range(2000)])
    assert drawn == pytest.approx(4.5, abs=0.3)  # uniform over the eligible


def counterexample() -> dict[str, float]:
    """Pooled covariance without any change of entropy: two equally frequent states, p = (.5, .5) with A = -1 for both
    actions and p = (.99, .01) with A = +1 for both. Within a state A is constant, so nothing is pushed anywhere."""
    p = np.array([[0.5, 0.5], [0.99, 0.01]])
    a = np.array([[-1.0, -1.0], [1.0, 1.0]])
    weight, logp = p / 2, np.log(p)
    pooled = (weight * (logp - (weight * logp).sum()) * (a - (weight * a).sum())).sum()
    within = (p * (logp - (p * logp).sum(1, keepdims=True)) * (a - (p * a).sum(1, keepdims=True))).sum()
    return {"pooled": float(pooled), "within": float(within)}


def test_pooled_covariance_without_any_change_of_entropy() -> None:
    found = counterexample()
    assert found["pooled"] == pytest.approx(0.318573, abs=1e-6)
    assert found["within"] == pytest.approx(0, abs=1e-12)


def test_logit_covariance_is_the_first_order_change(tmp_path: Path) -> None:
    given = example(tmp_path)
    table = run("entropy_covariance", **given).table
    change = run("entropy_change", **given).table
    np.testing.assert_allclose(table["cov_logit"], -change["first_order_nats"], atol=1e-9)
    np.testing.assert_allclose(table["exact_nats"], change["exact_nats"], atol=1e-9)
    assert stats.spearmanr(table["cov_logit"], -table["exact_nats"])[0] > 0.5


def test_policy_gradient_covariance_is_estimated_without_bias() -> None:
    """Over a ~ p, A_a S_a averages to Cov_p(log p, p A) for centred A."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=6) * 2
    p = np.exp(z) / np.exp(z).sum()
    logp, a = np.log(p), rng.normal(size=6)
    a -= p @ a
    s = p * (logp - p @ logp)
    want = p @ (logp * p * a) - (p @ logp) * (p @ (p * a))
    assert p @ (a * s) == pytest.approx(want, abs=1e-14)


def test_scope_of_the_means(tmp_path: Path) -> None:
    given = example(tmp_path)
    step = run("entropy_covariance", **given).table
    micro = run("entropy_covariance", **given, scope="micro_batch").table
    assert np.abs(step["cov_token_pooled"] - micro["cov_token_pooled"]).max() > 1e-3
    for _, part in micro.groupby(["rollout_step", "micro_batch_id"]):
        want = np.cov(part["logp_nats"], part["advantage"], bias=True)[0, 1]
        assert part["cov_token_pooled"].mean() == pytest.approx(want, abs=1e-12)
    bare = Rollouts.of([{k: v for k, v in r.items() if k != "micro_batch_id"} for r in logs.rows(vocab=200)])
    with pytest.raises(InputError, match="micro_batch_id"):
        run("entropy_covariance", **{**given, "rollouts": bare}, scope="micro_batch")


def test_logs_without_advantages_are_refused(tmp_path: Path) -> None:
    bare = Rollouts.of([{k: v for k, v in r.items() if k != "advantage"} for r in logs.rows(vocab=200)])
    with pytest.raises(InputError, match="needs advantage"):
        run("entropy_covariance", **{**example(tmp_path), "rollouts": bare})
