"""Negative log-likelihood of the answers under a model, summed per item."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from analyses.core import reading

if TYPE_CHECKING:
    from probe import Model, Prompts


def answer_nll(model: Model, prompts: Prompts, template: object, batch_size: int) -> list[dict[str, Any]]:
    """Summed NLL of each item's answer (rationale included) and its number of tokens, one row an item."""
    last = str(model.last_state)
    frames: list[pd.DataFrame] = []
    for batch in reading.batches(model, prompts, "answers", batch_size=batch_size, template=template):
        tokens = reading.scored(batch)
        tokens = tokens.where(tokens.in_span("rationale", "answer"))
        rows = tokens.rows(model.run(batch, read=[last], logits="none")[last])
        where = tokens.named(batch.items, last)
        nll = -reading.streamed(rows, model.logits_of, tokens.target, k=0, where=where).logprob_nats
        frames.append(
            pd.DataFrame({**reading.columns(batch.items, tokens.item), "nll_nats": nll.cpu().double().numpy()})
        )
    keys = ["item", "group", "answer_kind"]
    summed = pd.concat(frames).groupby(keys, sort=True)["nll_nats"].agg(["sum", "count"]).reset_index()
    named = summed.rename(columns={"sum": "nll_nats", "count": "n_tokens"})
    return [{str(k): v for k, v in row.items()} for row in named.to_dict("records")]
