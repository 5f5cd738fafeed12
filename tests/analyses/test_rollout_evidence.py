"""What k rollouts would teach: closed forms, brute force, forgetting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats

from analyses import run
from analyses.credit.rollout_evidence import information, variance_reduction
from probe import InputError, Rollouts
from tests import logs


def example(folder: Path) -> dict[str, Any]:
    return {"rollouts": Rollouts.of(logs.full())}


def one(a: float, b: float, k: int) -> tuple[float, float]:
    return tuple(float(f(np.array([a]), np.array([b]), k)[0]) for f in (variance_reduction, information))  # type: ignore[return-value]


def test_printed_values() -> None:
    assert one(2, 3, 4)[0] == pytest.approx(0.017778, abs=1e-6)
    assert one(2, 3, 4)[1] == pytest.approx(0.28923, abs=1e-5)
    assert one(2, 3, 1)[1] == pytest.approx(0.089678, abs=1e-6)
    mean, n = 0.4, 5
    assert one(2, 3, 1)[0] == pytest.approx(mean * (1 - mean) / (n + 1) ** 2)


def test_against_integration() -> None:
    a, b, k = 1.5, 4.0, 3
    x = np.arange(k + 1)
    given, _ = integrate.quad(lambda q: stats.binom(k, q).entropy() * stats.beta(a, b).pdf(q), 0, 1)
    marginal = stats.betabinom.pmf(x, k, a, b)
    assert one(a, b, k)[1] == pytest.approx(float(-(marginal * np.log(marginal)).sum()) - given, abs=1e-6)


def test_much_evidence_leaves_nothing_to_learn() -> None:
    assert one(4000, 6000, 8)[0] < 1e-6
    assert one(4000, 6000, 8)[1] < 1e-3


def test_counts_run_over_steps_and_are_forgotten_by_decay() -> None:
    rows = [
        {"step": s, "prompt_id": "q", "prompt_text": "?", "response_text": f"{s}{i}", "reward": float(i < won)}
        for s, won in ((1, 3), (5, 1))
        for i in range(4)
    ]
    kept = run("rollout_evidence", rollouts=Rollouts.of(rows)).table
    assert kept[["a", "b"]].to_numpy().tolist() == [[4.0, 2.0], [5.0, 5.0]]
    half = run("rollout_evidence", rollouts=Rollouts.of(rows), decay=0.5).table
    assert half[["a", "b"]].to_numpy().tolist() == [[4.0, 2.0], [3.5, 4.5]]
    with pytest.raises(InputError, match="decay"):
        run("rollout_evidence", rollouts=Rollouts.of(rows), decay=2.0)
