"""Which logits score which tokens: the one place that shifts by one.

A residual read at position p predicts the token at p+1, so a sequence's first token is never scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from analyses.core.progress import progress
from probe.prompts import SPANS, Item, TokenBatch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from probe import Model, Prompts
    from probe.finite import Where

OPERATORS = frozenset("+-−*×·/÷=<>≤≥^%√±")
TOKEN_CLASSES = ("number", "word", "operator", "punctuation", "space", "special")


@dataclass(frozen=True)
class Scored:
    """The scored tokens of a batch, one entry each, item by item.

    Attributes:
        item: row of the batch.
        column: column of the batch whose logits predict the token (one before it).
        pos: that column within the item, padding not counted.
        target: the token's id.
        span: its span, as an index in ``SPANS``.
    """

    item: Int[Tensor, " token"]
    column: Int[Tensor, " token"]
    pos: Int[Tensor, " token"]
    target: Int[Tensor, " token"]
    span: Int[Tensor, " token"]

    def where(self, keep: Bool[Tensor, " token"]) -> Scored:
        """Only the tokens marked True."""
        return Scored(*(getattr(self, f)[keep] for f in ("item", "column", "pos", "target", "span")))

    def rows(self, activations: Shaped[Tensor, "item pos ..."]) -> Shaped[Tensor, "token ..."]:
        """Activations at the columns that predict each token."""
        return activations[self.item, self.column]

    def named(self, items: Sequence[Item], *sites: str, first: int = 0) -> Where:
        """What errors call row `first` + n of these tokens' readouts, stacked site by site.

        Args:
            items: items of the batch.
            sites: sites in the order they are stacked.
            first: number of the first row.
        """

        def of(row: int) -> tuple[str, str, int]:
            number, token = divmod(row + first, len(self.target))
            return f"logits of {sites[number]}", items[int(self.item[token])].id, int(self.pos[token])

        return of

    def in_span(self, *names: str) -> Bool[Tensor, " token"]:
        """True for tokens of the named spans."""
        wanted = torch.tensor([SPANS.index(n) for n in names], device=self.span.device)
        return torch.isin(self.span.long(), wanted)


def scored(batch: TokenBatch) -> Scored:
    """Every real token of the batch but each item's first."""
    item, column = (batch.mask[:, 1:] & batch.mask[:, :-1]).nonzero(as_tuple=True)
    offsets = batch.offsets.to(column.device)[item]
    after = column + 1
    return Scored(item, column, column - offsets, batch.ids[item, after], batch.span[item, after])


def batches(model: Model, prompts: Prompts, what: str, **options: Any) -> Iterator[TokenBatch]:
    """The batch plan with a progress bar; options as in ``Model.batches``.

    Args:
        model: whose tokenizer and context.
        prompts: the items.
        what: name on the progress bar.
        options: as in `Model.batches`.
    """
    planned = model.batches(prompts, **options)
    yield from progress(planned, what, total=len(planned))


def columns(items: tuple[Item, ...], index: Int[Tensor, " token"]) -> dict[str, np.ndarray]:
    """The columns that name each token's item in a table: item, group, answer_kind."""
    at = index.cpu().numpy()
    named = {"item": [i.id for i in items], "group": [i.group for i in items]}
    named["answer_kind"] = [i.answer_kind for i in items]
    return {name: np.asarray(values, dtype=object)[at] for name, values in named.items()}


def token_class(tokenizer: Any, token_id: int) -> str:
    """Class of a token by its text: one of ``TOKEN_CLASSES``.

    ``number`` has a digit and no letter, ``word`` a letter, ``operator`` only signs of arithmetic and
    comparison, ``space`` nothing but white space; the rest is ``punctuation``.
    """
    if token_id in tokenizer.all_special_ids:
        return "special"
    text = tokenizer.decode([token_id]).strip()
    if not text:
        return "space"
    if any(c.isalpha() for c in text):
        return "word"
    if any(c.isdigit() for c in text):
        return "number"
    return "operator" if set(text) <= OPERATORS else "punctuation"


def token_classes(tokenizer: PreTrainedTokenizerBase, ids: Int[Tensor, " token"]) -> np.ndarray:
    """``token_class`` of every id, decoding each distinct id once."""
    classify = cache(lambda i: token_class(tokenizer, i))
    return np.asarray([classify(i) for i in ids.tolist()], dtype=object)
