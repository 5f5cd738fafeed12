"""Pairs in both directions: by transformers alone, a text that is its own answer, a pair known one way only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from analyses import get
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
    data = get("reversal")(copying["tuned"], Prompts(tuple(items))).data.squeeze()
    assert data["forward_gain_nats_ci_low"].item() > 1
    assert data["reverse_gain_nats_ci_low"].item() < 0.5
    base = get("reversal")(copying["base"], Prompts(tuple(items))).data.squeeze()
    assert abs(base["forward_gain_nats"].item()) < 0.1


def test_half_a_reverse_is_refused(models: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="belong together"):
        get("reversal")(models["tuned"], Prompts((Item("q", "a", "b", meta={"reverse_prompt": "c"}),)))
