"""Options by log-likelihood: an oracle in plain transformers, the four rules, letters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses.answers.multiple_choice import _aggregate, multiple_choice
from probe import Item, Model, Prompts
from probe.errors import InputError
from tests import tiny


def example(folder: Path) -> dict[str, Any]:
    return {"model": tiny.save(folder / "a"), "prompts": items()}


def items() -> Prompts:
    choices = ("ans 10", "the lazy dog", "how many are left")
    return Prompts(
        tuple(Item(str(n), f"what is {n} plus 7 ?", "", "ab"[n % 2], choices=choices, correct=n % 3) for n in range(6))
    )


def test_log_likelihoods_are_those_of_plain_transformers(tuned: Model, series: Path) -> None:
    from transformers import AutoModelForCausalLM

    table = multiple_choice(tuned, items(), batch_size=4).table
    plain, tok = AutoModelForCausalLM.from_pretrained(series / "checkpoint-20").eval(), tuned.tokenizer
    for item in items().items:
        for n, choice in enumerate(item.choices):
            context, ids = (tok(t)["input_ids"] for t in (item.prompt, f"{item.prompt} {choice}"))
            with torch.no_grad():
                log_p = plain(torch.tensor([ids])).logits[0].log_softmax(-1)
            want = sum(float(log_p[p - 1, ids[p]]) for p in range(len(context), len(ids)))
            row = table[(table["item"] == item.id) & (table["choice"] == n)].iloc[0]
            assert row["ll_nats"] == pytest.approx(want, abs=1e-4)
            assert (row["n_tokens"], row["n_chars"]) == (len(ids) - len(context), len(choice))


def test_each_rule_divides_by_its_own_length() -> None:
    import pandas as pd

    rows = {
        "ll_nats": [-2.0, -3.0, -9.0, -4.0],
        "n_tokens": [1, 2, 12, 2],
        "n_chars": [1, 6, 8, 9],
        "n_bytes": [2, 7, 50, 9],
    }
    shared = {"item": "a", "group": "g", "answer_kind": "given", "choice": range(4)}
    for rule, right in (("sum", 0), ("char", 3), ("byte", 2), ("token", 2)):
        table = pd.DataFrame({**rows, **shared, "is_right": [n == right for n in range(4)]})
        found = _aggregate(table, 0)
        assert float(found["accuracy"].sel(variant=rule).squeeze()) == 1.0, rule
        assert float(found["chance"].squeeze()) == 0.25
    p = np.exp([-2.0, -3.0, -9.0, -4.0])
    assert float(found["p_right"].squeeze()) == pytest.approx(p[2] / p.sum())


def test_letters_where_the_answer_is_one_and_a_chat_needs_no_space(tuned: Model) -> None:
    listed = Prompts((Item("a", "q ?\nA. x\nB. y\nAnswer:", "B", choices=("xx", "yyy"), correct=1),))
    assert set(multiple_choice(tuned, listed).table["n_chars"]) == {1}
    assert set(multiple_choice(tuned, listed, score="text").table["n_chars"]) == {2, 3}
    with pytest.raises(InputError, match=r"without choices \(plain\)"):
        multiple_choice(tuned, Prompts((Item("plain", "q", "a"),)))
