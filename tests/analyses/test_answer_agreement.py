"""Answers over wordings: identical and disjoint cases in closed form, a planted dependence, and its null."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses import get
from analyses.answers.answer_agreement import divergence, measures
from analyses.core.claim import FOUND, NONE, UNJUDGED
from analyses.core.result import Result
from probe.errors import InputError
from tests import graded


def worded(rates: dict[str, float], n_problems: int, n: int, seed: int) -> Result:
    """Samples of every wording of every problem, right at the wording's rate."""
    parts = []
    for k, (variant, rate) in enumerate(rates.items()):
        rows = graded.drawn([rate] * n_problems, n, 10 * seed + k)
        parts.append(rows.assign(problem=rows["item"], variant=variant, item=rows["item"] + "/" + variant))
    return Result.of(pd.concat(parts, ignore_index=True))


def example(folder: Path) -> dict[str, Any]:
    return {"evaluate": worded({"plain": 0.8, "story": 0.4}, 9, 4, 0), "deals": 10}


def answer(result: Result) -> str:
    (one,) = result.claims
    return one.answer


def test_identical_and_disjoint_wordings() -> None:
    same = measures([["a", "b"], ["a", "b"]], 5, 0)
    assert same["jsd_nats"] == 0 and same["agreement"] == 0.5 and same["entropy_variance"] == 0
    assert measures([["a", "a"], ["a", "a"]], 5, 0)["agreement"] == 1
    apart = measures([["a", "a"], ["b", "b"]], 5, 0)
    assert apart["jsd_nats"] == pytest.approx(math.log(2)) and apart["agreement"] == 0 and apart["within"] == 1
    assert divergence(np.eye(3)) == pytest.approx(math.log(3))


def test_one_response_a_wording_has_no_null() -> None:
    found = measures([["a"], ["b"]], 5, 0)
    assert np.isnan(found["jsd_null_nats"]) and np.isnan(found["within"]) and found["agreement"] == 0
    assert answer(get("answer_agreement")(worded({"a": 0.9, "b": 0.1}, 20, 1, 0))) == UNJUDGED


def test_a_wording_that_matters_is_found_and_one_that_repeats_is_not() -> None:
    assert answer(get("answer_agreement")(worded({"plain": 0.9, "story": 0.3}, 40, 8, 0))) == FOUND
    said = [answer(get("answer_agreement")(worded({"a": 0.6, "b": 0.6}, 30, 6, s), deals=20)) for s in range(8)]
    assert said.count(FOUND) <= 1 and NONE in said


@pytest.mark.verify
def test_repeated_wordings_over_200_seeds() -> None:
    found = [get("answer_agreement")(worded({"a": 0.6, "b": 0.6}, 30, 6, s), deals=20) for s in range(200)]
    assert [answer(f) for f in found].count(FOUND) <= 14
    excess = np.array([f.table["jsd_excess_nats"].mean() for f in found])
    assert abs(excess.mean()) < 3 * excess.std() / np.sqrt(len(excess))


def test_prompts_without_wordings_are_refused() -> None:
    with pytest.raises(InputError, match="no item has a wording"):
        get("answer_agreement")(Result.of(graded.answered([["1", "2"]])))
    one = worded({"plain": 0.5}, 3, 2, 0)
    with pytest.raises(InputError, match="two wordings"):
        get("answer_agreement")(one)
