"""Stated confidence: what is read, closed forms of the measures, a planted knower and one that knows nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses import get
from analyses.answers._confidence import aurc, auroc, auroc_interval
from analyses.answers.stated_confidence import stated
from analyses.core.claim import FOUND, NONE, UNJUDGED
from analyses.core.result import Result
from probe.errors import InputError
from tests import graded


def example(folder: Path) -> dict[str, Any]:
    twice = [said(k, 12, s).assign(decoding="sampled", sample=s, confidence=0.5) for s, k in ((0, 0.5), (1, 0.9))]
    return {"evaluate": Result.of(pd.concat(twice, ignore_index=True)), "source": "text"}


def said(knows: float, n: int, seed: int, level: float = 0.0) -> pd.DataFrame:
    """One greedy response an item that is right half of the time and says so with a chance of `knows`."""
    rng = np.random.default_rng(seed)
    right = rng.random(n) < 0.5
    high = np.where(rng.random(n) < knows, right, rng.random(n) < 0.5)
    rows = graded.answered([["1" if r else "2"] for r in right], decoding="greedy")
    texts = [f"it is {r}. Confidence: {min(90 if h else 30 + level, 100):g}%" for r, h in zip(right, high)]
    return rows.assign(text=texts)


def answers(result: Result) -> dict[str, str]:
    return {c.kind: c.answer for c in result.claims}


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("I am 90% sure", 0.9), ("Confidence: 0.75", 0.75), ("confidence is 8/10", 0.8), ("**Confidence:** 65 %", 0.65),
        ("Certainty level: 55 percent", 0.55), ("confidence 20%, no: confidence 80%", 0.8), ("the answer is 90", None),
        ("confidence: 140%", None), ("", None), ("I'm 100 % confident 中", 1.0), ("probability of 0.3", 0.3),
    ],
)  # fmt: skip
def test_what_is_read(text: str, share: float | None) -> None:
    assert stated(text) == pytest.approx(share) if share is not None else np.isnan(stated(text))


def test_measures_in_closed_form() -> None:
    right = np.array([1.0, 1, 0, 0])
    assert auroc(np.array([4.0, 3, 2, 1]), right) == 1 and auroc(np.ones(4), right) == 0.5
    assert auroc(np.array([2.0, 1, 1, 0]), right) == (1 + 1 + 0.5 + 1) / 4
    assert np.isnan(auroc(np.ones(2), np.ones(2)))
    # Coverages 1/4 .. 4/4 of the best order: risks 0, 0, 1/3, 1/2. Without information: the error rate at all of them.
    assert aurc(np.array([4.0, 3, 2, 1]), right) == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)
    assert aurc(np.ones(4), right) == pytest.approx(0.5)


def test_a_confidence_equal_to_the_base_rate_is_calibrated_and_says_nothing() -> None:
    rows = graded.answered([["1"], ["2"]] * 10, decoding="greedy").assign(text="confidence 50%")
    data = get("stated_confidence")(Result.of(rows), bins=1).data.squeeze()
    assert float(data["ece"]) == 0 and float(data["auroc"]) == 0.5 and float(data["brier"]) == 0.25
    assert float(data["aurc"]) == 0.5 and float(data["over_confidence"]) == 0


def test_a_model_that_knows_is_found() -> None:
    found = answers(get("stated_confidence")(Result.of(said(0.95, 80, 3))))
    assert found["discerning"] == FOUND and found["asserting"] == NONE


def test_a_model_that_is_always_sure_is_over_confident_and_discerns_nothing() -> None:
    found = answers(get("stated_confidence")(Result.of(said(0.0, 80, 4, level=60))))
    assert found["over-confident"] == FOUND and found["discerning"] == NONE


def test_noise_is_not_called_knowledge() -> None:
    """8 runs of a confidence drawn apart from correctness."""
    found = [answers(get("stated_confidence")(Result.of(said(0.0, 60, seed))))["discerning"] for seed in range(8)]
    assert found.count(FOUND) <= 1


@pytest.mark.verify
def test_intervals_of_the_auroc_hold_the_truth() -> None:
    """1,000 runs of normal scores, three responses an item of one shared difficulty: 95 % cover Phi(1 / sqrt 2)."""
    inside = 0
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        item = np.repeat(np.arange(50), 3)
        right = (rng.random(50) < 0.5).astype(float)[item]
        score = 0.7 * rng.normal(size=50)[item] + np.sqrt(1 - 0.49) * rng.normal(size=150) + right
        low, high = auroc_interval(score, right, item)
        inside += low <= 0.76025 <= high
    assert inside >= 930


def test_assertion_asymmetry() -> None:
    rows = graded.answered([["1"]] * 20 + [["2"]] * 20, decoding="greedy")
    texts = ["it is so, 90% sure"] * 20 + ["maybe it is so, 90% sure"] * 20
    result = get("stated_confidence")(Result.of(rows.assign(text=texts)))
    assert float(result.data["asymmetry"].squeeze()) == 1 and answers(result)["asserting"] == FOUND


def test_agreement_leaves_the_response_itself_out() -> None:
    rows = graded.answered([["1", "1", "2", None], ["3"]])
    table = get("stated_confidence")(Result.of(rows), source="agreement").table
    assert table["confidence"].tolist()[:3] == pytest.approx([1 / 3, 1 / 3, 0])
    assert table["confidence"].isna().tolist()[3:] == [True, True]


def test_what_cannot_be_read_is_told() -> None:
    rows = Result.of(graded.answered([["1"]] * 3, decoding="greedy"))
    with pytest.raises(InputError, match="no response states a confidence"):
        get("stated_confidence")(rows)
    with pytest.raises(InputError, match="no column"):
        get("stated_confidence")(rows, source="column")
    with pytest.raises(InputError, match="no group"):
        get("stated_confidence")(rows, confidence_pattern="sure")
    few = get("stated_confidence")(Result.of(said(0.5, 4, 0)))
    assert set(answers(few).values()) == {UNJUDGED}
