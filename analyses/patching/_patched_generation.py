"""What patched activations do to generated answers: the prompt is patched, decoding goes on from its cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analyses.core.progress import progress
from analyses.core.reading.patch_gates import place
from probe import Edit
from probe.generation import prompt_batches
from probe.sampling import Sampling

if TYPE_CHECKING:
    from analyses.core.reading.grading import Grader
    from probe import Edit, Model, Prompts, Site, TokenBatch

PHASE = "prefill"
"""Decoding is not patched: the source has no activations for tokens only the target wrote."""


def accuracy_rows(
    pair: tuple[Model, Model],
    prompts: Prompts,
    sites: Sequence[Site],
    ways: Sequence[str],
    where: tuple[str, Sequence[int]],
    *,
    grade: Grader,
    max_new_tokens: int,
    batch_size: int,
    template: str,
) -> list[pd.DataFrame]:
    """Rows per direction and site: greedy accuracy (1, 0, NaN if ungraded) of base, tuned and patched runs."""

    base, tuned = pair
    how = Sampling(max_new_tokens, 0.0, 1.0, 0, (), 1)
    batches = prompt_batches(base, prompts, how, batch_size, template)  # pyright: ignore[reportArgumentType]
    frames: list[pd.DataFrame] = []

    for batch in progress(batches, "generating under patches", total=len(batches)):
        score = _scorer(batch, grade, max_new_tokens)
        plain = {"base": score(base, []), "tuned": score(tuned, [])}
        names = {"item": [i.id for i in batch.items], "group": [i.group for i in batch.items],
                 "answer_kind": [i.answer_kind for i in batch.items]}  # fmt: skip
        for way in ways:
            source, target = (tuned, base) if way == "tuned_to_base" else (base, tuned)
            for site in sites:
                patched = score(target, [_patch(source, batch, site, *where)])
                at = {"site": site.kind, "layer": site.layer, "head": site.head, "direction": way}
                values = {"metric_base": plain["base"], "metric_tuned": plain["tuned"], "metric_patched": patched}
                frame = pd.DataFrame({**names, **at, **values})
                frames.append(frame.astype({"layer": "Int64", "head": "Int64"}))
    return frames


def _scorer(batch: TokenBatch, grade: Grader, max_new_tokens: int) -> Callable[[Model, Sequence[Edit]], np.ndarray]:
    """Greedy accuracy of each item of the batch under edits."""

    def score(model: Model, edits: Sequence[Edit]) -> np.ndarray:
        done = {c.item.key: c.text for c in model.generate(batch, edits=edits, max_new_tokens=max_new_tokens)}
        return np.array([grade(done[i.key], i).correct for i in batch.items])

    return score


def _patch(source: Model, batch: TokenBatch, site: Site, positions: str, at: Sequence[int]) -> Edit:

    value = source.run(batch, read=[site], logits="none")[site]
    spot = place(batch, positions, at)
    return Edit(site, lambda x: value.to(x), spot, PHASE)  # pyright: ignore[reportArgumentType]
