"""Conformal sets: the index of the quantile, coverage as promised, sharp and uniform models, shrinking sets."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses import get
from analyses.answers.conformal_sets import bound
from analyses.core.claim import FOUND
from analyses.core.result import Result
from probe.errors import InputError
from tests import graded


def example(folder: Path) -> dict[str, Any]:
    rates = np.linspace(0.3, 0.9, 24)
    return {"evaluate": graded.swept({s: graded.drawn(rates, 4, s) for s in (0, 10)})}


def choices(p: np.ndarray, right: np.ndarray, **columns: Any) -> Result:
    """A multiple-choice result of items with probabilities [item, option]."""
    rows = [
        {"item": f"q{i:03d}", "group": "g", "answer_kind": "given", "choice": c, "is_right": bool(c == right[i]),
         "ll_nats": float(np.log(p[i, c]))}
        for i in range(len(p)) for c in range(p.shape[1])
    ]  # fmt: skip
    return Result.of(pd.DataFrame(rows).assign(**columns))


def sets(result: Result, **options: Any) -> dict[str, float]:
    data = get("conformal_sets")(None, result, **options).data
    return {name: float(data[name].squeeze()) for name in ("set_size", "covered")}


def dirichlet(n: int, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(k), n)
    return p, np.array([rng.choice(k, p=x) for x in p])


def test_the_index_of_the_quantile() -> None:
    """ceil((n + 1)(1 - alpha)): of 9 scores at .1 the largest, of 8 none is enough."""
    scores = np.arange(9) / 10
    assert bound(scores, 0.1) == 0.8 and bound(scores, 0.5) == 0.4
    assert math.isinf(bound(scores[:8], 0.1)) and math.isinf(bound(scores[:0], 0.1))


def test_coverage_is_as_promised() -> None:
    """40 draws of 400 calibrated items: mean coverage in [.9, .9 + 1 / (n + 1)] up to noise."""
    found = [sets(choices(*dirichlet(400, 10, seed)), splits=1)["covered"] for seed in range(10)]
    assert 0.885 <= np.mean(found) <= 0.92


def test_a_sharp_model_needs_one_and_a_uniform_one_all_but_alpha() -> None:
    right = np.random.default_rng(0).integers(0, 10, 200)
    sharp = np.full((200, 10), 1e-6)
    sharp[np.arange(200), right] = 1
    assert sets(choices(sharp, right)) == {"set_size": 1, "covered": 1}
    uniform = choices(np.full((200, 10), 0.1), right)
    assert sets(uniform)["set_size"] == 10
    assert sets(uniform, ties="random")["set_size"] == pytest.approx(9, abs=0.3)


def test_sampled_answers_and_sets_without_a_size() -> None:
    sure = get("conformal_sets")(Result.of(graded.answered([["1"] * 4] * 40)))
    assert float(sure.data["set_size"].squeeze()) == 1 and float(sure.data["unbounded"].squeeze()) == 0
    never = get("conformal_sets")(Result.of(graded.answered([["2"] * 4] * 40)))
    assert float(never.data["unbounded"].squeeze()) == 1 and np.isnan(never.data["set_size"]).all()
    few = get("conformal_sets")(Result.of(graded.answered([["1"] * 4] * 6)))
    assert "needs 9" in few.warnings[0] and float(few.data["covered"].squeeze()) == 1


def test_shrinking_sets_are_found_and_the_same_rates_are_not() -> None:
    before, after = np.full(60, 0.6), np.full(60, 0.97)
    many = lambda rates, seed: graded.drawn(rates, 16, seed)  # noqa: E731
    (one,) = get("conformal_sets")(graded.swept({0: many(before, 0), 9: many(after, 1)})).claims
    assert one.answer == FOUND and one.effect < 0 and one.p <= 0.01
    assert nulls(range(6)) <= 1


def nulls(seeds: range) -> int:
    """How many runs of the same rates, sampled anew, are called sharper."""
    rates = np.full(40, 0.6)
    found = [graded.swept({0: graded.drawn(rates, 8, s), 9: graded.drawn(rates, 8, s + 500)}) for s in seeds]
    return [get("conformal_sets")(f, splits=2).claims[0].answer for f in found].count(FOUND)


@pytest.mark.verify
def test_the_same_rates_sampled_anew_over_200_seeds() -> None:
    assert nulls(range(200)) <= 18


def test_one_of_the_two_inputs() -> None:
    with pytest.raises(InputError, match="one of them"):
        get("conformal_sets")()
    with pytest.raises(InputError, match="alpha=2"):
        get("conformal_sets")(Result.of(graded.answered([["1"]])), alpha=2)
