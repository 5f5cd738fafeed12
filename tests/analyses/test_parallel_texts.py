"""Parallel sentences: identical ones 1, offsets off first, planted shared states found, random pairs not."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses import get
from analyses.core.claim import FOUND, NONE, UNJUDGED
from analyses.states import parallel_texts as module
from probe import Item, Model, Prompts
from probe.errors import InputError
from tests import tiny


def example(folder: Path) -> dict[str, Any]:
    return {"model": Model.load(tiny.save(folder / "model")), "prompts": said(12), "folds": 3}


def said(n: int) -> Prompts:
    """Sums in two notations, in two groups by whether the second number is large."""
    forms = {"plain": "what is {} plus {} ?", "story": "Ann has {} figs . buys {} . how many ?"}
    items = [
        Item(f"q{i}/{v}", text.format(i, 2 * i % 7), " ans 1", group="ab"[2 * i % 7 > 3], variant=v)
        for i in range(n)
        for v, text in forms.items()
    ]
    return Prompts(tuple(items))


def states(n: int, seed: int, shared: float, d: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """States [problem, language, d] with a part that both languages share, offsets of their own, and groups in it."""
    rng = np.random.default_rng(seed)
    groups = np.where(np.arange(n) % 2 == 0, "a", "b").astype(object)
    meaning = rng.normal(size=(n, 1, d))
    meaning[groups == "a", :, 0] += 3
    x = shared * meaning + rng.normal(size=(n, 2, d)) + 20 * rng.normal(size=(1, 2, d))
    return x, groups


def judged(x: np.ndarray, seed: int = 0) -> Any:
    rows = [pd.DataFrame({"item": np.arange(len(x)), "state": s, **module.compared(x)}) for s in range(2)]
    return module._claim(pd.concat(rows), seed)


def test_identical_sentences_are_one_and_a_common_offset_counts_for_nothing() -> None:
    x = np.repeat(np.random.default_rng(0).normal(size=(9, 1, 6)), 2, axis=1)
    x[:, 1] += 100.0
    found = module.compared(x)
    assert found["parallel"] == pytest.approx(1) and (found["excess"] > 0.5).all()
    same = module.compared(np.ones((5, 2, 3)))
    assert np.isnan(same["excess"]).all(), "states that do not vary have no direction"


def test_the_gap_is_that_of_a_loop_over_pairs() -> None:
    x, _ = states(7, 1, 0.5)
    y = x - x.mean(0)
    cos = lambda a, b: float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))  # noqa: E731
    others = [[cos(y[2, a], y[j, b]) for j in range(7) if j != 2] for a, b in ((0, 1), (1, 0))]
    want = cos(y[2, 0], y[2, 1]) - np.mean(others)
    assert module.compared(x)["excess"][2] == pytest.approx(want)


def test_a_probe_moves_where_the_groups_lie_in_what_is_shared() -> None:
    x, groups = states(40, 0, 1.0)
    fold = module._folds(groups, 5, 0)
    found = module.moved(x, groups, fold, 0.1)
    assert found["right_within"].mean() > 0.8 and found["right_transfer"].mean() > 0.8
    x[:, 1] = x[:, 1, ::-1]  # the second language keeps it elsewhere
    apart = module.moved(x, groups, fold, 0.1)
    assert apart["right_within"].mean() > 0.8 and abs(apart["right_transfer"].mean() - 0.5) < 0.2


def test_shared_states_are_found_and_unrelated_ones_are_not() -> None:
    assert judged(states(30, 0, 0.7)[0]).answer == FOUND
    said = [judged(states(30, s, 0.0)[0]).answer for s in range(8)]
    assert said.count(FOUND) <= 1 and NONE in said
    assert judged(states(5, 0, 1.0)[0]).answer == UNJUDGED


@pytest.mark.verify
def test_unrelated_sentences_over_200_seeds() -> None:
    assert [judged(states(24, s, 0.0)[0]).answer for s in range(200)].count(FOUND) <= 14


def test_on_a_model_and_what_is_refused(models: dict[str, Any]) -> None:
    result = get("parallel_texts")(models["model"], said(12), folds=3)
    assert len(result.table) == 12 * (models["model"].shape.n_layers + 1)
    assert result.data["parallel"].notnull().all() and result.data["right_within"].notnull().all()
    with pytest.raises(InputError, match="a column `variant`"):
        get("parallel_texts")(models["model"], tiny.twelve_items())
