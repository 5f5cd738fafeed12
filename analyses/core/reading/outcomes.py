"""What an intervention does to an answer, item by item: when the answer is forced, and when the model is let go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from analyses.core.reading.readouts import streamed
from analyses.core.reading.teacher_forced import scored

if TYPE_CHECKING:
    from analyses.core.reading.grading import Grader
    from probe import Edit, Model, Prompts, TokenBatch


def answer_logprob(model: Model, batch: TokenBatch, edits: Sequence[Edit] = ()) -> Float[np.ndarray, " item"]:
    """Mean log-probability of each item's answer tokens, in nats per token (<= 0), the answer being forced.

    Args:
        model: the checkpoint.
        batch: items with answers.
        edits: edits of the run.

    Raises:
        InputError: the logits are not finite (an intervention overflowed).
    """
    last = str(model.last_state)
    tokens = scored(batch.to(model.device))
    tokens = tokens.where(tokens.in_span("answer"))
    residual = model.run(batch, read=[last], edits=edits, logits="none")[last]
    named = tokens.named(batch.items, last)
    logprob = streamed(tokens.rows(residual), model.logits_of, tokens.target, k=0, where=named).logprob_nats
    total = torch.zeros(len(batch), device=logprob.device).index_add(0, tokens.item, logprob)
    return (total / torch.bincount(tokens.item, minlength=len(batch))).cpu().numpy().astype(float)


def responses_graded(model: Model, prompts: Prompts, grade: Grader, **how: Any) -> pd.DataFrame:
    """Greedy responses of the model as it stands, graded: `how` is of `Model.generate`.

    Not through `kept_responses`: those are keyed by the checkpoint, which changed weights and open edits do not
    touch.

    Args:
        model: the checkpoint.
        prompts: the items.
        grade: grades a response against its item.
        how: as in `Model.generate`.
    """
    asked = one_per_id(prompts)
    texts = {c.item.id: c.text for c in model.generate(asked, **how)}
    return graded(prompts, texts, grade)


def one_per_id(prompts: Prompts) -> Prompts:
    """One item of every id: a response serves all kinds of answer."""

    return replace(prompts, items=tuple({item.id: item for item in prompts.items}.values()))


def graded(prompts: Prompts, texts: Mapping[str, str], grade: Grader) -> pd.DataFrame:
    """Rows item, answer_kind, text, correct for every item.

    `correct` is 0 also where a response holds no answer: an intervention that destroys the text is not left out.
    It is NaN only where the gold answer cannot be read.

    Args:
        prompts: the items.
        texts: id -> response.
        grade: grades a response against its item.
    """
    found = [(item, grade(texts[item.id], item)) for item in prompts.items]
    rows = [(i.id, i.answer_kind, texts[i.id], 0.0 if g.status == "unparsed" else g.correct) for i, g in found]
    return pd.DataFrame(rows, columns=["item", "answer_kind", "text", "correct"])
