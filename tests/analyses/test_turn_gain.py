"""Gain per turn: halving equal hypotheses, telescoping, a planted dialogue and turns that say nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses import get
from analyses.answers.turn_gain import gains
from analyses.core.claim import FOUND
from analyses.core.result import Result
from probe.errors import InputError
from tests import graded


def dialogue(open_after: list[int], n_items: int, seed: int, n: int = 8) -> Result:
    """Answers drawn from as many hypotheses as are open after each turn."""
    rng = np.random.default_rng(seed)
    parts = []
    for turn, k in enumerate(open_after):
        said = [[str(a) for a in rng.integers(1, k + 1, n)] for _ in range(n_items)]
        parts.append(graded.answered(said, turn=float(turn)))
    return Result.of(pd.concat(parts, ignore_index=True))


def example(folder: Path) -> dict[str, Any]:
    return {"evaluate": dialogue([4, 2, 1], 9, 0), "deals": 10}


def answer(result: Result) -> str:
    (one,) = result.claims
    return one.answer


def test_yes_or_no_on_eight_hypotheses_gives_ln_2_a_turn_and_telescopes() -> None:
    said = {0: "12345678", 1: "11223344", 2: "11112222", 3: "11111111"}
    rows = [graded.answered([list(text)], turn=turn) for turn, text in said.items()]
    result = get("turn_gain")(Result.of(pd.concat(rows, ignore_index=True)))
    assert result.table["gain_nats"].tolist()[1:] == pytest.approx([math.log(2)] * 3)
    assert result.data["total_nats"].item() == pytest.approx(math.log(8)) == result.table["entropy_nats"].iloc[0]


def test_the_same_belief_gains_nothing() -> None:
    assert gains(["a", "b"], ["b", "a"], 20, 0)[0] == 0
    assert gains(["a", "a"], ["a", "a"], 20, 0) == (0, 0)


def test_a_dialogue_that_narrows_is_found_and_idle_turns_are_not() -> None:
    assert answer(get("turn_gain")(dialogue([6, 3, 1], 20, 0))) == FOUND
    said = [answer(get("turn_gain")(dialogue([4, 4, 4], 20, seed), deals=20)) for seed in range(6)]
    assert said.count(FOUND) <= 1


def test_a_log_without_turns_is_refused() -> None:
    with pytest.raises(InputError, match="turn"):
        get("turn_gain")(Result.of(graded.answered([["1", "2"]])))
    with pytest.raises(InputError, match="two turns"):
        get("turn_gain")(Result.of(graded.answered([["1", "2"]], turn=0.0)))
