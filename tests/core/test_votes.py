"""pass@k and maj@k against enumeration of all subsets."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from analyses.core.reading.votes import clusters, majority, pass_at_k
from probe.errors import InputError


def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample():
    assert pass_at_k(16, 2, 4) == pytest.approx(0.45)
    assert pass_at_k(10, 3, 5) == pytest.approx(0.916667, abs=5e-7)
    assert pass_at_k(7, 3, 1) == pytest.approx(3 / 7)
    assert pass_at_k(5, 4, 2) == 1.0
    assert pass_at_k(5, 0, 5) == 0.0
    assert math.isnan(pass_at_k(3, 1, 4))
    marks = [1, 1, 0, 0, 0, 0]
    subsets = list(itertools.combinations(marks, 3))
    assert pass_at_k(6, 2, 3) == pytest.approx(sum(any(s) for s in subsets) / len(subsets))
    with pytest.raises(InputError):
        pass_at_k(3, 4, 1)


def by_enumeration(answers: list[str | None], right: list[float], k: int) -> float:
    won = []
    for chosen in itertools.combinations(range(len(answers)), k):
        votes = Counter(answers[i] if answers[i] is not None else i for i in chosen)
        top = [a for a, n in votes.items() if n == max(votes.values())]
        won.append(sum(any(right[i] == 1.0 and answers[i] == a for i in chosen) for a in top) / len(top))
    return float(np.mean(won))


def test_majority_is_exact_over_all_subsets():
    rng = np.random.default_rng(0)
    for _ in range(40):
        n = int(rng.integers(1, 9))
        answers = [None if a == 4 else str(a) for a in rng.integers(0, 5, n)]
        right = [math.nan if a is None else float(a in ("0", "3")) for a in answers]
        for k in range(1, n + 1):
            assert majority(answers, right, k) == pytest.approx(by_enumeration(answers, right, k), abs=1e-12)


def test_one_vote_is_one_sample_and_ties_count_by_their_share():
    answers, right = ["7", "8", None, "9", "7", "6"], [1.0, 0.0, math.nan, 0.0, 1.0, 0.0]
    assert majority(answers, right, 1) == pytest.approx(pass_at_k(6, 2, 1))
    assert majority(["7", "7", "8"], [1, 1, 0], 3) == 1.0
    assert majority(["7", "8"], [1, 0], 2) == 0.5
    assert majority([None, "8"], [math.nan, 1.0], 2) == 0.5  # an unreadable answer is one of its own
    assert majority([None, None], [math.nan, math.nan], 2) == 0.0
    assert math.isnan(majority(["7"], [1], 2))


def test_many_samples_are_counted_at_once():
    answers = [str(i % 40) for i in range(64)]
    assert 0 < majority(answers, [float(a == "3") for a in answers], 32) < 0.2


def test_missing_answers_of_a_table_are_each_their_own():
    assert len(set(clusters(["3", None, float("nan"), "3"]))) == 3  # type: ignore[list-item]
