"""What is read off each edited run: one number per item from the logits at a few positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

from probe.errors import InputError
from probe.tokens import SPANS

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from probe.replay.decoder import Decoder
    from probe.tokens import TokenBatch

Score: TypeAlias = "Callable[[Tensor, Tensor, Tensor], Tensor]"


@dataclass(frozen=True)
class Metric:
    """The mean over an item's `rows` of `score(logits [row vocab], item [row], pos [row]) -> [row]`.

    Only these rows are computed in the last block and unembedded. An item without rows gives NaN. Where a score
    needs a few logits only, `tokens` names them and `few(logits [row k]) -> [row]` is the same score from those.
    """

    name: str
    units: str
    rows: Bool[Tensor, "item pos"]
    score: Score
    tokens: Int[Tensor, "item k"] | None = None
    few: Callable[[Tensor], Tensor] | None = None


def answer_logprob(batch: TokenBatch) -> Metric:
    """Mean teacher-forced log-probability of the answer's tokens, in nats per token (at most 0)."""
    answer = batch.span == SPANS.index("answer")
    rows = torch.zeros_like(batch.mask)
    rows[:, :-1] = answer[:, 1:] & batch.mask[:, :-1]
    if not bool(rows.any(1).all()):
        bad = [batch.items[i].id for i in (~rows.any(1)).nonzero().flatten().tolist()]
        raise InputError(f"no token before the answer in item(s) {bad[:5]}: nothing predicts it; add a prompt or BOS")
    targets = torch.roll(batch.ids, -1, dims=1)

    def score(logits: Tensor, item: Tensor, pos: Tensor) -> Tensor:
        wanted = targets.to(logits.device)[item, pos]
        # In double: a sum over 10^5 tokens and a value near 10 nats cost 1e-6 in single.
        return logits.double().log_softmax(-1).gather(-1, wanted[:, None]).squeeze(-1)

    return Metric("answer_logprob", "nats per token", rows, score)


def logit_difference(batch: TokenBatch, target: Int[Tensor, " item"], foil: Int[Tensor, " item"]) -> Metric:
    """Logit of `target` minus logit of `foil` at each item's last prompt token.

    Args:
        batch: the items.
        target: token id of each item.
        foil: the other token id.
    """
    rows = torch.zeros_like(batch.mask)
    rows[torch.arange(len(rows), device=rows.device), batch.last_prompt] = True

    pair = torch.stack([target, foil], 1)

    def difference(logits: Tensor) -> Tensor:
        high, low = logits.float().unbind(-1)
        return high - low

    def score(logits: Tensor, item: Tensor, _pos: Tensor) -> Tensor:
        return difference(logits.gather(-1, pair.to(logits.device)[item]))

    return Metric("logit_difference", "logits", rows, score, pair, difference)


def of_rows(
    metric: Metric, decoder: Decoder, resid: Float[Tensor, "row d_model"], item: Tensor, pos: Tensor, at_once: int
) -> Float[Tensor, " row"]:
    """The metric's score of each final residual row, unembedded `at_once` rows at a time.

    Args:
        metric: the metric.
        decoder: unembeds.
        resid: final residual rows.
        item: item of each row.
        pos: padded position of each row.
        at_once: rows unembedded together.
    """
    if metric.tokens is not None and metric.few is not None:
        return metric.few(decoder.logits_of(resid, metric.tokens.to(resid.device)[item]))
    parts = [
        metric.score(decoder.head(resid[i : i + at_once]), item[i : i + at_once], pos[i : i + at_once])
        for i in range(0, len(resid), at_once)
    ]
    return torch.cat(parts) if parts else resid.new_zeros(0, dtype=torch.float32)
