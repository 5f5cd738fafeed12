"""Where the evidence of an item lies among its tokens: from characters, from its text, or between tags."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from jaxtyping import Bool

from probe.errors import InputError

if TYPE_CHECKING:
    from probe import Item, Model


def characters(item: Item, column: str, tags: tuple[str, ...]) -> list[tuple[int, int]]:
    """Character spans [start, stop) of the evidence in the prompt; [] where it has none.

    The column holds a text or several (every occurrence in the prompt counts), or [start, stop] pairs. With tags, it is
    what stands between them; the tags themselves are no evidence.

    Raises:
        InputError: a text that the prompt does not hold, or a span outside of it.
    """
    if tags:
        pattern = re.escape(tags[0]) + "(.*?)" + re.escape(tags[1])
        return [m.span(1) for m in re.finditer(pattern, item.prompt, re.DOTALL) if m[1].strip()]
    said = item.meta.get(column)
    found: list[tuple[int, int]] = []
    for one in _listed(said):
        if isinstance(one, str):
            places = [m.span() for m in re.finditer(re.escape(one), item.prompt)] if one.strip() else []
            if not places:
                raise InputError(f"item {item.id}: its evidence {one[:40]!r} does not occur in its prompt")
            found += places
            continue
        start, stop = (int(x) for x in one)
        if not 0 <= start < stop <= len(item.prompt):
            raise InputError(
                f"item {item.id}: evidence {one} is outside of its prompt of {len(item.prompt)} characters"
            )
        found.append((start, stop))
    return found


def _listed(said: Any) -> Iterable[Any]:
    if said is None or said == "" or (isinstance(said, float) and np.isnan(said)):
        return []
    if isinstance(said, str):
        return [said]
    values = list(cast("Iterable[Any]", said))
    return [values] if len(values) == 2 and not any(isinstance(v, str | list | tuple) for v in values) else values


def tokens(
    model: Model, item: Item, ids: list[int], spans: list[tuple[int, int]], n_prompt: int
) -> Bool[np.ndarray, " token"]:
    """Which of the item's ids hold a character of the spans, among the first `n_prompt` ones.

    Raises:
        InputError: a tokenizer without character offsets, or ids that are not those of the text.
    """
    tokenizer = model.tokenizer
    if not tokenizer.is_fast:
        raise InputError(f"{type(tokenizer).__name__} gives no character offsets: save a tokenizer.json")
    text = item.prompt + item.answer
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    own = list(read["input_ids"])
    lead = next((k for k in range(len(ids) - len(own) + 1) if ids[k : k + len(own)] == own), None)
    if lead is None:
        raise InputError(f"item {item.id}: its tokens are not those of its text, so its evidence cannot be placed")
    inside = np.zeros(len(ids), bool)
    for place, (start, stop) in enumerate(read["offset_mapping"]):
        inside[lead + place] = any(start < b and stop > a for a, b in spans)
    inside[n_prompt:] = False
    return inside
