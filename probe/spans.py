"""Ids of a text that is cut into parts, and the part each token is of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from probe.batches import ANSWER, STRADDLE, TEMPLATE
from probe.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LEADING_SPACE = ("Ġ", "▁", " ")

Parts = list[tuple[str, int]]  # pieces of a text in order, each with the index of its span


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text, no special token added."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def spanned(tokenizer: PreTrainedTokenizerBase, parts: Parts) -> tuple[list[int], list[int]]:
    """Ids of the joined text and their spans; one part alone needs no offsets."""
    if len(parts) == 1:
        ids = ids_of(tokenizer, parts[0][0])
        return ids, [parts[0][1]] * len(ids)
    return offsets(tokenizer, parts)


def with_starts(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int]]:
    """Ids and, of a fast tokenizer, the index of each token's first character ([] of a slow one)."""
    if not tokenizer.is_fast:
        return ids_of(tokenizer, text), []
    enc = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = list(enc["input_ids"])
    starts: list[int] = []
    previous_end = 0
    for token, (start, end) in zip(tokenizer.convert_ids_to_tokens(ids), enc["offset_mapping"], strict=True):
        # Some tokenizers trim the space a token holds from its offsets; it is part of the token.
        starts.append(min(start, previous_end) if str(token).startswith(_LEADING_SPACE) else start)
        previous_end = end
    return ids, starts


def offsets(tokenizer: PreTrainedTokenizerBase, parts: Parts) -> tuple[list[int], list[int]]:
    """Ids of the joined text and the span of each by its characters."""
    if not tokenizer.is_fast:
        raise InputError(
            f"{type(tokenizer).__name__} gives no character offsets (a slow tokenizer), which chat templates "
            "and boundary='offsets' need; use boundary='joint' without a template, or save a tokenizer.json"
        )
    text = "".join(t for t, _ in parts)
    ids, starts = with_starts(tokenizer, text)
    stops = [end for _, end in tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]]
    return ids, [_span(*ends, parts) for ends in zip(starts, stops, strict=True)]


def _span(start: int, end: int, parts: Sequence[tuple[str, int]]) -> int:
    edge = 0
    touched: list[int] = []
    for text, kind in parts:
        if start < edge + len(text) and end > edge:
            touched.append(kind)
        edge += len(text)
    if ANSWER in touched and len(touched) > 1:
        return STRADDLE
    # A token of template and prompt is no token of the prompt's own.
    return touched[0] if len(touched) == 1 else TEMPLATE
