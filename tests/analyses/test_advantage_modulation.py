"""EMPG's weights, AEPO's temperature, EPO's band: closed forms and monitors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analyses import run
from analyses.core.reading.softmax_terms import entropy, first_order, log_probs
from analyses.credit.advantage_modulation import (
    empg_weights,
    heat_derivative,
    outside_band,
    temperature_for,
)
from probe import InputError, Rollouts
from tests import logs, tiny


def example(folder: Path) -> dict[str, Any]:
    rows = [{**r, "segment_starts": [0, 2] if len(r["response_mask"]) > 2 else [0]} for r in logs.rows(vocab=200)]
    return {"model": tiny.save(folder / "m"), "rollouts": Rollouts.of(rows)}


def test_empg_weights() -> None:
    g, f = empg_weights(np.array([0.2, 0.5, 1, 2]), 1.0, 1.0)
    np.testing.assert_allclose(g, [1.40079, 1.18574, 0.89816, 0.51532], atol=5e-6)
    np.testing.assert_allclose(f, [1, 0.84648, 0.64118, 0.36788], atol=5e-6)
    assert g.mean() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(empg_weights(np.full(4, 0.3), 1.0, 1.0)[0], 1)
    np.testing.assert_allclose(empg_weights(np.array([0.2, 2]), 0.0, 1.0)[0], 1)


def test_heat_derivative() -> None:  # C8
    z = 2 * torch.randn(3, 40, generator=torch.Generator().manual_seed(0)).double()
    for t in (0.7, 1.0, 1.6):
        e = 1e-4
        want = (entropy(log_probs(z / (t + e))) - entropy(log_probs(z / (t - e)))) / (2 * e)
        torch.testing.assert_close(heat_derivative(z, t), want, rtol=1e-7, atol=1e-9)
        beta = 1 / t
        by_beta = (entropy(log_probs(z * (beta + e))) - entropy(log_probs(z * (beta - e)))) / (2 * e)
        torch.testing.assert_close(-beta * heat_derivative(z, t) * t**3, by_beta, rtol=1e-6, atol=1e-8)


def test_pulling_towards_a_hotter_policy_raises_entropy() -> None:
    """AEPO's pull dz = q_T - p: entropy rises if and only if T > 1."""
    z = 2 * torch.randn(20, 40, generator=torch.Generator().manual_seed(0)).double()
    logp = log_probs(z)
    for t in (0.8, 1.2):
        pull = log_probs(z / t).exp() - logp.exp()
        assert bool(((first_order(logp, pull) > 0) == (t > 1)).all())


def test_temperature_of_a_target() -> None:
    assert temperature_for(0.5, [0.5, 1.0, 2.0], [0.2, 0.4, 0.6]) == pytest.approx(1.5)
    assert np.isnan(temperature_for(0.9, [0.5, 1.0], [0.2, 0.4]))


def test_the_entropy_a_call_removes() -> None:
    four, two = (entropy(log_probs(torch.tensor([z]))) for z in ([0.0] * 4, [0.0, 0.0, -torch.inf, -torch.inf]))
    assert float(two - four) == pytest.approx(-np.log(2), abs=1e-15)


def test_band() -> None:
    def steps(values: list[float]) -> pd.DataFrame:
        rows = [{"rollout_step": i, "segment": 0, "entropy_nats": v} for i, v in enumerate(values)]
        return outside_band(pd.DataFrame(rows), 0.8, 1.2)

    flat = steps([0.4] * 5)
    assert np.isnan(flat["outside_band"][0])  # the first step has no history
    assert (flat["outside_band"][1:] == 0).all()
    assert (steps([0.0, 0.0, 0.0])["outside_band"][1:] == 0).all()  # a constant of 0 leaves no band
    assert steps([1.0, 1.5, 1.0])["outside_band"].tolist()[1:] == [1, 1]  # 1.0 is .8 x 1.25: the band is open
    assert steps([1.0, 1.0, 2.0, 1.0])["outside_band"].tolist()[1:] == [0, 1, 1]  # 1.0 against a history of 4/3


def test_modulated_advantages_average_to_zero_and_last_segments_get_no_bonus(tmp_path: Path) -> None:
    given = example(tmp_path)
    table = run("advantage_modulation", **given).table
    assert table.groupby("rollout_step")["empg_advantage"].mean().abs().max() < 1e-12
    plain = run("advantage_modulation", **given, k_own=0.0, zeta=0.0).table
    centred = plain["advantage"] - plain.groupby("rollout_step")["advantage"].transform("mean")
    np.testing.assert_allclose(plain["empg_advantage"], centred, atol=1e-6)
    bonus = run("advantage_modulation", **given, k_own=0.0, zeta=1.0).table
    raw = bonus["empg_advantage"] - centred
    keys = ["rollout_step", "item", "group_uid", "sample"]
    is_last = bonus.groupby(keys)["segment"].transform("max") == bonus["segment"]
    for _, step in raw.groupby(bonus["rollout_step"]):
        assert step[is_last[step.index]].round(6).nunique() == 1
        assert step[~is_last[step.index]].min() > step[is_last[step.index]].max()


def test_entropy_rises_with_temperature(tmp_path: Path) -> None:
    given = example(tmp_path)
    data = run("advantage_modulation", **given).data
    assert (np.diff(data["entropy_at_T_nats"].values, axis=1) > 0).all()
    table = run("advantage_modulation", **given).table
    micro = (table["entropy_nats"] * table["n_tokens"]).groupby(table["rollout_step"]).sum()
    micro = micro / table.groupby("rollout_step")["n_tokens"].sum()
    np.testing.assert_allclose(data["entropy_at_T_nats"].sel(alpha=1.0), micro, atol=1e-9)
    with pytest.raises(InputError, match="temperatures"):
        run("advantage_modulation", **given, temperatures=(0.0,))
