"""What the question pages say in short is what the committed results of their experiments say."""

from __future__ import annotations

import json
from typing import Any

from tests.conftest import ROOT


def page(name: str) -> str:
    return " ".join((ROOT / "docs" / "questions" / f"{name}.md").read_text().split())


def runs(experiment: str) -> list[dict[str, Any]]:
    found = json.loads((ROOT / "experiments" / experiment / "results.json").read_text())
    return [numbers for seed in found.values() for numbers in seed.values()]


def test_entropy() -> None:
    found = runs("entropy_signals")
    batches = [batch for numbers in found for batch in numbers["visits"]]
    apart = sum(b["sequence_local_nats"] * b["sequence_visitation_nats"] < 0 for b in batches)
    assert f"in {apart} of {len(batches)} rollout batches" in page("why-entropy")

    def predicts(signal: str) -> int:
        return sum(numbers["updates"][signal]["over_items"][0] > 0.5 for numbers in found)

    assert f"in {predicts('gradient_nats')} of {len(found)} runs" in page("why-entropy")
    assert not any(map(predicts, ("pooled", "tabular", "omega")))


def test_memory() -> None:
    found = json.loads((ROOT / "experiments" / "perplexity_paradox" / "results.json").read_text()).values()
    held = [is_so for seed in found for is_so in seed["held"].values()]
    assert f"({sum(held)} predictions of {len(held)} held)" in page("is-it-memory")
    for seed in found:
        of = seed["runs"]["grpo-format"]
        assert of["contribution"]["answer:first"][2] < 0 < of["contribution"]["answer:rest"][1]
        assert of["unseen_answer"][0] < of["answer"][0] < 0


def test_checkpoint() -> None:
    high, low = (
        [
            seed[name]
            for seed in json.loads((ROOT / "experiments" / "over_memorization" / "results.json").read_text()).values()
        ]
        for name in ("sft-high", "sft-low")
    )
    assert {of["onset"][0] for of in high} == {12 * 12} and not any(of["onset"] for of in low)
    assert sum(of["ood"]["outside_change"][2] < 0 for of in high) == 2
    assert "from epoch 12 on in three seeds of three" in page("which-checkpoint")
