"""Abstention rates: closed cases, a model that tells the two kinds apart, one that does not, one that unlearned it."""

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


def drawn(unanswerable: float, answerable: float, seed: int, n: int = 40) -> pd.DataFrame:
    """Greedy responses to n items of each kind that abstain with these chances; others are right half the time."""
    rng = np.random.default_rng(seed)
    made = []
    for gold, chance in (("", unanswerable), ("1", answerable)):
        said = ["(abstains)" if rng.random() < chance else rng.choice(["1", "2"]) for _ in range(n)]
        rows = graded.answered([[a] for a in said], decoding="greedy", gold=gold)
        right = [a == ("(abstains)" if not gold else "1") for a in said]
        rows["status"] = np.where(right, "correct", "wrong")
        made.append(rows.assign(item=(gold or "u") + rows["item"]))
    return pd.concat(made, ignore_index=True)


def example(folder: Path) -> dict[str, Any]:
    return {"evaluate": graded.swept({0: drawn(0.9, 0.1, 0, 8), 10: drawn(0.5, 0.1, 1, 8)})}


def answers(result: Result) -> dict[str, str]:
    return {c.kind: c.answer for c in result.claims}


def test_always_abstaining_is_no_judgement() -> None:
    result = get("abstention")(Result.of(drawn(1.0, 1.0, 0)))
    found = {name: float(result.data[name]) for name in ("abstains_unanswerable", "abstains_answerable", "difference")}
    assert found == {"abstains_unanswerable": 1, "abstains_answerable": 1, "difference": 0}
    assert np.isnan(result.data["answered_accuracy"]) and float(result.data["fabricates"]) == 0
    assert answers(result) == {"abstains": NONE}


def test_a_model_that_tells_them_apart_is_found_and_one_that_does_not_is_not() -> None:
    assert answers(get("abstention")(Result.of(drawn(0.8, 0.1, 1)))) == {"abstains": FOUND}
    said = [answers(get("abstention")(Result.of(drawn(0.4, 0.4, seed))))["abstains"] for seed in range(10)]
    assert said.count(FOUND) <= 1
    assert answers(get("abstention")(Result.of(drawn(0.8, 0.1, 1, n=4)))) == {"abstains": UNJUDGED}


def test_unlearning_it_is_found_over_steps() -> None:
    lost = get("abstention")(graded.swept({0: drawn(0.9, 0.1, 0), 50: drawn(0.2, 0.1, 1)}))
    assert answers(lost)["fabricates"] == FOUND and lost.data["difference"].sizes == {"step": 2}
    kept = get("abstention")(graded.swept({0: drawn(0.9, 0.1, 0), 50: drawn(0.9, 0.1, 1)}))
    assert answers(kept)["fabricates"] == NONE


def test_over_a_log_with_the_usual_phrases() -> None:
    texts = {"q1": ("7", "it is 7"), "q2": ("", "I don't know."), "q3": ("", "it is 9"), "q4": ("8", "I cannot answer")}
    log = pd.DataFrame([{"item": i, "gold": g, "text": t} for i, (g, t) in texts.items()])
    data = get("abstention")(run("evaluate", log=log, abstain="usual")).data
    want = {"abstains_unanswerable": 0.5, "abstains_answerable": 0.5, "answered_accuracy": 1, "fabricates": 0.5}
    assert {name: float(data[name]) for name in want} == want


def test_items_of_one_kind_only_are_refused() -> None:
    with pytest.raises(InputError, match="none without one"):
        get("abstention")(Result.of(graded.answered([["1"], ["2"]], decoding="greedy")))
