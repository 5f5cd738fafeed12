"""Bits of an outcome and the tokens an advantage reaches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses import run
from analyses.credit.supervision_density import binary_bits
from probe import Rollouts
from tests import logs


def example(folder: Path) -> dict[str, Any]:
    return {"rollouts": Rollouts.of(logs.full())}


def test_bits_of_an_outcome() -> None:
    np.testing.assert_allclose(binary_bits(np.array([0.5, 0, 1, 0.25])), [1, 0, 0, 0.8112781244591328])


def test_density_of_a_group() -> None:
    made = [
        {
            "step": 1,
            "prompt_id": "q",
            "prompt_token_ids": [1],
            "response_token_ids": [i] * 10,
            "reward": r,
            "advantage": a,
        }
        for i, (r, a) in enumerate([(1.0, 1.0), (0.0, -1.0), (1.0, 1.0), (0.0, -1.0)])
    ]
    row = run("supervision_density", rollouts=Rollouts.of(made)).table.iloc[0]
    assert (row["bits_per_rollout"], row["bits_per_token"], row["supervised"]) == (1.0, 0.1, 1.0)
    flat = [{**r, "reward": 1.0, "advantage": 0.0} for r in made]
    row = run("supervision_density", rollouts=Rollouts.of(flat)).table.iloc[0]
    assert (row["bits_per_rollout"], row["supervised"]) == (0.0, 0.0)
    dense = [{**r, "advantage": [1.0] * 5 + [0.0] * 5} for r in made]
    result = run("supervision_density", rollouts=Rollouts.of(dense))
    assert result.data["supervised"].item() == pytest.approx(0.5)
