"""Behaviours: patterns, the contrast within items, a planted effect, and difficulty that only looks like one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses import get
from analyses.answers.behaviours import interaction
from analyses.core.claim import FOUND, NONE
from analyses.core.result import Result
from probe.errors import InputError
from tests import graded

CHECK = ("checking=let me check",)


def shown(effect: float, by_difficulty: float, seed: int, n: int = 40) -> Result:
    """Items of random difficulty; checking raises the chance of being right by `effect`, and hard items are checked."""
    rng = np.random.default_rng(seed)
    answers, texts = [], []
    for _ in range(n):
        ease = rng.uniform(0.2, 0.7)
        checks = rng.random(8) < np.clip(0.5 + by_difficulty * (0.45 - ease), 0, 1)
        right = rng.random(8) < ease + effect * checks
        answers.append(["1" if r else "2" for r in right])
        texts += ["let me check: so" if c else "so" for c in checks]
    return Result.of(graded.answered(answers).assign(text=texts))


def example(folder: Path) -> dict[str, Any]:
    return {"evaluate": shown(0.2, 0.0, 0, 10)}


def answer(result: Result) -> str:
    (one,) = result.claims
    return one.answer


def test_rates_and_contrasts_of_one_item() -> None:
    rows = graded.answered([["1", "1", "2", "2"]]).assign(text=["let me check", "a b c", "let me check", "so"])
    row = get("behaviours")(Result.of(rows), patterns=CHECK).table.iloc[0]
    assert row["rate"] == 0.5 and row["right_with"] == row["right_without"] == 0.5 and row["contrast"] == 0
    assert row["length_with"] == 3 and row["length_without"] == 2 and row["exploration"] == 0.5


def test_a_planted_effect_is_found_and_difficulty_is_not_taken_for_one() -> None:
    assert answer(get("behaviours")(shown(0.25, 0.0, 0), patterns=CHECK)) == FOUND
    said = [answer(get("behaviours")(shown(0.0, 2.0, s), patterns=CHECK)) for s in range(8)]
    assert said.count(FOUND) <= 1 and NONE in said, "hard items are checked more often and are wrong more often"


def test_the_usual_patterns() -> None:
    texts = ["Wait, that's wrong.", "Let me verify: 3 + 4", "First, we need to add", "it is 7"]
    rows = graded.answered([["1"] * 4]).assign(text=texts)
    rates = get("behaviours")(Result.of(rows)).table.set_index("variant")["rate"]
    assert rates.to_dict() == {"backtracking": 0.25, "verification": 0.25, "subgoals": 0.25}


def test_no_interaction_is_zero() -> None:
    cells = pd.DataFrame({"rate": [1, 0, 1, 0.0], "right": [1, 1, 0, 0.0], "exploration": [0.4, 0.3, 0.6, 0.5]})
    assert interaction(cells)["interaction"] == pytest.approx(0)
    cells.loc[0, "exploration"] = 0.7
    assert interaction(cells)["interaction"] == pytest.approx(0.3)
    assert np.isnan(interaction(cells.iloc[:3])["interaction"])


def test_patterns_that_are_none_are_refused() -> None:
    for bad, told in ((("check",), "NAME=REGEX"), (("a=(",), "not a regular")):
        with pytest.raises(InputError, match=told):
            get("behaviours")(shown(0, 0, 0, 2), patterns=bad)
