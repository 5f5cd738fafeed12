"""Whom a loss listens to: the published example, and where the three ways of averaging agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses import run
from analyses.credit.aggregation_mass import masses
from probe import Rollouts
from tests import logs


def example(folder: Path) -> dict[str, Any]:
    return {"rollouts": Rollouts.of(logs.full())}


def shares(lengths: list[int], positive: int, **how: bool) -> dict[str, float]:
    sign = np.where(np.arange(len(lengths)) < positive, 1.0, -1.0)
    found = masses(np.array(lengths, float), sign, np.zeros(len(lengths), int), **how)
    for values in found.values():
        assert values.sum() == pytest.approx(1)
    return {name: float(values[:positive].sum()) for name, values in found.items()}


def test_two_short_winners_against_three_long_losers() -> None:
    found = shares([5, 7, 20, 30, 3], 2)
    assert found["token"] == pytest.approx(12 / 65, abs=1e-12)
    assert found["token"] == pytest.approx(0.1846, abs=1e-4)
    assert found["sequence"] == found["balanced"] == pytest.approx(0.4)


def test_equal_lengths_agree_and_one_sign_takes_all() -> None:
    assert set(np.round(list(shares([4, 4, 4, 4], 1).values()), 12)) == {0.25}
    assert set(shares([4, 9], 2).values()) == {1.0}


def test_within_a_sign_balanced_goes_by_tokens() -> None:
    found = masses(np.array([5.0, 7, 20, 30, 3]), np.array([1.0, 1, -1, -1, -1]), np.zeros(5, int))
    np.testing.assert_allclose(
        found["balanced"], [0.4 * 5 / 12, 0.4 * 7 / 12, 0.6 * 20 / 53, 0.6 * 30 / 53, 0.6 * 3 / 53]
    )


def test_advantages_weigh_and_scopes_are_kept_apart() -> None:
    found = masses(np.ones(4), np.array([3.0, -1, 2.0, -2]), np.array([0, 0, 1, 1]), by_advantage=True)
    np.testing.assert_allclose(found["sequence"], [0.75, 0.25, 0.5, 0.5])


def test_silent_groups_are_left_out_and_told(tmp_path: Path) -> None:
    rows = [{**r, "advantage": np.float32(0)} if r["group_uid"] == "0-0" else r for r in logs.full()]
    result = run("aggregation_mass", rollouts=Rollouts.of(rows))
    assert len(result.table) == 20
    assert any("4 of 24 responses have advantage 0" in w for w in result.warnings)
    share = result.data["positive_share"].sel(rollout_step=4, variant="sequence")
    table = result.table[result.table["rollout_step"] == 4]
    assert float(share) == pytest.approx((table["sequence_mass"] * (table["advantage"] > 0)).sum() / 3)
