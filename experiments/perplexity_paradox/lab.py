"""The paradox asked of the lab's six GRPO runs: one that should show it, controls that should not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from analyses import Result, Store, run, sweep
from probe import Prompts

# Predicted before the analysis ran, from what each reward pays for; `None`: no prediction.
PREDICTED = {
    "grpo-format": "paradox",
    "grpo-true": "no paradox",
    "grpo-true-fresh": "no paradox",
    "grpo-random": "no paradox",
    "grpo-incorrect": "no paradox",
    "grpo-true-leaked": None,
}
CONTROL = "grpo-true"
KIND = "gold_final"
PARTS = ("answer:first", "answer:rest", "answer:number")


def of_seed(folder: Path, store: Store, *, n: int | None = None) -> dict[str, Any]:
    """Per run of one seed: verdict, changes, index, contrasts and what the answer's change is made of."""
    prompts = Prompts.read(folder / "prompts.jsonl").where(group=("leaked_true", "leaked_canary", "unseen"))
    prompts = prompts if n is None else prompts.subset(n)
    swept = {
        name: sweep("perplexity", checkpoints=folder / name, prompts=prompts, batch_size=64, store=store)
        for name in PREDICTED
        if (folder / name).is_dir()
    }
    control = swept.get(CONTROL)
    found = {}
    for name, scores in swept.items():
        beside = control if control is not None and name != CONTROL else None
        roles = {"seen": ("leaked_true", "leaked_canary"), "unseen": ("unseen",)}
        found[name] = numbers(run("perplexity_paradox", perplexity=scores, control=beside, store=store, **roles))
    return found


def numbers(result: Result) -> dict[str, Any]:
    """The result at its last step, as the README tells it."""
    data = result.data.sel(answer_kind=KIND).isel(step=-1)
    words = result.table[(result.table["answer_kind"] == KIND)]
    last = words[words["step"] == words["step"].max()].set_index("group")["pattern"]
    kinds = {c.group: c for c in result.claims}
    claim = kinds[KIND]
    said = claim.kind if claim.is_found else claim.answer
    return {
        "verdict": {"leaked": said, "unseen": str(last["unseen items"])},
        "verdict_other_kinds": {str(k): c.kind if c.is_found else c.answer for k, c in kinds.items()},
        "since": None if claim.step is None or said != "paradox" else int(claim.step),
        "in_words": result.verdict,
        "answer": cell(data, "change", group="seen items", mask="answer"),
        "prompt": cell(data, "change", group="seen items", mask="prompt"),
        "index": cell(data, "index", group="seen items"),
        "unseen_answer": cell(data, "change", group="unseen items", mask="answer"),
        "unseen_prompt": cell(data, "change", group="unseen items", mask="prompt"),
        "answer_contrast": cell(data, "contrast", mask="answer"),
        "prompt_contrast": cell(data, "contrast", mask="prompt"),
        "contribution": {m: cell(data, "contribution", group="seen items", mask=m) for m in PARTS},
        "control_difference": cell(data, "control_difference", group="seen items"),
    }


def cell(data: Any, name: str, **at: Any) -> list[float] | None:
    """[value, ci_low, ci_high], rounded; None where it was not measured."""
    if name not in data:
        return None
    one = data.sel(at)
    values = [float(one[name + s]) for s in ("", "_ci_low", "_ci_high")]
    return None if np.isnan(values[0]) else [round(x, 4) for x in values]


def held(found: dict[str, Any]) -> dict[str, bool]:
    """Per run with a prediction: did the verdict on leaked items agree with it?"""
    return {
        name: (of["verdict"]["leaked"] == "paradox") == (PREDICTED[name] == "paradox")
        for name, of in found.items()
        if PREDICTED[name] is not None
    }


def against_truth(found: dict[str, Any], seed: int) -> dict[str, float]:
    """Largest difference from the lab's own scripts' changes of the format run, in nats."""
    path = Path(__file__).parent.parent / "lab" / "truth.json"
    measured = json.loads(path.read_text())["seeds"].get(str(seed), {}).get("findings", {}).get("paradox")
    if measured is None or "grpo-format" not in found:
        return {}
    return {part: abs(found["grpo-format"][part][0] - measured[part][0]) for part in ("answer", "prompt")}
