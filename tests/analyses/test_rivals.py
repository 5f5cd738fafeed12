"""Rivals of a gain: one of form only is told with its share, one at constant form is not, a twin is taken off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses import Result, run
from analyses.mechanism.rivals import repetition, split
from probe import InputError
from tests import graded


def example(folder: Path) -> dict[str, Any]:
    del folder
    return {
        "evaluate": responses((0.5, 0.9), (0.6, 0.6)),
        "twin": responses((0.5, 0.5), (0.6, 0.6), seed=1),
        "draws": 50,
    }


def responses(readable: tuple[float, float], right: tuple[float, float], *, seed: int = 0, n: int = 40) -> Result:
    """Two steps of eight samples an item: how many can be read, and how many of those are right."""
    rng = np.random.default_rng(seed)
    steps: dict[int, pd.DataFrame] = {}
    for step, can, knows in zip((0, 100), readable, right, strict=True):
        draws = rng.random((n, 8, 2))
        told = [[("1" if y < knows else "2") if x < can else None for x, y in item] for item in draws]
        steps[step] = graded.answered(told)
    return graded.swept(steps)


def test_a_gain_of_format_only_is_told_with_its_share() -> None:
    result = run("rivals", evaluate=responses((0.4, 0.95), (0.6, 0.6), n=120), draws=400)
    (said,) = result.claims
    assert said.is_found and said.place == "read"
    assert said.effect == pytest.approx(1, abs=0.2)
    assert float(result.data["gain"]) == pytest.approx(0.55 * 0.6, abs=0.1)
    own = result.data.sel(variant="read")
    assert float(own["mix"] + own["within"]) == pytest.approx(float(result.data["gain"]))
    assert float(result.data.sel(variant="boxed")["mix"]) == 0


def test_a_gain_at_constant_form_is_not() -> None:
    result = run("rivals", evaluate=responses((0.9, 0.9), (0.3, 0.8)), draws=200)
    (said,) = result.claims
    assert said.answer == "none found" and said.effect < 0.4


def test_code_that_goes_with_being_right_is_found() -> None:
    """Right answers are written as code, and training writes more code."""
    before, after = (responses((1.0, 1.0), rates).table for rates in ((0.2, 0.2), (0.8, 0.8)))
    rows = pd.concat([before[before["step"] == 0], after[after["step"] == 100]])
    rows["text"] = np.where(rows["status"] == "correct", "```print(1)```", "so it is")
    result = run("rivals", evaluate=Result.of(rows), draws=100)
    assert float(result.data["share"].sel(variant="code")) == pytest.approx(1, abs=0.05)


def test_a_split_by_hand() -> None:
    mean = {
        "p00": 0.5,
        "p01": 0.5,
        "p10": 0.2,
        "p11": 0.8,
        "right00": 0.0,
        "right01": 0.25,
        "right10": 0.02,
        "right11": 0.56,
    }
    mix, within = split(mean)
    assert mix == pytest.approx(0.3 * (0.5 + 0.7) / 2 - 0.3 * (0.0 + 0.1) / 2)
    assert within == pytest.approx(0.65 * 0.2 + 0.35 * 0.1)
    assert mix + within == pytest.approx(0.58 - 0.25)
    assert repetition("a b c d a b c d") == pytest.approx(1 / 5) and repetition("a b") == 0


def test_a_twin_no_gain_and_one_step() -> None:
    result = run(
        "rivals", evaluate=responses((0.9, 0.9), (0.3, 0.7)), twin=responses((0.9, 0.9), (0.3, 0.5), seed=1), draws=50
    )
    assert float(result.data["beyond_twin"]) == pytest.approx(0.18, abs=0.08)
    (said,) = run("rivals", evaluate=responses((0.5, 0.5), (0.5, 0.5), n=8), draws=50).claims
    assert said.answer == "none found" and "nothing to explain" in said.what
    once = responses((0.5, 0.5), (0.5, 0.5)).table.query("step == 0")
    with pytest.raises(InputError, match="compares two steps"):
        run("rivals", evaluate=Result.of(once))


@pytest.mark.verify
def test_of_thirty_gains_of_either_kind() -> None:
    """Gains at constant form, and gains of format only; as made on 2026-11-29: none of 30 false, none of 30 missed."""
    false, missed = 0, 0
    for seed in range(30):
        knows = responses((0.9, 0.9), (0.3, 0.7), seed=seed)
        form = responses((0.4, 0.95), (0.6, 0.6), seed=seed, n=120)
        false += any(c.is_found for c in run("rivals", evaluate=knows, draws=200).claims)
        missed += not all(c.is_found and c.place == "read" for c in run("rivals", evaluate=form, draws=200).claims)
    assert false <= 4 and missed <= 4
