"""The four quadrants: signs, parts that add up, and where the rule of surprisal fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses import run
from analyses.credit import _log
from probe import Rollouts
from tests import logs


def example(folder: Path) -> dict[str, Any]:
    return {"rollouts": Rollouts.of(logs.full())}


P = np.array([0.6, 0.3, 0.1])
L = np.log(P)
ENTROPY = float(-(P * L).sum())
S = P * (L + ENTROPY)
B = float((P * S).sum())


def sampled(token: int, advantage: float, item: str = "q") -> dict[str, Any]:
    row = {
        "step": 1,
        "prompt_id": item,
        "prompt_token_ids": [1],
        "response_token_ids": [token],
        "logp_temperature": 1.0,
    }
    return {**row, "advantage": advantage, "old_logp": [L[token]], "H": [ENTROPY], "B": [B]}


def test_each_quadrant_has_its_sign() -> None:
    made = [sampled(0, 1.0), sampled(0, -1.0), sampled(2, 1.0), sampled(2, -1.0)]
    data = run("sign_quadrants", rollouts=Rollouts.of(made)).data
    found = {
        (s, v): float(data["change"].sel(sign=s, variant=v)) for s in ("A > 0", "A < 0") for v in ("likely", "unlikely")
    }
    assert S[0] > B > S[2]
    assert found["A > 0", "likely"] == pytest.approx(-(S[0] - B) / 4)
    assert found["A < 0", "unlikely"] == pytest.approx((S[2] - B) / 4)
    assert found["A > 0", "unlikely"] > 0 and found["A < 0", "likely"] > 0
    assert float(data["share_of_change"].sum()) == pytest.approx(1)
    assert float(data["share_of_tokens"].sum()) == pytest.approx(1)


def test_first_order_is_what_a_small_step_does() -> None:
    step, token, advantage = 1e-5, 2, 1.0
    z = L + step * advantage * (np.eye(3)[token] - P)
    q = np.exp(z) / np.exp(z).sum()
    exact = float(-(q * np.log(q)).sum()) - ENTROPY
    made = [sampled(token, 1.0), sampled(token, -1.0)]
    table = run("sign_quadrants", rollouts=Rollouts.of(made)).table
    change = table.loc[table["advantage"] > 0, "change"].iloc[0]
    assert exact / step == pytest.approx(change, rel=1e-4)


def test_advantages_are_centred_and_the_simple_rule_fails_between_zero_and_b() -> None:
    made = [sampled(0, 3.0), sampled(1, 1.0)]
    result = run("sign_quadrants", rollouts=Rollouts.of(made))
    assert sorted(result.table["advantage"]) == [-1, 1]
    between = [{**r, "B": [S[0] * 2]} for r in made]  # S of token 0 is above 0 and below B
    assert float(run("sign_quadrants", rollouts=Rollouts.of(between)).data["rule_of_surprisal"]) < 1


def test_a_token_without_its_ratio_is_not_measured() -> None:
    """A ratio that is missing is not 1."""
    logp = sampled(0, 3.0)["old_logp"]
    made = [{**sampled(0, 3.0), "new_logp": [logp[0] + 0.5]}, {**sampled(1, 1.0), "new_logp": [None]}]
    table = run("sign_quadrants", rollouts=Rollouts.of(made)).table
    assert table["change"].isna().tolist() == (table["advantage"] < 0).tolist()


def test_without_b_nothing_is_measured() -> None:
    result = run("sign_quadrants", rollouts=Rollouts.of(logs.rows()))
    assert result.table["change"].isna().all()
    assert any("not measured" in w for w in result.warnings)


def test_a_response_without_an_advantage_is_left_out_of_its_groups_mean():
    rows = pd.DataFrame({"cell": [0, 0, 0, 1]})
    found = _log.by_cell(rows, np.array([1.0, np.nan, 3.0, np.nan]))
    assert found[:3].tolist() == [2.0, 2.0, 2.0] and np.isnan(found[3])
