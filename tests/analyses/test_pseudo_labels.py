"""The gap between true and majority advantages: the closed form and its borders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses import run
from analyses.credit.pseudo_labels import majority_gap
from probe import Rollouts
from tests import logs


def gap_of_disjoint(n: int, votes: int, correct: int) -> float:
    """The closed form for rewards of 0 and 1 and a majority that is wrong: x votes, y correct, no response both.

    At its borders: all for one wrong answer leaves no spread on either side (0), nothing correct one side (sqrt n).
    """
    if votes == n:
        return 0.0
    if correct == 0:
        return float(np.sqrt(n))
    return float(np.sqrt(2 * n * (1 + np.sqrt(votes * correct / ((n - votes) * (n - correct))))))


def example(folder: Path) -> dict[str, Any]:
    return {"rollouts": Rollouts.of(logs.full())}


def gap(n: int, votes: int, correct: int) -> float:
    """A group with `votes` for one wrong answer, `correct` right ones of another, the rest all different."""
    names = ["wrong"] * votes + ["right"] * correct + [f"other {i}" for i in range(n - votes - correct)]
    cluster = np.unique(names, return_inverse=True)[1]
    success = np.array([float(name == "right") for name in names])
    return majority_gap(cluster, success, np.ones(n))["gap"]


@pytest.mark.parametrize(
    ("n", "votes", "correct", "printed"),
    [(8, 4, 2, 5.0237), (16, 9, 3, 7.0307), (8, 5, 0, 2.8284)],
)
def test_the_printed_gaps(n: int, votes: int, correct: int, printed: float) -> None:
    assert gap(n, votes, correct) == pytest.approx(printed, abs=5e-5)
    assert gap_of_disjoint(n, votes, correct) == pytest.approx(printed, abs=5e-5)


def test_opposites_are_twice_root_n_and_ties_are_averaged() -> None:
    assert gap_of_disjoint(8, 4, 4) == pytest.approx(5.6569, abs=5e-5)
    # Four against four: the majority is one of two, and one of them is right.
    assert gap(8, 4, 4) == pytest.approx(5.6569 / 2, abs=5e-5)


def test_borders() -> None:
    assert gap(8, 8, 0) == gap_of_disjoint(8, 8, 0) == 0
    assert gap(8, 3, 0) == pytest.approx(np.sqrt(8))
    right = np.array([0, 0, 0, 1])
    assert majority_gap(right, np.array([1.0, 1, 1, 0]), np.ones(4))["gap"] == 0
    assert np.isnan(majority_gap(right, np.zeros(4), np.zeros(4))["gap"])


def test_the_closed_form_holds_for_every_group_of_twelve() -> None:
    for votes in range(2, 12):
        for correct in range(min(votes, 13 - votes)):
            assert gap(12, votes, correct) == pytest.approx(gap_of_disjoint(12, votes, correct), abs=1e-9)


def test_over_a_log() -> None:
    rows = [
        {"step": 1, "prompt_id": "q", "prompt_text": "?", "response_text": f"it is {a}", "reward": float(a == 7)}
        for a in (3, 3, 3, 3, 7, 7, 1, 2)
    ]
    result = run("pseudo_labels", rollouts=Rollouts.of(rows))
    row = result.table.iloc[0]
    assert (row["votes"], row["n_correct"], row["majority_right"]) == (4, 2, 0.0)
    assert row["gap"] == pytest.approx(5.0237, abs=5e-5)
