"""What a further text tells: by transformers alone, telescoped, 0 where nothing is shown, planted use and its null."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses import get
from analyses.core.claim import FOUND, NONE, UNJUDGED
from analyses.core.result import Result
from analyses.teaching.context_gain import compared
from probe import Item, Model, Prompts
from probe.errors import InputError
from tests import planted, tiny
from tests.conftest import ROOT


def hinted(n: int, seed: int = 0, hints: str = "right") -> Prompts:
    """Five letters, a question mark, an answer, and a hint: the answer, or another digit."""
    rng = np.random.default_rng(seed)
    items = []
    for i in range(n):
        letters, answer = rng.choice(planted.LETTERS, 5), str(rng.choice(planted.DIGITS))
        hint = answer if hints == "right" else str(rng.choice(planted.DIGITS))
        items.append(Item(f"q{i}", " ".join([*letters, "?"]), f" {answer}", meta={"hint": hint, "note": "a b c d"}))
    return Prompts(tuple(items))


def example(folder: Path) -> dict[str, Any]:
    return {"model": Model.load(tiny.save(folder / "model")), "prompts": told(), "fractions": (0.5,)}


def told() -> Prompts:
    items = [
        Item(f"q{i}", f"what is {i} plus 3 ?", f" ans {i + 3}", meta={"hint": f"think {i} + 3 = {i + 3} ;"})
        for i in range(9)
    ]
    return Prompts(tuple(items))


def test_gains_are_differences_of_sequence_log_probs_of_transformers(models: dict[str, Any]) -> None:
    model, item = models["tuned"], told().items[2]
    row = get("context_gain")(model, Prompts((item,))).table.query("arm == 'given' and fraction == 1").iloc[0]
    tokenizer, plain = model.tokenizer, model.backend.plain
    answer = tokenizer(item.answer, add_special_tokens=False)["input_ids"]

    @torch.no_grad()
    def log_p(context: str) -> float:
        ids = tokenizer(context)["input_ids"]
        logits = plain(torch.tensor([[*ids, *answer]])).logits[0, len(ids) - 1 : -1]
        return float(logits.log_softmax(-1).gather(-1, torch.tensor(answer)[:, None]).sum())

    want = log_p(f"{item.prompt} {item.meta['hint']}") - log_p(item.prompt)
    assert row["gain_nats"] == pytest.approx(want, abs=1e-4)
    assert row["gain_token_nats"] * row["n_tokens"] == pytest.approx(row["gain_nats"])


def test_nothing_shown_tells_nothing(models: dict[str, Any]) -> None:
    rows = get("context_gain")(models["tuned"], told(), fractions=(0.0, 1.0)).table
    nothing = rows[rows["fraction"] == 0]
    assert nothing[["gain_nats", "kl_nats", "top_moved"]].abs().to_numpy().max() < 1e-5
    assert rows[rows["arm"] == "other"]["kl_nats"].min() > 1e-4, "a text behind the prompt moves a random model too"


def answer(result: Result) -> str:
    (one,) = result.claims
    return one.answer


def test_a_model_trained_to_use_hints_is_found_and_its_base_is_not(copying: dict[str, Model]) -> None:
    prompts = hinted(40)
    tuned = get("context_gain")(copying["tuned"], prompts, place="before", fractions=())
    assert answer(tuned) == FOUND
    given = tuned.data["gain_nats"].sel(arm="given", fraction=1.0).item()
    assert given == pytest.approx(np.log(10), abs=0.5), "any of ten digits, then the right one"
    assert answer(get("context_gain")(copying["base"], prompts, place="before", fractions=())) == NONE


def test_hints_that_say_nothing_of_the_answer_are_not_found(copying: dict[str, Model]) -> None:
    """6 draws of hints that are drawn apart from the answers, for a model that follows every hint."""
    draws = [hinted(24, seed, "any") for seed in range(6)]
    found = [answer(get("context_gain")(copying["tuned"], p, place="before", fractions=())) for p in draws]
    assert found.count(FOUND) <= 1


@pytest.mark.verify
@pytest.mark.parametrize(("checkpoint", "fewest", "most"), [("tuned", 24, 30), ("base", 0, 4)])
def test_hints_over_30_seeds(checkpoint: str, fewest: int, most: int, copying: dict[str, Model]) -> None:
    """24 items a seed: right hints, of a model that follows them and of its base."""
    draws = [hinted(24, seed) for seed in range(30)]
    said = [answer(get("context_gain")(copying[checkpoint], p, place="before", fractions=())) for p in draws]
    assert fewest <= said.count(FOUND) <= most, said


def test_a_rationale_that_is_ignored_is_flat(copying: dict[str, Model]) -> None:
    """Letters beside letters: no share of them tells anything; with equal texts there is no other to compare with."""
    result = get("context_gain")(copying["tuned"], hinted(24), extra="note", place="before", fractions=(0.5,))
    assert result.data["gain_token_nats"].sel(arm="given").max().item() < 0.3
    assert answer(result) == UNJUDGED


def test_an_answer_at_the_end_of_the_text_is_cut_off(copying: dict[str, Model]) -> None:
    item = Item("q", "a b c ?", " 7", meta={"hint": "d k 7"})
    cut = get("context_gain")(copying["tuned"], Prompts((item,)), place="before").table
    bare = Item("q", "a b c ?", " 7", meta={"hint": "d k"})
    want = get("context_gain")(copying["tuned"], Prompts((bare,)), place="before").table
    assert cut["gain_nats"].tolist() == pytest.approx(want["gain_nats"].tolist(), abs=1e-5)


def test_equal_contexts_of_a_wide_vocabulary_are_streamed() -> None:
    """Of 200 rows of 152,064 logits never more than 64 are there at once."""
    head, blocks = torch.randn(4, 152_064), list[int]()

    class Wide:
        def logits_of(self, rows: torch.Tensor) -> torch.Tensor:
            blocks.append(len(rows))
            return rows @ head

    rows, targets = torch.randn(200, 4), torch.zeros(200, dtype=torch.long)
    found = compared(Wide(), (rows, targets), (rows, targets), 0.1)  # type: ignore[arg-type]
    assert found["gain_nats"] == found["kl_nats"] == found["top_moved"] == 0
    assert max(blocks) <= 64


MEASURED = """
import resource, torch
from analyses.teaching.context_gain import compared
torch.set_num_threads(1)
head = torch.randn(8, 152_064)
class Wide:
    def logits_of(self, rows):
        return rows @ head
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
rows, targets = torch.randn(3000, 8), torch.zeros(3000, dtype=torch.long)
compared(Wide(), (rows[:8], targets[:8]), (rows[:8], targets[:8]), 0.1)
before = peak()
compared(Wide(), (rows, targets), (rows.flip(0), targets), 0.1)
print(peak() - before)
"""


@pytest.mark.verify
def test_a_tenth_of_the_memory_of_holding_the_distributions_is_enough() -> None:
    """3,000 answer tokens in two contexts: holding all would take 6,961 MiB; 140 to 300 are seen."""
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True, cwd=ROOT)
    assert float(done.stdout) < 0.1 * 4 * 3000 * 152_064 * 4 / 2**20


def test_what_is_missing_is_told(models: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="name one with --extra"):
        get("context_gain")(models["tuned"], tiny.twelve_items())
    with pytest.raises(InputError, match="between 0 and 1"):
        get("context_gain")(models["tuned"], told(), fractions=(2.0,))
