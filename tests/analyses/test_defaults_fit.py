"""Defaults suit a model of a short context: what nobody asked for is no error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import analyses
from probe import Model
from tests import tiny


def test_partial_prompts_are_continued_as_far_as_the_context_goes(tmp_path: Path) -> None:
    model = Model.load(tiny.save(tmp_path, words=True))
    items = tiny.twelve_items().limit(2)
    given: dict[str, Any] = {"fractions": (0.5,), "grade": "number"}
    fitted = analyses.run("partial_prompt", model=model, prompts=items, **given)
    half = [item.prompt[: len(item.prompt) // 2] for item in items.items]
    longest = max(len(model.tokenizer(text)["input_ids"]) for text in half)
    said = {**given, "max_new_tokens": model.shape.n_ctx - longest}
    assert fitted.table.equals(analyses.run("partial_prompt", model=model, prompts=items, **said).table)
