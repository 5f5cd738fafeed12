"""Attention on evidence: closed forms of the measures, spans from text, characters and tags, a planted reader."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analyses import get
from analyses.attention import _spans
from analyses.attention._evidence import auroc, measures
from analyses.attention.evidence_attention import _peaks
from analyses.core.claim import FOUND, NONE, UNJUDGED
from analyses.core.result import Result
from probe import Item, Model, Prompts
from probe.errors import InputError
from tests import planted, tiny


def marked(n: int, seed: int = 0, what: str = "digit") -> Prompts:
    """Six letters with a digit at a random place, and what is called evidence: the digit, or one of the letters."""
    rng = np.random.default_rng(seed)
    items = []
    for i in range(n):
        words, digit, place = [str(w) for w in rng.choice(planted.LETTERS, 6)], str(rng.choice(planted.DIGITS)), 0
        place, other = (int(x) for x in rng.permutation(np.arange(1, 6))[:2])
        words[place] = digit
        at = place if what == "digit" else other
        start = len(" ".join(words[:at])) + 1
        items.append(Item(f"q{i}", " ".join([*words, "?"]), f" {digit}", meta={"evidence": [start, start + 1]}))
    return Prompts(tuple(items))


def example(folder: Path) -> dict[str, Any]:
    told = [(i, f"Ann has {i} figs . buys {i % 5} . how many ?", {"evidence": f"has {i}"}) for i in range(12)]
    items = [
        Item(f"q{i}", text, f" ans {i}", meta=meta, group="ab"[i % 2], variant="xy"[i % 2]) for i, text, meta in told
    ]
    return {"model": Model.load(tiny.save(folder / "model")), "prompts": Prompts(tuple(items))}


def answer(result: Result) -> Any:
    (one,) = result.claims
    return one.answer


def test_uniform_attention_is_chance_and_exact_attention_is_one() -> None:
    uniform = torch.full((2, 6, 6), 1 / 6)
    inside = np.array([False, False, True, True, False, False])
    mass, area, shuffled, vas = measures(uniform, np.array([5]), inside, 0.3)
    assert mass.tolist() == pytest.approx([2 / 5] * 2) and area.tolist() == shuffled.tolist() == [0.5, 0.5]
    assert vas.tolist() == pytest.approx([2 / 6] * 2)
    exact = torch.zeros(1, 6, 6)
    exact[0, 5, 2:4] = 0.5
    mass, area, _, _ = measures(exact, np.array([5]), inside, 0.0)
    assert mass[0] == area[0] == 1
    sink = torch.zeros(1, 6, 6)
    sink[0, 5, 0] = 1.0  # all of it on the first position: nothing is known of the rest
    mass, area, _, vas = measures(sink, np.array([5]), inside, 0.0)
    assert np.isnan(mass[0]) and area[0] == 0.5 and vas[0] == 0


def test_over_all_shifts_the_area_is_one_half_whatever_the_attention() -> None:
    weights = torch.rand(3, 11)
    inside = torch.zeros(11, dtype=torch.bool)
    inside[[2, 3, 7]] = True
    found = torch.stack([auroc(weights, inside.roll(k)) for k in range(11)]).mean(0)
    assert found.tolist() == pytest.approx([0.5] * 3, abs=1e-6)
    ties = torch.tensor([[1.0, 1, 0, 2]])
    assert auroc(ties, torch.tensor([True, False, False, False]))[0] == pytest.approx((0.5 + 1 + 0) / 3)


def test_spotlight_and_shadow() -> None:
    curve = lambda *v: _peaks(pd.DataFrame({"layer": range(len(v)), "vas": v}))  # noqa: E731
    assert curve(0.3, 0.1, 0.6, 0.2) == pytest.approx({"spotlight": 2, "shadow": 1, "forgotten": 0.4})
    first = curve(0.5, 0.1, 0.2)
    assert first["spotlight"] == 0 and np.isnan(first["shadow"]) and first["forgotten"] == pytest.approx(0.3)
    assert curve(0.2, 0.2)["spotlight"] == 0, "the earliest of ties"


@pytest.mark.parametrize("evidence", ["has 5", ["has 5", "5 figs"], [4, 9], [[4, 9]]])
def test_evidence_is_text_or_characters(evidence: Any, models: dict[str, Model]) -> None:
    item = Item("q", "Ann has 5 figs .", " ans 5", meta={"evidence": evidence})
    spans = _spans.characters(item, "evidence", ())
    assert (4, 9) in spans
    ids = models["model"].tokenizer(item.prompt + item.answer, add_special_tokens=False)["input_ids"]
    inside = _spans.tokens(models["model"], item, ids, [(4, 9)], len(ids))
    text = models["model"].tokenizer.decode([i for i, e in zip(ids, inside, strict=True) if e])
    assert text.strip() == "has 5"


def test_evidence_between_tags_and_what_is_refused(models: dict[str, Model]) -> None:
    item = Item("q", "x <e> 5 figs </e> y <e>  </e>", "5")
    assert _spans.characters(item, "evidence", ("<e>", "</e>")) == [(5, 13)]
    with pytest.raises(InputError, match="does not occur"):
        _spans.characters(Item("q", "a b", "c", meta={"evidence": "z"}), "evidence", ())
    with pytest.raises(InputError, match="outside of its prompt"):
        _spans.characters(Item("q", "a b", "c", meta={"evidence": [1, 9]}), "evidence", ())
    with pytest.raises(InputError, match="name no evidence"):
        get("evidence_attention")(models["model"], tiny.twelve_items())


def test_a_model_trained_to_read_the_digit_is_found_and_its_base_is_not(copying: dict[str, Model]) -> None:
    tuned = get("evidence_attention")(copying["tuned"], marked(40))
    (one,) = tuned.claims
    assert one.answer == FOUND and one.effect > 0.9
    base = get("evidence_attention")(copying["base"], marked(40))
    assert base.claims[0].effect < one.effect
    assert abs(tuned.data["shuffled"].mean().item() - 0.5) < 0.1


def test_a_letter_called_evidence_is_not_found(copying: dict[str, Model]) -> None:
    """Letters stand anywhere and decide nothing: at most one of 6 draws of 24 items, over 12 heads each."""
    said = [answer(get("evidence_attention")(copying["tuned"], marked(24, s, "letter"))) for s in range(6)]
    assert said.count(FOUND) <= 1 and NONE in said
    assert answer(get("evidence_attention")(copying["tuned"], marked(4))) == UNJUDGED


@pytest.mark.verify
@pytest.mark.parametrize(("what", "fewest", "most"), [("digit", 24, 30), ("letter", 0, 4)])
def test_evidence_over_30_seeds(what: str, fewest: int, most: int, copying: dict[str, Model]) -> None:
    """24 items a seed: what the tuned model says, and a letter that decides nothing."""
    said = [answer(get("evidence_attention")(copying["tuned"], marked(24, s, what))) for s in range(30)]
    assert fewest <= said.count(FOUND) <= most, said


def test_wordings_of_one_problem_have_a_spread(copying: dict[str, Model]) -> None:
    lines = {"first": "a 7 b c d e ?", "last": "a b c d e 7 ?"}
    items = [Item(f"q/{v}", p, " 7", variant=v, meta={"evidence": "7"}) for v, p in lines.items()]
    data = get("evidence_attention")(copying["tuned"], Prompts(tuple(items))).data
    table = get("evidence_attention")(copying["tuned"], Prompts(tuple(items))).table
    own = table.query("layer == 1 and head == 0")["mass"]
    assert data["variant_sd"].sel(layer=1, head=0).item() == pytest.approx(own.std(), abs=1e-6)
