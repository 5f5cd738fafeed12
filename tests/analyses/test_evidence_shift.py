"""Heads that training moved: a planted reader found against its base, the same checkpoint twice and noise not."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses import get
from analyses.attention import evidence_shift as module
from analyses.core.claim import FOUND, NONE, UNJUDGED
from probe import Model
from tests import tiny
from tests.analyses import test_evidence_attention as evidence


def example(folder: Path) -> dict[str, Any]:
    series = tiny.series(folder / "run", steps=(0, 20))
    given = evidence.example(folder)["prompts"]
    return {"base": series / "checkpoint-0", "tuned": series / "checkpoint-20", "prompts": given}


def heads(n: int, seed: int, moved: float) -> pd.DataFrame:
    """Change of 12 heads' AUROC of `n` items: noise, with one head moved."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 0.2, (n, 12))
    values[:, 7] += moved
    at = {"item": np.repeat(np.arange(n), 12), "layer": np.tile(np.repeat(range(3), 4), n)}
    return pd.DataFrame({**at, "head": np.tile(range(4), 3 * n), "auroc_change": values.ravel()})


def judged(rows: pd.DataFrame) -> Any:
    (claim,) = module._claims(rows, ("g", "given"), 0)
    return claim


def test_a_head_that_training_moved_onto_the_digit_is_found(copying: dict[str, Model]) -> None:
    result = get("evidence_shift")(copying["base"], copying["tuned"], evidence.marked(32))
    (claim,) = result.claims
    assert claim.answer == FOUND and claim.effect > 0 and "onto" in claim.what
    alone = get("evidence_attention")(copying["tuned"], evidence.marked(32)).table
    both = result.table.merge(alone, on=["item", "layer", "head"])
    assert both["auroc_tuned"].tolist() == pytest.approx(both["auroc"].tolist(), abs=1e-6)
    assert result.table["shuffled_change"].mean() == pytest.approx(0, abs=0.1)


def test_the_same_checkpoint_twice_is_nothing(copying: dict[str, Model]) -> None:
    result = get("evidence_shift")(copying["tuned"], copying["tuned"], evidence.marked(12))
    assert (result.table[["auroc_change", "mass_change"]] == 0).all(axis=None) and result.claims[0].answer == NONE


def test_one_moved_head_among_noise() -> None:
    away = judged(heads(32, 0, -0.4))
    assert away.answer == FOUND and away.place == "layer 1 head 3" and "off the evidence" in away.what
    said = [judged(heads(24, s, 0.0)).answer for s in range(8)]
    assert said.count(FOUND) <= 1 and judged(heads(4, 0, 1.0)).answer == UNJUDGED


@pytest.mark.verify
def test_noise_over_100_seeds() -> None:
    assert [judged(heads(24, s, 0.0)).answer for s in range(100)].count(FOUND) <= 10


@pytest.mark.verify
def test_heads_that_training_moved_over_30_seeds(copying: dict[str, Model]) -> None:
    """24 items a seed: found and called "onto" of base and tuned, and nothing of the tuned model twice."""
    shift, draws = get("evidence_shift"), [evidence.marked(24, s) for s in range(30)]
    moved = [shift(copying["base"], copying["tuned"], p).claims[0] for p in draws]
    assert sum(c.answer == FOUND and "onto" in c.what for c in moved) >= 24
    assert all(shift(copying["tuned"], copying["tuned"], p).claims[0].answer == NONE for p in draws)
