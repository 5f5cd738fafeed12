"""Sign accuracy of token rewards: the printed example, the exact double binomial, symmetry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analyses import run
from analyses.credit.token_reward_noise import noise
from probe import InputError, Rollouts
from tests import logs


def example(folder: Path) -> dict[str, Any]:
    return {"rollouts": Rollouts.of(logs.full(vocab=6))}


def test_half_against_slightly_more_at_eight() -> None:
    found = {k: float(v[0]) for k, v in noise(np.array([0.5]), np.array([0.55]), 8).items()}
    assert found["right"] == pytest.approx(0.4818, abs=5e-5)
    assert found["tie"] == pytest.approx(0.1927, abs=5e-5)
    assert found["normal"] == pytest.approx(0.5795, abs=5e-5)
    assert found["right"] + found["tie"] / 2 == pytest.approx(0.5782, abs=5e-5)
    assert found["sd"] ** 2 == pytest.approx((0.25 + 0.55 * 0.45) / 8)


def test_a_fall_is_as_hard_as_a_rise_and_no_change_has_no_sign() -> None:
    up, down = (noise(np.array([a]), np.array([b]), 5)["right"][0] for a, b in ((0.3, 0.6), (0.6, 0.3)))
    assert up == pytest.approx(down)
    same = noise(np.array([0.4]), np.array([0.4]), 5)
    assert np.isnan(same["right"][0])
    assert same["tie"][0] == pytest.approx((stats.binom.pmf(range(6), 5, 0.4) ** 2).sum())


def test_simulation_agrees() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.binomial(6, 0.2, 200_000), rng.binomial(6, 0.7, 200_000)
    found = noise(np.array([0.2]), np.array([0.7]), 6)
    assert float((y > x).mean()) == pytest.approx(found["right"][0], abs=4e-3)
    assert float((y == x).mean()) == pytest.approx(found["tie"][0], abs=4e-3)


def test_rewards_are_needed() -> None:
    rows = [{**r, "reward": None if i == 3 else r["reward"]} for i, r in enumerate(logs.full())]
    with pytest.raises(InputError, match=r"1 response\(s\) have no reward"):
        run("token_reward_noise", rollouts=Rollouts.of(rows))
