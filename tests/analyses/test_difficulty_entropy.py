"""Entropy by difficulty: a planted U, a flat entropy, classes that rollouts do not choose for themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses import get, run
from analyses.core.claim import FOUND, NONE, UNJUDGED
from analyses.credit.difficulty_entropy import _prompts, u_shape
from probe import Rollouts
from probe.errors import InputError
from tests import logs


def example(folder: Path) -> dict[str, Any]:
    return {"rollouts": Rollouts.of(logs.full()), "draws": 49}


def rows(u: float, seed: int, per_class: int = 12, own: float = 0.0) -> pd.DataFrame:
    """Eight rollouts of prompts of three pass rates; entropy 1 plus u / 2 for easy and hard, and `own` for success."""
    rng = np.random.default_rng(seed)
    made = []
    for k, rate in enumerate((0.95, 0.5, 0.05)):
        for i in range(per_class):
            success = (rng.random(8) < rate).astype(float)
            entropy = 1 + u * (k != 1) + own * success + 0.2 * rng.normal(size=8)
            shared = {"rollout_step": 0, "item": f"{k}-{i}", "group": "g"}
            made.append(pd.DataFrame({**shared, "success": success, "entropy_nats": entropy}))
    return pd.concat(made, ignore_index=True)


def test_the_index_of_three_means() -> None:
    table = pd.DataFrame({"rollout_step": 0, "entropy_nats": [1.0, 3.0, 4.0, 2.0],
                          "difficulty": ["easy", "easy", "medium", "hard"]})  # fmt: skip
    value, p, counts = u_shape(table, 9, 0)
    assert value == pytest.approx((2 + 2) / 2 - 4) and 0 < p <= 1 and counts == {"easy": 2, "medium": 1, "hard": 1}
    flat, p, _ = u_shape(table.assign(entropy_nats=1.0), 9, 0)
    assert flat == 0 and p == 1
    assert np.isnan(u_shape(table[table["difficulty"] != "hard"], 9, 0)[0])


def test_a_planted_u_is_found_and_a_flat_entropy_is_not() -> None:
    assert u_shape(_prompts(rows(0.5, 0)), 199, 0)[1] <= 0.01
    p = [u_shape(_prompts(rows(0.0, seed)), 99, seed)[1] for seed in range(10)]
    assert sum(x <= 0.05 for x in p) <= 2


def test_claims_and_what_is_missing() -> None:
    (one,) = run("difficulty_entropy", rollouts=Rollouts.of(logs.full()), draws=9).claims
    assert one.answer == UNJUDGED and "prompts are" in one.why
    bare = [{k: v for k, v in r.items() if k != "H"} for r in logs.rows()]
    assert run("difficulty_entropy", rollouts=Rollouts.of(bare), draws=9).warnings
    with pytest.raises(InputError, match="at least 2 rollouts"):
        _prompts(rows(0.0, 0).drop_duplicates("item"))


def test_answers_of_the_claim() -> None:
    claim = get("difficulty_entropy").function.__globals__["_claim"]
    many = dict.fromkeys(("easy", "medium", "hard"), 9)
    assert claim(0.3, 0.01, many).answer == FOUND
    assert claim(-0.3, 0.01, many).answer == claim(0.3, 0.2, many).answer == NONE
