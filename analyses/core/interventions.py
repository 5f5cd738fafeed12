"""What an intervention does to the teacher-forced answer, item by item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from analyses.core.measures import streamed
from analyses.core.teacher_forced import scored

if TYPE_CHECKING:
    from probe import Edit, Model, TokenBatch

KEYS = ["item", "answer_kind"]


def answer_logprob(model: Model, batch: TokenBatch, edits: Sequence[Edit] = ()) -> Float[np.ndarray, " item"]:
    """Mean log-probability of each item's answer tokens, in nats per token (<= 0), the answer being forced.

    Raises:
        InputError: the logits are not finite (an intervention overflowed).
    """
    last = f"resid_post.{model.shape.n_layers - 1}"
    tokens = scored(batch.to(model.device))
    tokens = tokens.where(tokens.in_span("answer"))
    residual = model.run(batch, read=[last], edits=edits, logits="none")[last]
    logprob = streamed(tokens.rows(residual), model.unembed, tokens.target, k=0).logprob_nats
    total = torch.zeros(len(batch), device=logprob.device).index_add(0, tokens.item, logprob)
    return (total / torch.bincount(tokens.item, minlength=len(batch))).cpu().numpy().astype(float)
