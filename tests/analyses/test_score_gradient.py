"""The score gradient against entropy: its bounds, an enumerated policy, and what is not measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses import run
from probe import Rollouts
from tests import logs


def example(folder: Path) -> dict[str, Any]:
    return {"rollouts": Rollouts.of(logs.full())}


def of(p: np.ndarray) -> dict[str, Any]:
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum()
    row = {"step": 1, "prompt_id": "q", "prompt_token_ids": [1], "response_token_ids": [0, 1], "advantage": 2.0}
    return {**row, "H": [entropy] * 2, "sum_p2": [(p**2).sum()] * 2, "logp_temperature": 1.0}


@pytest.mark.parametrize("p", [np.full(8, 1 / 8), np.array([1.0, 0, 0]), np.array([0.7, 0.2, 0.1])])
def test_equals_the_mean_over_tokens_of_the_squared_gradient(p: np.ndarray) -> None:
    gradients = np.eye(len(p)) - p  # of log p(a) by the logits, one row per token
    want = float((p * (gradients**2).sum(1)).sum())
    row = run("score_gradient", rollouts=Rollouts.of([of(p)])).table.iloc[0]
    assert row["score_gradient"] == pytest.approx(want, abs=1e-12)
    assert row["weighted"] == pytest.approx(2 * want, abs=1e-12)


def test_a_sure_token_teaches_nothing_and_a_uniform_choice_most() -> None:
    made = [of(np.full(8, 1 / 8)), {**of(np.array([1.0, 0])), "response_token_ids": [3, 4]}]
    result = run("score_gradient", rollouts=Rollouts.of(made))
    assert sorted(result.table["score_gradient"].round(9)) == [0, 1 - 1 / 8]
    assert float(result.data["correlation"]) == pytest.approx(1)


def test_without_sums_of_squares_nothing_is_measured_and_the_reason_is_said() -> None:
    result = run("score_gradient", rollouts=Rollouts.of(logs.rows()))
    assert result.table["score_gradient"].isna().all()
    assert any("not measured" in w and "sum_p2" in w and "probe.recompute" in w for w in result.warnings)
    null = [{**r, "sum_p2": None} for r in logs.full()]
    assert any("has no value in sum_p2" in w for w in run("score_gradient", rollouts=Rollouts.of(null)).warnings)
