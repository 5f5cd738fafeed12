"""The split of a change of pass@1: closed forms, its null, planted gains, and the same checkpoint sampled anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from analyses import get, run
from analyses.answers.capability import PARTS, expected
from analyses.core.claim import FOUND, NONE, UNJUDGED
from analyses.core.result import Result
from probe.errors import InputError
from tests import graded


def example(folder: Path) -> dict[str, Any]:
    rates = np.linspace(0.0, 0.9, 10)
    return {"evaluate": graded.swept({s: graded.drawn(rates, 4, s) for s in (0, 10)})}


def analysed(before: np.ndarray, after: np.ndarray, seed: int = 0, n: int = 16) -> Result:
    steps = {0: graded.drawn(before, n, 2 * seed), 10: graded.drawn(after, n, 2 * seed + 1)}
    return get("capability")(graded.swept(steps))


def answers(result: Result) -> dict[str, str]:
    return {c.kind: c.answer for c in result.claims}


def test_the_published_split_is_not_zero_without_a_change() -> None:
    """p = .1, n = 8: gain p (1 - p)^n = .043, self-distillation .012, forgetting -.055; they sum to 0."""
    chance = binom.pmf(np.arange(9), 8, 0.1)
    found = expected(np.outer(chance, chance))
    assert found["capability_gain"] == pytest.approx(0.1 * 0.9**8, abs=1e-12)
    assert [round(found[part], 3) for part in PARTS] == [0.012, 0.043, -0.055]
    assert sum(found.values()) == pytest.approx(0, abs=1e-12)


def test_the_gain_beyond_its_null_has_a_closed_form() -> None:
    """P(no right one in the half) x (p after - c / the rest); every part sums to the change of pass@1."""
    rows = {0: graded.answered([["1", "1", "2", "2", "2", "2"]]), 1: graded.answered([["1", "2", "1"]])}
    row = run("capability", evaluate=graded.swept(rows)).table.iloc[0]
    empty = (4 * 3 * 2) / (6 * 5 * 4)  # no right one among three of six
    assert row["capability_gain"] == pytest.approx(empty * 2 / 3)
    assert row["capability_gain_null"] == pytest.approx(empty * 2 / 3)
    assert row["capability_gain_excess"] == pytest.approx(empty * (2 / 3 - 2 / 3), abs=1e-12)
    for suffix in ("", "_excess", "_all"):
        assert sum(row[part + suffix] for part in PARTS) == pytest.approx(row["change"]), suffix
    assert row["change"] == pytest.approx(2 / 3 - 1 / 3)


def test_an_unsolved_problem_may_have_a_rate() -> None:
    rows = {0: graded.answered([["2"] * 8]), 1: graded.answered([["1"] * 8])}
    row = run("capability", evaluate=graded.swept(rows)).table.iloc[0]
    assert (1 - row["rate_bound"]) ** 8 == pytest.approx(0.05)
    assert row["capability_gain_excess"] == row["capability_gain_all"] == 1.0


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ([0.5, 0.0], [0.5, 0.5], {"capability gain"}),
        ([0.4, 0.0], [0.9, 0.0], {"self distillation"}),
        ([0.8, 0.0], [0.2, 0.0], {"forgetting"}),
        ([0.4, 0.0, 0.9], [0.9, 0.5, 0.2], {"capability gain", "self distillation", "forgetting"}),
    ],
)
def test_planted_changes_are_found_and_no_others(before: list[float], after: list[float], found: set[str]) -> None:
    said = answers(analysed(np.repeat(before, 30), np.repeat(after, 30)))
    assert {kind for kind, answer in said.items() if answer == FOUND} == found, said


def test_the_same_checkpoint_sampled_anew_gains_and_forgets_nothing() -> None:
    """8 runs: what is found is at most what 5 % of three looks allow."""
    rates = np.random.default_rng(1).beta(0.4, 0.8, 60)
    said = [answers(analysed(rates, rates, seed)) for seed in range(8)]
    assert sum(FOUND in s.values() for s in said) <= 1


@pytest.mark.verify
def test_the_same_checkpoint_sampled_anew_over_300_seeds() -> None:
    rates = np.random.default_rng(1).beta(0.4, 0.8, 60)
    found = [analysed(rates, rates, seed) for seed in range(300)]
    assert sum(FOUND in answers(f).values() for f in found) <= 15
    gains = np.array([f.table["capability_gain_excess"].mean() for f in found])
    assert abs(gains.mean()) < 3 * gains.std() / np.sqrt(len(gains))


def test_equal_samples_have_no_change_and_few_items_are_not_judged() -> None:
    few = analysed(np.array([0.5, 0.2]), np.array([0.5, 0.9]))
    assert set(answers(few).values()) == {UNJUDGED}
    solved = analysed(np.ones(20), np.ones(20))
    assert set(answers(solved).values()) == {NONE}


def test_one_sample_is_refused() -> None:
    with pytest.raises(InputError, match="at least 2 samples"):
        run("capability", evaluate=graded.swept({s: graded.drawn([0.5] * 9, 1, s) for s in (0, 1)}))
