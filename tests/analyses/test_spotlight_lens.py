"""Spotlight and shadow as a lens: no-op weights, the formula written out, an answer that the last layer forgets."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analyses import get
from analyses.attention.spotlight_lens import _claims, combined, layers_of
from analyses.core.claim import FOUND, NONE, UNJUDGED
from probe import Model
from probe.errors import InputError
from tests.analyses import test_evidence_attention as evidence


def example(folder: Path) -> dict[str, Any]:
    return evidence.example(folder)


def test_without_weights_it_is_the_last_layer_and_else_the_formula() -> None:
    logits = torch.randn(4, 9, dtype=torch.float64)
    log_p = logits.log_softmax(-1)
    plain = combined(logits, 1, 0, 0.0, 0.0, 0.0)
    torch.testing.assert_close(plain, log_p[-1])
    want = 1.2 * (log_p[3] + 0.8 * log_p[2]) - 0.2 * log_p[1]
    torch.testing.assert_close(combined(logits, 2, 1, 0.8, 0.2, 0.0), want)
    torch.testing.assert_close(combined(logits, 0, None, 0.8, 0.2, 0.0), 1.2 * (log_p[3] + 0.8 * log_p[0]))
    kept = combined(logits, 2, 1, 0.8, 0.2, 0.5)
    assert torch.equal(kept.isinf(), log_p[3] < log_p[3].max() + math.log(0.5)) and not kept.isinf().all()


def test_an_answer_that_the_last_layer_forgets_comes_back() -> None:
    logits = torch.zeros(3, 5)
    logits[1, 2], logits[2, 4], logits[2, 2] = 6.0, 1.0, 0.8
    assert int(logits[2].argmax()) == 4 and int(combined(logits, 1, 0, 0.8, 0.2, 0.1).argmax()) == 2


def test_layers_are_the_earliest_of_ties() -> None:
    assert layers_of(pd.Series([0.3, 0.1, 0.6, 0.2])) == (2, 1)
    assert layers_of(pd.Series([0.5, 0.1])) == (0, None) and layers_of(pd.Series([0.2, 0.2])) == (0, None)


def test_on_a_model_that_reads_the_digit(copying: dict[str, Model]) -> None:
    """The last layer's share is that of plain transformers; what is forgotten is the best layer's minus its."""
    prompts = evidence.marked(24)
    result = get("spotlight_lens")(copying["tuned"], prompts, spotlight_weight=0.0, shadow_weight=0.0)
    assert (result.table["gain"] == 0).all() and result.claims[0].answer == NONE
    model, tokenizer = copying["tuned"].backend.plain, copying["tuned"].tokenizer
    said = [model(**tokenizer(i.prompt, return_tensors="pt")).logits[0, -1].argmax() for i in prompts.items]
    want = [
        float(tokenizer.decode([int(t)]).strip() == i.answer.strip()) for t, i in zip(said, prompts.items, strict=True)
    ]
    found = result.table.query("layer == 0").set_index("item")["final"]
    assert [found[i.id] for i in prompts.items] == want and np.mean(want) > 0.5
    by_layer = result.table.groupby("layer")["right"].mean()
    assert result.data["see_then_forget"].item() == pytest.approx(by_layer.max() - by_layer.iloc[-1])
    with pytest.raises(InputError, match="gamma"):
        get("spotlight_lens")(copying["tuned"], prompts, gamma=2.0)


def gained(n: int, seed: int, up: float, down: float) -> pd.DataFrame:
    values = np.random.default_rng(seed).choice([1.0, 0.0, -1.0], n, p=[up, 1 - up - down, down])
    return pd.DataFrame({"item": range(n), "group": "g", "answer_kind": "given", "gain": values})


def test_gains_are_found_and_flips_both_ways_are_not() -> None:
    assert _claims(gained(60, 0, 0.3, 0.02), 0)[0].answer == FOUND
    assert [_claims(gained(40, s, 0.1, 0.1), 0)[0].answer for s in range(10)].count(FOUND) <= 1
    assert _claims(gained(5, 0, 0.9, 0.0), 0)[0].answer == UNJUDGED


@pytest.mark.verify
def test_flips_both_ways_over_100_seeds() -> None:
    assert [_claims(gained(40, s, 0.1, 0.1), 0)[0].answer for s in range(100)].count(FOUND) <= 10
