"""Inverse entropy: its numbers in closed form, its bound, a planted dependence on wording and its null."""

from __future__ import annotations

import math
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses import get
from analyses.answers.input_diversity import alike, dealt, diagonal, inverse_nats, measures
from analyses.core.claim import FOUND, NONE, UNJUDGED
from analyses.core.result import Result
from probe.errors import InputError
from tests import graded

TEXTS = [f"{who} has {n} {what}" for who in ("Ann", "Bob and his aunt") for n, what in ((1, "figs"), (2, "red caps"))]


def asked(follows: float, n_problems: int, n: int, seed: int, n_wordings: int = 4) -> Result:
    """Answers to wordings of which two and two are alike; with chance `follows` the pair decides the answer."""
    rng, parts = np.random.default_rng(seed), []
    for k, wording in enumerate(TEXTS[:n_wordings]):
        said = [
            [str(k // 2 + 1) if rng.random() < follows else str(rng.integers(1, 3)) for _ in range(n)]
            for _ in range(n_problems)
        ]
        rows = graded.answered(said, right="9", wording=wording, variant=f"w{k}")
        parts.append(rows.assign(problem=rows["item"], item=rows["item"] + f"/w{k}"))
    return Result.of(pd.concat(parts, ignore_index=True))


def example(folder: Path) -> dict[str, Any]:
    return {"evaluate": asked(0.8, 9, 3, 0)}


def answer(result: Result) -> str:
    (one,) = result.claims
    return one.answer


@pytest.mark.parametrize(
    ("answers", "want"), [([0] * 12, math.log(12)), (sorted([0, 1, 2, 3] * 3), 4.394), (range(12), 0)]
)
def test_twelve_unlike_wordings(answers: Any, want: float) -> None:
    """All answers equal 2.485, four clusters of three 4.394, all different 0: not monotone, never above n / e."""
    found = measures(np.eye(12), list(answers))
    assert found["inverse_nats"] == pytest.approx(want, abs=5e-4) and found["inverse_nats"] <= found["bound_nats"]
    assert found["excess"] == pytest.approx(0, abs=1e-12), "unlike wordings have no likeness to follow"


def test_identical_inputs_and_answers_are_ln_n_and_nothing_exceeds_the_bound() -> None:
    assert inverse_nats(diagonal(np.ones((5, 5)), np.zeros(5, int))) == pytest.approx(math.log(5))
    rng = np.random.default_rng(0)
    for n in (2, 5, 9):
        like = alike([" ".join(rng.choice(list("abcdef"), 4)) for _ in range(n)])
        assert np.allclose(like, like.T) and like.min() >= 0 and like.max() <= 1
        d = diagonal(like, rng.integers(0, 3, n))
        assert 0 <= inverse_nats(d) <= n / math.e and d.max() <= 1


@pytest.mark.parametrize("answers", [[0, 0, 1, 1, 2], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0], [0, 1, 2, 3, 4]])
def test_the_null_is_the_mean_over_all_deals(answers: list[int]) -> None:
    like = alike([*TEXTS, "Ann has 3 red figs"])
    every = [diagonal(like, np.array(p)).mean() for p in permutations(answers)]
    assert dealt(like, len(set(answers))) == pytest.approx(np.mean(every), rel=1e-12)
    assert measures(like, answers)["alignment_null"] == pytest.approx(np.mean(every), rel=1e-12)


def test_likeness_of_texts_is_the_cosine_of_their_words() -> None:
    assert alike(["a b", "a b", "c d"]).tolist() == pytest.approx(np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]]))


def test_answers_that_follow_the_wording_are_found_and_others_are_not() -> None:
    assert answer(get("input_diversity")(asked(0.7, 30, 6, 0))) == FOUND
    said = [answer(get("input_diversity")(asked(0.0, 20, 4, s))) for s in range(6)]
    assert said.count(FOUND) <= 1 and NONE in said


@pytest.mark.verify
def test_answers_that_ignore_the_wording_over_100_seeds() -> None:
    said = [answer(get("input_diversity")(asked(0.0, 24, 4, s))) for s in range(100)]
    assert said.count(FOUND) <= 10


def test_what_is_missing_is_told() -> None:
    assert answer(get("input_diversity")(asked(0.5, 20, 3, 0, n_wordings=2))) == UNJUDGED
    with pytest.raises(InputError, match="no item has a wording"):
        get("input_diversity")(Result.of(graded.answered([["1", "2"]])))
    bare = Result.of(asked(0.5, 9, 2, 0).table.drop(columns="wording"))
    with pytest.raises(InputError, match="--inputs apart"):
        get("input_diversity")(bare)
    assert get("input_diversity")(bare, inputs="apart").data["inverse_nats"].notnull().all()
