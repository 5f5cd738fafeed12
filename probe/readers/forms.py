"""The forms of training files: TRL's, verl's, ShareGPT's and Alpaca's rows, in the words of an item.

`completed` adds what a row says in such a form to the fields found by name. `taken` names the columns it used up,
`turn` what the answer's turn says beside its text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from probe.readers import conversations
from probe.readers.columns import MISSING, Row, is_missing, text, value_of

Fields: TypeAlias = dict[str, Any]
"""Fields of an item by name."""

GOLD = ("reward_model.ground_truth", "ground_truth", "completion", "gold", "target", "solution")
"""Where a row without `answer` may keep it, in this order (verl, TRL)."""


def completed(row: Row, fields: Mapping[str, object], where: str) -> Fields:
    """The fields with what the row's form adds; a row in no known form comes back as it is."""
    found = dict(fields)
    taken: list[str] = []
    if _lacks(found, "prompt"):
        taken += _conversation(row, found, where) or _instruction(row, found, where) or _preference(row, found, where)
    if "answer" not in found and "answers" not in found:
        taken += _gold(row, found, where)
    if "group" not in found and "data_source" in row:  # verl
        found["group"], taken = row["data_source"], [*taken, "data_source"]
    return {**found, "taken": tuple(taken)}


def _lacks(fields: Mapping[str, object], name: str) -> bool:
    return name not in fields or is_missing(fields[name])


def _conversation(row: Row, found: Fields, where: str) -> list[str]:
    """`messages`, `conversations` (ShareGPT): all turns, the last one the answer unless the row has one of its own."""
    name = next((n for n in ("messages", "conversations", "conversation") if not _lacks(row, n)), None)
    if name is None:
        return []
    turns = conversations.turns(row[name], where)
    has_answer = "answer" in found or "answers" in found or turns[-1]["role"] != "assistant"
    if not has_answer:
        turns, found["answer"], found["turn"] = conversations.split(turns, where)
    found["prompt"] = turns
    return [name]


def _instruction(row: Row, found: Fields, where: str) -> list[str]:
    """Alpaca: an instruction with or without an input, and an output; `history` holds earlier pairs."""
    if _lacks(row, "instruction"):
        return []
    asked = "\n".join(text(row[n]) for n in ("instruction", "input") if not _lacks(row, n) and text(row[n]).strip())
    before = conversations.exchanges(row.get("history"), where)
    found["prompt"] = [*before, {"role": "user", "content": asked}] if before else asked
    if "answer" not in found and not _lacks(row, "output"):
        found["answer"] = row["output"]
    return ["instruction", "input", "output", "history"]


def _preference(row: Row, found: Fields, where: str) -> list[str]:
    """TRL's preferences without a prompt of their own: what both conversations begin with."""
    pair = [row.get(n) for n in ("chosen", "rejected")]
    if not all(conversations.is_conversation(v) for v in pair):
        return []
    (before, chosen, more), (_, rejected, _) = (conversations.split(conversations.turns(v, where), where) for v in pair)
    found.setdefault("answers", {"chosen": chosen, "rejected": rejected})
    found["prompt"], found["turn"] = before, more
    return ["chosen", "rejected"]


def _gold(row: Row, found: Fields, where: str) -> list[str]:
    if not _lacks(row, "chosen") and not _lacks(row, "rejected"):
        found["answers"] = {n: _said(row[n], found, where) for n in ("chosen", "rejected")}
        return ["chosen", "rejected"]
    for source in GOLD:
        value = value_of(source, row, 0, where)
        if value is not MISSING and not is_missing(value):
            found["answer"] = _said(value, found, where)
            return [source.partition(".")[0]]
    return []


def _said(value: Any, found: Fields, where: str) -> Any:
    """The text of an answer that may be written as turns of its own."""
    if not conversations.is_conversation(value):
        return value
    *_, last = conversations.turns(value, where)
    _, said, found["turn"] = conversations.split([{}, last], where)
    return said
