"""Clean and corrupt prompts of equal length: the two inputs of patching within one checkpoint."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from analyses.core import reading
from probe.errors import InputError

if TYPE_CHECKING:
    from probe import Model, Prompts, TokenBatch

COLUMN = "corrupt"


def paired_batches(
    model: Model, prompts: Prompts, corrupt: str, **plan: Any
) -> tuple[list[tuple[TokenBatch, TokenBatch]], list[str]]:
    """(clean, corrupt) batches, row by row the same item with the same answer, and notes on items left out.

    `corrupt`: `column` takes the corrupt prompt from the item's column of that name; `rotate` takes the prompt of
    the next item with as many prompt tokens (an item without such a partner is left out).

    Raises:
        InputError: no such column, or prompts of unequal length (all are listed).
    """
    notes: list[str] = []
    if corrupt == "rotate":
        prompts, notes = _rotated(model, prompts, plan)
    missing = [i.id for i in prompts.items if not str(i.meta.get(COLUMN, "")).strip()]
    if missing:
        raise InputError(
            f"{len(missing)} item(s) have no column {COLUMN!r} with a corrupt prompt ({', '.join(missing[:5])}); add "
            "one to the prompt file, or use corrupt=rotate to take the prompt of another item"
        )
    other = replace(prompts, items=tuple(replace(i, prompt=str(i.meta[COLUMN])) for i in prompts.items))
    lengths = [_lengths(model, p, plan) for p in (prompts, other)]
    unequal = [f"{key[0]} ({n} and {lengths[1][key]})" for key, n in lengths[0].items() if lengths[1][key] != n]
    if unequal:
        raise InputError(f"clean and corrupt prompt differ in number of tokens: {', '.join(sorted(unequal))}")
    pairs = list(zip(model.batches(prompts, **plan), model.batches(other, **plan), strict=True))
    moved = [a.items[0].id for a, b in pairs if not bool((a.span == b.span).all())]
    if moved:
        raise InputError(f"clean and corrupt text put prompt and answer at other positions, e.g. near item {moved[0]}")
    return pairs, notes


def _lengths(model: Model, prompts: Prompts, plan: dict[str, Any]) -> dict[tuple[str, str], int]:
    return {
        item.key: int(batch.mask[row].sum())
        for batch in model.batches(prompts, **plan)
        for row, item in enumerate(batch.items)
    }


def _rotated(model: Model, prompts: Prompts, plan: dict[str, Any]) -> tuple[Prompts, list[str]]:

    same: dict[tuple[str, int], list[int]] = defaultdict(list)
    number = {item.key: n for n, item in enumerate(prompts.items)}
    for batch in model.batches(prompts, **plan):
        for item, columns in zip(batch.items, reading.prompt_columns(batch), strict=True):
            same[item.answer_kind, len(columns)].append(number[item.key])
    partner: dict[int, int] = {}
    for members in same.values():
        ordered = sorted(members)
        texts = {prompts.items[n].prompt for n in ordered}
        if len(texts) > 1:  # rotating items of one text would corrupt nothing
            partner |= dict(zip(ordered, [*ordered[1:], ordered[0]], strict=True))
    alone = len(prompts.items) - len(partner)
    if not partner:
        raise InputError("corrupt=rotate: no two prompts have the same number of tokens; give a corrupt column")
    items = tuple(
        replace(prompts.items[n], meta={**prompts.items[n].meta, COLUMN: prompts.items[partner[n]].prompt})
        for n in sorted(partner)
    )
    notes = [f"{alone} item(s) left out: no other prompt has as many tokens"] if alone else []
    return replace(prompts, items=items), notes
