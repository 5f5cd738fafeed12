"""Informative groups and what their tokens are worth; sums of what was kept are unbiased."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses import run
from analyses.credit.informative_groups import chance_informative
from probe import InputError, Rollouts
from tests import logs


def example(folder: Path) -> dict[str, Any]:
    return {"rollouts": Rollouts.of(logs.full())}


def test_the_chance_of_both_outcomes() -> None:
    np.testing.assert_allclose(
        chance_informative(np.array([0.5, 0, 1, 0.25]), np.array([2, 8, 8, 4])), [0.5, 0, 0, 0.6796875]
    )


def rows(rewards: list[float], tokens: int = 5, **more: Any) -> list[dict[str, Any]]:
    return [
        {"step": 1, "prompt_id": "q", "prompt_token_ids": [1], "response_token_ids": [i] * tokens, "reward": r, **more}
        for i, r in enumerate(rewards)
    ]


def test_value_per_token() -> None:
    row = run("informative_groups", rollouts=Rollouts.of(rows([1, 0, 1, 0]))).table.iloc[0]
    assert (row["informative"], row["expected_informative"]) == (True, 1 - 2 / 16)
    assert row["token_value"] == pytest.approx(1000 * 1.0 / 5)  # |A| = 1 over 5 tokens each
    flat = run("informative_groups", rollouts=Rollouts.of(rows([1, 1]))).table.iloc[0]
    assert (flat["informative"], flat["token_value"], flat["expected_informative"]) == (False, 0.0, 0.0)


def test_probabilities_of_keeping_weigh_and_are_checked() -> None:
    made = rows([1.0, 0.0])
    made[0]["inclusion_probability"], made[1]["inclusion_probability"] = 0.5, 1.0
    assert run("informative_groups", rollouts=Rollouts.of(made)).table["mean_reward_ht"][0] == pytest.approx(2 / 3)
    made[0]["inclusion_probability"] = 0.0
    with pytest.raises(InputError, match="must lie in"):
        run("informative_groups", rollouts=Rollouts.of(made))
