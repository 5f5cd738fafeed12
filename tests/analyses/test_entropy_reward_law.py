"""R = -a exp(H) + b: exact recovery, order of rows, a null run, and when nothing is fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses import run
from probe import InputError, RunLog


def log_of(h: np.ndarray, r: np.ndarray) -> RunLog:
    return RunLog.of([{"step": 4 * i, "entropy": float(a), "reward": float(b)} for i, (a, b) in enumerate(zip(h, r))])


def example(folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    h = np.linspace(1, 0.05, 60)
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
    assert "ceiling" in str(result.verdict)


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
    found = sum(
        "does not follow" in str(run("entropy_reward_law", log=log_of(h, rng.random(60))).verdict) for _ in range(40)
    )
    assert found >= 34


def test_ill_conditioned_runs_are_not_fitted() -> None:
    r = np.linspace(0, 1, 40)
    flat = run("entropy_reward_law", log=log_of(np.full(40, 0.02) + 1e-3 * r, r))
    assert np.isnan(float(flat.data["a"]))
    assert "not determined" in str(flat.verdict)
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
    h = np.linspace(0.2, 1, 60)
    verdict = str(run("entropy_reward_law", log=log_of(h, 0.2 * np.exp(h))).verdict)
    assert "reverse of the law" in verdict
    assert "ceiling 0" not in verdict
