"""Choosing by loss: monotone and shifted curves, a planted regret, and flat accuracy, whose regret is luck."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses import get
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim
from analyses.core.result import Result
from probe.errors import InputError

STEPS = np.arange(0, 80, 10)


def example(folder: Path) -> dict[str, Any]:
    return {"curves": pd.DataFrame({"step": STEPS, "accuracy": STEPS / 100, "perplexity": 3 - STEPS / 100})}


def curves(accuracy: np.ndarray, loss: np.ndarray) -> Result:
    return get("loss_choice")(pd.DataFrame({"step": STEPS, "accuracy": accuracy, "perplexity": np.exp(loss)}))


def swept(accuracy: np.ndarray, loss: np.ndarray, seed: int, n: int = 80) -> Result:
    """Sweeps of items that are right with the accuracy of their step."""
    rng = np.random.default_rng(seed)
    named = [{"item": f"q{i}", "group": "g", "answer_kind": "given", "step": int(s)} for s in STEPS for i in range(n)]
    rows = pd.DataFrame(named)
    right = rng.random(len(rows)) < np.repeat(accuracy, n)
    nll = np.repeat(loss, n) + rng.normal(0, 0.02, len(rows))
    scores = rows.assign(mask="answer", nll_nats=nll * 5, n_tokens=5)
    marks = rows.assign(decoding="greedy", sample=0, status=np.where(right, "correct", "wrong"))
    return get("loss_choice")(None, Result.of(scores), Result.of(marks), splits=20)


def said(result: Result) -> Claim:
    (one,) = result.claims
    return one


def test_monotone_curves_have_no_lag_no_regret_and_one_order() -> None:
    data = curves(STEPS / 100, 1 - STEPS / 100).data
    assert [float(data[q]) for q in ("lag", "regret", "rank_correlation")] == [0, 0, 1]
    assert float(curves(STEPS / 100, STEPS / 100).data["rank_correlation"]) == -1


def test_a_shifted_parabola() -> None:
    """Accuracy peaks at step 20, loss is least at 50: lag +30, regret the square of the shift."""
    data = curves(0.9 - ((STEPS - 20) / 100) ** 2, 1 + ((STEPS - 50) / 100) ** 2).data
    assert float(data["lag"]) == 30 and float(data["regret"]) == pytest.approx(0.09)


def test_curves_alone_do_not_say_what_is_luck() -> None:
    assert said(curves(STEPS / 100, 1 - STEPS / 100)).answer == UNJUDGED
    flat = curves(np.full(8, 0.5), 1 - STEPS / 100).data
    assert np.isnan(flat["rank_correlation"]) and float(flat["regret"]) == 0


def test_a_planted_regret_is_found() -> None:
    one = said(swept(0.8 - STEPS / 200, 1 - STEPS / 100, 0))
    assert one.answer == FOUND and one.low < 0.35 < one.high


def test_flat_accuracy_has_regret_by_luck_and_none_is_found() -> None:
    """8 runs of one accuracy at every step: the naive regret is never below .05, the cross-fitted one is no finding."""
    found = [swept(np.full(8, 0.5), 1 - STEPS / 100, seed) for seed in range(8)]
    assert np.mean([float(f.data["regret"]) for f in found]) > 0.05
    assert sum(said(f).answer == FOUND for f in found) <= 1
    assert all(said(f).answer in (FOUND, NONE) for f in found)


@pytest.mark.verify
def test_flat_accuracy_over_200_seeds() -> None:
    found = [swept(np.full(8, 0.5), 1 - STEPS / 100, seed) for seed in range(200)]
    assert sum(said(f).answer == FOUND for f in found) <= 14  # 2.5 % one-sided: 5 expected
    effects = np.array([said(f).effect for f in found])
    assert abs(effects.mean()) < 3 * effects.std() / np.sqrt(len(effects))


def test_what_is_missing_is_told() -> None:
    with pytest.raises(InputError, match="either curves"):
        get("loss_choice")()
    one = Result.of(pd.DataFrame({"item": ["q"], "mask": ["answer"], "answer_kind": ["given"]}))
    with pytest.raises(InputError, match="of one checkpoint"):
        get("loss_choice")(None, one, one)
