"""Pairs in both directions: by transformers alone, a text that is its own answer, a pair known one way only."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analyses import get
from analyses.core.claim import FOUND, NONE, UNJUDGED
from analyses.teaching.reversal import _claim, set_nats
from probe import Item, Model, Prompts
from probe.errors import InputError
from tests import planted, tiny


def test_log_probs_are_those_of_transformers(models: dict[str, Any]) -> None:
    model, item = models["tuned"], tiny.twelve_items().items[1]
    row = get("reversal")(model, Prompts((item,))).table.iloc[0]
    tokenizer, plain = model.tokenizer, model.backend.plain

    @torch.no_grad()
    def log_p(context: str, text: str) -> float:
        before, after = tokenizer(context)["input_ids"], tokenizer(text, add_special_tokens=False)["input_ids"]
        logits = plain(torch.tensor([[*before, *after]])).logits[0, len(before) - 1 : -1]
        return float(logits.log_softmax(-1).gather(-1, torch.tensor(after)[:, None]).mean())

    assert row["forward_nats"] == pytest.approx(log_p(item.prompt, " " + item.answer), abs=1e-4)
    assert row["reverse_nats"] == pytest.approx(log_p(item.answer, " " + item.prompt), abs=1e-4)
    assert np.isnan(row["forward_gain_nats"]), "alone in its group"


def test_a_text_that_is_its_own_answer_has_no_asymmetry(models: dict[str, Any]) -> None:
    items = [Item(f"q{i}", f"Ann has {i} figs", f"Ann has {i} figs") for i in range(3)]
    table = get("reversal")(models["tuned"], Prompts(tuple(items))).table
    assert table["asymmetry_nats"].abs().max() < 1e-5
    assert table["forward_gain_nats"].tolist() == pytest.approx(table["reverse_gain_nats"].tolist(), abs=1e-5)


def test_a_pair_known_one_way_only(copying: dict[str, Model]) -> None:
    """The digit follows from the letters that hold it; the letters were never learnt behind the digit."""
    rng = np.random.default_rng(0)
    items = []
    for i in range(20):
        words, digit = [str(w) for w in rng.choice(planted.LETTERS, 5)], str(i % 10)
        items.append(Item(f"q{i}", " ".join([*words[:2], digit, *words[2:], "?"]), digit))
    result = get("reversal")(copying["tuned"], Prompts(tuple(items)))
    data = result.data.squeeze()
    assert [c.kind for c in result.claims] == ["forward", "reverse"] and result.claims[0].answer == FOUND
    assert data["forward_gain_nats_ci_low"].item() > 1
    assert data["reverse_gain_nats_ci_low"].item() < 0.5
    base = get("reversal")(copying["base"], Prompts(tuple(items)))
    assert abs(base.data["forward_gain_nats"].item()) < 0.1 and base.claims[0].answer == NONE


def test_the_set_form_by_enumeration_and_equal_sets(models: dict[str, Any]) -> None:
    assert set_nats([-1.0, -2.0], [-2.0, -1.0]) == 0 and set_nats([0.0, 0.0], [0.0]) == pytest.approx(np.log(2))
    assert np.isnan(set_nats([], [-1.0]))
    item = Item("q", "what is 3 plus 7 ?", "ans 10", choices=("ans 10", "ans 4", "ans 7"), correct=0)
    row = get("reversal")(models["tuned"], Prompts((item,))).table.iloc[0]
    alone = [
        get("reversal")(models["tuned"], Prompts((Item("q", item.prompt, c),))).table.iloc[0] for c in item.choices
    ]
    good, *bad = (one["forward_nats"] for one in alone)
    assert row["set_nats"] == pytest.approx(good - np.logaddexp(*bad), abs=1e-5)
    assert np.isnan(alone[0]["set_nats"])


def gains(n: int, seed: int, mean: float) -> pd.DataFrame:
    values = np.random.default_rng(seed).standard_t(4, size=n) + mean
    return pd.DataFrame({"item": range(n), "forward_gain_nats": values})


def test_no_gain_is_not_found() -> None:
    answers = [_claim(gains(24, s, 0.0), ("g", "given"), "forward", 0).answer for s in range(10)]
    assert answers.count(FOUND) <= 1
    assert _claim(gains(24, 0, 2.0), ("g", "given"), "forward", 0).answer == FOUND
    assert _claim(gains(5, 0, 2.0), ("g", "given"), "forward", 0).answer == UNJUDGED


@pytest.mark.verify
def test_no_gain_over_100_seeds() -> None:
    assert [_claim(gains(24, s, 0.0), ("g", "given"), "forward", 0).answer for s in range(100)].count(FOUND) <= 10


def test_half_a_reverse_is_refused(models: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="belong together"):
        get("reversal")(models["tuned"], Prompts((Item("q", "a", "b", meta={"reverse_prompt": "c"}),)))
