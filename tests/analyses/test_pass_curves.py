"""pass@k over a run: the closed form, planted crossings, and the same checkpoint sampled anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses import get, run
from analyses.core.claim import FOUND, NONE, UNJUDGED
from analyses.core.result import Result
from probe.errors import InputError
from tests import graded


def example(folder: Path) -> dict[str, Any]:
    rates = np.linspace(0.1, 0.9, 10)
    return {"evaluate": graded.swept({s: graded.drawn(rates, 4, s) for s in (0, 10)})}


def analysed(before: np.ndarray, after: np.ndarray, seed: int = 0, n: int = 16) -> Result:
    steps = {0: graded.drawn(before, n, 2 * seed), 10: graded.drawn(after, n, 2 * seed + 1)}
    return get("pass_curves")(graded.swept(steps))


def answers(result: Result) -> dict[str, str]:
    return {c.kind: c.answer for c in result.claims}


def test_the_closed_form_and_the_vote() -> None:
    rows = {0: graded.answered([["1", "2", "2", None]]), 5: graded.answered([["1", "1", "2", None]])}
    table = run("pass_curves", evaluate=graded.swept(rows), ks=(2,)).table.set_index(["step", "k"])
    # Of 4 samples with 1 right: half of the pairs hold it. With 2 right: 1 - 1/6.
    assert table.loc[(0, 2), "pass_at_k"] == 0.5 and table.loc[(5, 2), "pass_at_k"] == pytest.approx(5 / 6)
    assert table.loc[(5, 2), "pass_at_k_change"] == pytest.approx(1 / 3)
    assert table.loc[(0, 1), "maj_at_k"] == table.loc[(0, 1), "pass_at_k"] == 0.25
    assert table.loc[(0, 4), "maj_at_k"] == 0 and table.loc[(5, 4), "maj_at_k"] == 1


def test_sharpening_some_problems_and_losing_others_is_narrower() -> None:
    found = analysed(np.full(60, 0.15), np.repeat([0.9, 0.0], 30))
    assert answers(found) == {"narrower": FOUND, "broader": NONE}
    assert float(found.data["crossing_k"].sel(step=10).squeeze()) == 8  # 1 - .85^8 = .73 against .50; at 4 .48


def test_solving_what_was_never_solved_is_broader() -> None:
    found = analysed(np.repeat([0.5, 0.0], 30), np.repeat([0.5, 0.4], 30))
    assert answers(found) == {"narrower": NONE, "broader": FOUND}
    assert np.isnan(found.data["crossing_k"]).all()


def test_the_same_checkpoint_sampled_anew_is_neither() -> None:
    """8 runs of mixed difficulty: nothing is found in more than one (95 % intervals over two looks)."""
    rates = np.random.default_rng(0).beta(0.5, 0.5, 60)
    said = [answers(analysed(rates, rates, seed)) for seed in range(8)]
    assert sum(FOUND in s.values() for s in said) <= 1


@pytest.mark.verify
def test_the_same_checkpoint_sampled_anew_over_300_seeds() -> None:
    rates = np.random.default_rng(0).beta(0.5, 0.5, 60)
    said = [answers(analysed(rates, rates, seed)) for seed in range(300)]
    assert sum(s["broader"] == FOUND for s in said) <= 15  # 2.5 % one-sided, halved by two looks: 4 expected
    assert sum(s["narrower"] == FOUND for s in said) <= 3


def test_equal_samples_change_nothing_and_few_items_are_not_judged() -> None:
    rows = graded.drawn(np.linspace(0, 1, 20), 8, 0)
    same = run("pass_curves", evaluate=graded.swept({0: rows, 1: rows}))
    assert (same.table["pass_at_k_change"] == 0).all() and answers(same) == {"narrower": NONE, "broader": NONE}
    few = run("pass_curves", evaluate=graded.swept({0: graded.drawn([0.5], 4, 0), 1: graded.drawn([0.5], 4, 1)}))
    assert set(answers(few).values()) == {UNJUDGED}


def test_one_step_and_no_samples_are_refused() -> None:
    rows = graded.drawn([0.5, 0.5], 4, 0)
    with pytest.raises(InputError, match="compares checkpoints"):
        run("pass_curves", evaluate=Result.of(rows))
    with pytest.raises(InputError, match="--samples"):
        run("pass_curves", evaluate=Result.of(pd.DataFrame(rows).assign(decoding="greedy", step=0)))
