"""R = -a exp(H) + b: exact recovery, order of rows, a null run, and when nothing is fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses import run
from analyses.core.claim import FOUND, UNJUDGED, sentence
from probe import InputError, RunLog


def log_of(h: np.ndarray, r: np.ndarray) -> RunLog:
    return RunLog.of([{"step": 4 * i, "entropy": float(a), "reward": float(b)} for i, (a, b) in enumerate(zip(h, r))])


def example(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    h = np.linspace(1, 0.05, 60) + 0.05 * rng.normal(size=60)
    return {"log": log_of(h, -0.2 * np.exp(h) + 0.6 + rng.normal(size=60) * 0.005)}


def test_exact_law_is_recovered() -> None:
    h = np.linspace(1, 0.05, 36)
    result = run("entropy_reward_law", log=log_of(h, -0.2 * np.exp(h) + 0.6))
    for name, value in (("a", 0.2), ("b", 0.6), ("ceiling", 0.4), ("extrapolation_rmse", 0.0)):
        assert float(result.data[name]) == pytest.approx(value, abs=1e-9)


def test_noisy_law_is_inside_its_intervals_and_predicts_later_steps(tmp_path: Path) -> None:
    result = run("entropy_reward_law", **example(tmp_path))
    for name, value in (("a", 0.2), ("b", 0.6), ("ceiling", 0.4)):
        assert float(result.data[f"{name}_ci_low"]) < value < float(result.data[f"{name}_ci_high"])
    assert float(result.data["extrapolation_rmse"]) < 0.01
    assert result.table["part"].tolist() == ["fitted"] * 36 + ["predicted"] * 24
    (claim,) = result.claims
    assert (claim.kind, claim.answer) == ("law", FOUND) and claim.low < 0.2 < claim.high
    assert sentence(claim).startswith("Reward follows entropy as R = b - a exp(H), a being: +0.2")


def test_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    rows = [
        {"step": int(s), "entropy": r.entropy, "reward": r.reward} for s, r in example(tmp_path)["log"].frame.iterrows()
    ]
    a, b = (run("entropy_reward_law", log=RunLog.of(x)).data for x in (rows, rows[::-1]))
    assert a.identical(b)


def test_a_random_reward_follows_nothing() -> None:
    """The null: about 5 % of runs may look like a law, not more than three times that."""
    rng = np.random.default_rng(0)
    h = np.linspace(1, 0.05, 60)
    found = sum(run("entropy_reward_law", log=log_of(h, rng.random(60))).claims[0].is_found for _ in range(40))
    assert found <= 6


def walk(rng: np.random.Generator, n: int, keep: float) -> np.ndarray:
    out = rng.normal(size=n + 50)
    for i in range(1, len(out)):
        out[i] += keep * out[i - 1]
    return out[50:]


@pytest.mark.parametrize("keep", [0.0, 0.8, 1.0])
def test_unrelated_series_however_persistent_are_seldom_a_law(keep: float) -> None:
    """Newey-West and a normal quantile called .12 to .56 of these a law."""
    found = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        h, r = (walk(rng, 72, keep) for _ in "hr")
        result = run("entropy_reward_law", log=log_of(0.5 + 0.15 * h / h.std(), 0.5 + 0.1 * r / r.std()))
        found += result.claims[0].is_found
    assert found <= 8  # binomial(60, .05)


def test_falling_entropy_and_rising_reward_are_not_a_law_by_themselves() -> None:
    found, unjudged = 0, 0
    t = np.linspace(0, 1, 72)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        h, r = 1 - 0.9 * t + 0.03 * rng.normal(size=72), 0.2 + 0.5 * t + 0.03 * rng.normal(size=72)
        (claim,) = run("entropy_reward_law", log=log_of(h, r)).claims
        found += claim.is_found
        unjudged += claim.answer == UNJUDGED
    assert found <= 6


def test_errors_that_persist_leave_the_truth_inside() -> None:
    inside = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        h = np.linspace(1, 0.05, 72)
        noise = walk(rng, 72, 0.5)
        data = run("entropy_reward_law", log=log_of(h, 0.6 - 0.2 * np.exp(h) + 0.01 * noise)).data
        inside += float(data["a_ci_low"]) < 0.2 < float(data["a_ci_high"])
    assert inside >= 51  # .85: Newey-West covered .76


def test_ill_conditioned_runs_are_not_fitted() -> None:
    r = np.linspace(0, 1, 40)
    flat = run("entropy_reward_law", log=log_of(np.full(40, 0.02) + 1e-3 * r, r))
    assert np.isnan(float(flat.data["a"]))
    assert "not determined" in str(flat.verdict) and flat.claims[0].answer == UNJUDGED
    short = run("entropy_reward_law", log=log_of(np.linspace(1, 0, 8), r[:8]))
    assert "at least 6" in str(short.verdict)
    assert short.figures()


def test_steps_that_do_not_match_are_refused() -> None:
    rows = [{"step": i, "entropy": 1.0} for i in range(0, 20, 2)] + [
        {"step": i, "reward": 1.0} for i in range(1, 20, 2)
    ]
    with pytest.raises(InputError, match="no step has both"):
        run("entropy_reward_law", log=RunLog.of(rows))
    with pytest.raises(InputError, match="no scalar 'val'"):
        run("entropy_reward_law", log=RunLog.of(rows), reward="val")


def test_a_run_whose_reward_rises_with_entropy_is_not_called_a_law() -> None:
    h = np.linspace(0.2, 1, 60) + 0.02 * np.random.default_rng(0).normal(size=60)
    verdict = str(run("entropy_reward_law", log=log_of(h, 0.2 * np.exp(h))).verdict)
    assert "the reverse of the law" in verdict
