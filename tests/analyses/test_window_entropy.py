"""Windows of entropy: a constant stays, one token ahead is the next token's, difficulty by pass rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses import run
from analyses.credit.window_entropy import difficulty, windows
from probe import Rollouts
from tests import logs


def example(folder: Path) -> dict[str, Any]:
    return {"rollouts": Rollouts.of(logs.full()), "window": 2}


def test_windows_end_with_their_response() -> None:
    own = np.array([0, 0, 0, 0, 1, 1])
    found = windows(np.array([1.0, 2, 4, 6, 9, 3]), own, 2)
    np.testing.assert_allclose(found, [3, 5, np.nan, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(windows(np.array([1.0, 2, 4]), np.zeros(3, int), 1), [2, 4, np.nan])
    assert np.isnan(windows(np.ones(3), np.zeros(3, int), 5)).all()


def test_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    own, entropy = np.repeat([0, 1, 2], [7, 3, 9]), rng.random(19)
    for width in (1, 2, 4):
        want = [
            entropy[i + 1 : i + 1 + width].mean() if i + width < 19 and own[i + width] == own[i] else np.nan
            for i in range(19)
        ]
        np.testing.assert_allclose(windows(entropy, own, width), want)


def test_a_token_without_an_entropy_takes_its_windows_and_no_others() -> None:
    found = windows(np.array([1.0, np.nan, 4, 6, 9, 3, 5]), np.array([0, 0, 0, 0, 1, 1, 1]), 2)
    np.testing.assert_allclose(found, [np.nan, 5, np.nan, np.nan, 4, np.nan, np.nan])


def test_a_constant_entropy_costs_nothing() -> None:
    rows = [{**r, "H": np.full(len(r["H"]), 0.5, np.float32)} for r in logs.full()]
    table = run("window_entropy", rollouts=Rollouts.of(rows), window=1).table.dropna(subset="window_nats")
    assert set(table["window_nats"]) == {0.5}
    assert (table["cost_nats"] == 0).all()


def test_difficulty_by_thirds() -> None:
    assert difficulty(np.array([1, 2 / 3, 0.5, 1 / 3, 0.3, 0])).tolist() == [
        "easy",
        "easy",
        "medium",
        "medium",
        "hard",
        "hard",
    ]


def test_without_entropies_nothing_is_measured() -> None:
    bare = [{k: v for k, v in r.items() if k != "H"} for r in logs.rows()]
    result = run("window_entropy", rollouts=Rollouts.of(bare))
    assert result.table["window_nats"].isna().all()
    assert any("not measured" in w for w in result.warnings)
    assert result.table["difficulty"].isin(["easy", "medium", "hard"]).all()


def test_short_responses_have_no_window() -> None:
    with pytest.raises(Exception, match="window=0"):
        run("window_entropy", rollouts=Rollouts.of(logs.full()), window=0)
