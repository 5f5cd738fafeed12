"""Drops of planted answers (a brittle and a robust responder), and none where the text does not change."""

from __future__ import annotations

import pytest

from analyses.core import analysis as registry
from analyses.core.reading.kept_responses import Response
from analyses.core.result import Result
from probe import Item, Model, Prompts
from tests import tiny
from tests.tiny import twelve_items


def example(folder) -> dict:
    """For the contract tests."""
    return {
        "model": Model.load(tiny.save(folder / "model", words=True)),
        "prompts": twelve_items(),
        "perturbations": ("irrelevant", "preamble"),
        "grade": "number",
        "max_new_tokens": 4,
    }


def chains(n: int = 30) -> Prompts:
    items = [
        Item(f"i{i}", f"Ann{i} has {i + 5} figs . buys {i % 7 + 1} . how many ?", str(i + 5 + i % 7 + 1),
             meta={"values": [i + 5, i % 7 + 1], "ops": ["+"]})
        for i in range(n)
    ]  # fmt: skip
    return Prompts(tuple(items))


def responder(monkeypatch, answer) -> None:
    """Answers in place of a model's: the analysis's arithmetic is under test here, generation elsewhere."""

    def responses(model, items, how, **_):
        return {name: [Response(answer(text), (0,), False)] for name, text in items}

    monkeypatch.setattr("analyses.answers.robustness.responses", responses)


def computed(text: str) -> str:
    return str(sum(int(w) for w in text.split() if w.isdigit()))


def quantity(result: Result, name: str, **at) -> float:
    return float(result.data[name].sel(group="all", answer_kind="given", **at))


def test_a_robust_responder_loses_nothing(monkeypatch):
    responder(monkeypatch, computed)
    result = registry.get("robustness")(None, chains(), perturbations=("preamble", "numbers"), grade="number")
    assert quantity(result, "drop", variant="numbers") == 0.0
    assert quantity(result, "local_inconsistency") == 0.0
    assert quantity(result, "mcnemar_p", variant="preamble") == 1.0


def test_answers_known_by_heart_do_not_survive_new_numbers(monkeypatch):
    known = {i.prompt: i.answer for i in chains().items}
    responder(monkeypatch, lambda text: known.get(text, "none"))
    result = registry.get("robustness")(None, chains(), perturbations=("numbers",), grade="number")
    assert quantity(result, "accuracy", variant="as is") == 1.0
    assert quantity(result, "drop", variant="numbers") == pytest.approx(1.0, abs=0.01)
    assert quantity(result, "local_inconsistency") == pytest.approx(1.0, abs=0.05)
    assert quantity(result, "mcnemar_p", variant="numbers") < 1e-6


def test_what_does_not_apply_is_said(base: Model, prompts: Prompts):
    result = registry.get("robustness")(
        base, prompts, perturbations=("options", "preamble"), preambles=("figs",), grade="number", max_new_tokens=3
    )
    assert any("options does not apply to 12 of 12" in w for w in result.warnings)
    assert set(result.table["variant"]) == {"as is", "preamble"}
