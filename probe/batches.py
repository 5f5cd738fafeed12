"""Encoded items as padded batches, in a plan fixed by the inputs alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from probe.errors import InputError
from probe.lazily import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor

    from probe.items import Item

SPANS = ("pad", "template", "prompt", "rationale", "answer", "straddle")
"""What a token belongs to. `template`: BOS and what a chat template writes. `straddle`: under
`boundary="offsets"`, a token that holds characters of the prompt and of the answer."""

PAD, TEMPLATE, PROMPT, RATIONALE, ANSWER, STRADDLE = range(6)
Padding = Literal["left", "right"]


@dataclass(frozen=True)
class Encoded:
    """One item's token ids and, for each, the index of its span in `SPANS`.

    `straddle` counts those of its answer's tokens that begin with characters of the prompt.
    """

    item: Item
    ids: tuple[int, ...]
    span: tuple[int, ...]
    straddle: int = 0


@dataclass(frozen=True)
class TokenBatch:
    """Padded items: ids, mask (True = real token) and spans (index in `SPANS`), each [item pos]."""

    ids: Int[Tensor, "item pos"]
    mask: Bool[Tensor, "item pos"]
    span: Int[Tensor, "item pos"]
    items: tuple[Item, ...]
    padding: Padding = "left"

    @property
    def offsets(self) -> Int[Tensor, " item"]:
        """Index of each item's first real token."""
        return self.mask.int().argmax(-1)

    @property
    def position_ids(self) -> Int[Tensor, "item pos"]:
        """Position of each token within its item, from 0 (0 on padding).

        Families with learned or rotary positions read left-padded text wrongly without these.
        """
        return (self.mask.long().cumsum(-1) - 1).clamp(min=0)

    @property
    def last_prompt(self) -> Int[Tensor, " item"]:
        """Index of each item's last token of the prompt or its template, before any answer token."""
        in_prompt = (self.span == PROMPT) | (self.span == TEMPLATE)
        return in_prompt.shape[1] - 1 - in_prompt.flip(-1).int().argmax(-1)

    def to(self, device: str | torch.device) -> TokenBatch:
        """The same batch on a device."""
        tensors = {n: getattr(self, n).to(device) for n in ("ids", "mask", "span")}
        return replace(self, **tensors)

    def __len__(self) -> int:
        return len(self.items)


def plan(
    encoded: Sequence[Encoded], batch_size: int, padding: Padding = "left", pad_id: int = 0, turn: int | None = None
) -> list[TokenBatch]:
    """The batches: sorted by length (stable), every item exactly once; fixed by the inputs alone.

    Items of at most `turn` tokens share no batch with longer ones (see `probe.families.frequency_turn`).

    Args:
        encoded: tokenized items.
        batch_size: items in a batch.
        padding: side on which it is padded.
        pad_id: id of the padding.
        turn: number of tokens at which rotary frequencies change, None for never.
    """
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size}; expected at least 1")
    if padding not in ("left", "right"):
        raise InputError(f"padding={padding!r}; expected 'left' or 'right'")
    ordered = sorted(encoded, key=lambda e: len(e.ids))
    parts = [ordered] if turn is None else [[e for e in ordered if (len(e.ids) > turn) is far] for far in (False, True)]
    chunks = [part[i : i + batch_size] for part in parts for i in range(0, len(part), batch_size)]
    return [padded(chunk, padding, pad_id) for chunk in chunks]


def refuse_mixed(batch: TokenBatch, turn: int | None) -> None:
    """Refuse a batch whose items are not all within, or all beyond, the length at which frequencies change.

    Raises:
        InputError: with an item of either side.
    """
    far = (batch.mask.sum(-1) > turn).tolist() if turn is not None else []
    if any(far) and not all(far):
        ids = [batch.items[far.index(side)].id for side in (False, True)]
        raise InputError(
            f"items {ids[0]!r} (at most {turn} tokens) and {ids[1]!r} (more) in one batch: this model's rotary "
            "frequencies (longrope) change at that length for the whole batch. Use batches from `Model.batches`"
        )


def padded(chunk: Sequence[Encoded], padding: Padding = "left", pad_id: int = 0) -> TokenBatch:
    """One batch of these items, rows in the order given.

    Args:
        chunk: tokenized items.
        padding: side on which it is padded.
        pad_id: id of the padding.
    """
    width = max(len(e.ids) for e in chunk)

    def rows(values: Sequence[Sequence[int]], fill: int, dtype: torch.dtype) -> Tensor:
        gaps = [[fill] * (width - len(v)) for v in values]
        joined = [[*g, *v] if padding == "left" else [*v, *g] for g, v in zip(gaps, values, strict=True)]
        return torch.tensor(joined, dtype=dtype)

    span = rows([e.span for e in chunk], PAD, torch.int8)
    ids = rows([e.ids for e in chunk], pad_id, torch.int64)
    return TokenBatch(ids, span != PAD, span, tuple(e.item for e in chunk), padding)
