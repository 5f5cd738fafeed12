"""Planning and execution: which tokens are marked, their entropies, the grams' own entropy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses import run
from analyses.credit.planning_entropy import gram_entropy
from probe import InputError, Rollouts
from tests import logs, tiny

WORDS = ["Wait", "let", "me", "check", "3", "plus", "4", "is", "7", "waiter"]


def example(folder: Path) -> dict[str, Any]:
    tiny.tokenizer("llama").save_pretrained(folder)
    return {"rollouts": Rollouts.of(logs.full(vocab=200)), "tokenizer": str(folder)}


def log(texts: list[str], **more: Any) -> tuple[Rollouts, Any]:
    words = tiny.word_tokenizer(WORDS)
    rows = []
    for number, text in enumerate(texts):
        ids = words(text, add_special_tokens=False)["input_ids"]
        entropies = [float(i) for i in range(len(ids))]
        row = {"step": 1, "prompt_id": f"q{number}", "prompt_token_ids": [3], "response_token_ids": ids, "H": entropies}
        rows.append({**row, "logp_temperature": 1.0, **more})
    return Rollouts.of(rows), words


def test_marks_lie_inside_grams_only(tmp_path: Path) -> None:
    made, words = log(["Wait let me check 3 plus 4 is 7", "waiter is 7"], advantage=2.0)
    words.save_pretrained(tmp_path)
    result = run("planning_entropy", rollouts=made, tokenizer=str(tmp_path), grams=("wait", "let me"), bonus_size=0.2)
    first, second = (result.table[result.table["item"] == q].iloc[0] for q in ("q0", "q1"))
    assert first["n_planning"] == 3  # Wait, let, me
    assert first["planning_nats"] == pytest.approx(1.0)
    assert first["execution_nats"] == pytest.approx(np.mean(range(3, 9)))
    assert first["bonus"] == pytest.approx(0.2 * 2.0 * 3 / 9)
    assert (second["n_planning"], second["bonus"]) == (0, 0)
    assert np.isnan(second["planning_nats"])
    assert result.data["gram_entropy_nats"].item() == pytest.approx(np.log(2))
    none = run("planning_entropy", rollouts=made, tokenizer=str(tmp_path), grams=("wait", "let me"), bonus_size=0.0)
    assert (none.table["bonus"] == 0).all()


def test_equally_frequent_grams_give_ln_m() -> None:
    assert gram_entropy(np.full(7, 3.0)) == pytest.approx(np.log(7))
    assert gram_entropy(np.array([5.0])) == 0
    assert np.isnan(gram_entropy(np.zeros(0)))


def test_what_is_needed_is_said() -> None:
    made, _ = log(["Wait"])
    with pytest.raises(InputError, match="give tokenizer=FOLDER"):
        run("planning_entropy", rollouts=made)
    bare = Rollouts.of([{k: v for k, v in r.items() if k != "H"} for r in logs.rows()])
    assert any("not measured" in w for w in run("planning_entropy", rollouts=bare).warnings)
