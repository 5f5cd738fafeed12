"""Conversations as training data write them: one list of turns, whatever its keys and roles are called."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from probe.errors import InputError
from probe.items import Chat
from probe.readers.columns import is_missing, parsed_list, text

ROLES = {
    "human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
    "bing": "assistant", "observation": "tool", "function_response": "tool", "function": "tool",
    "developer": "system",
}  # fmt: skip
"""Other programs' names (ShareGPT, Gemini, LLaMA-Factory) for the roles of chat templates."""

Turn = dict[str, Any]


def is_conversation(value: object) -> bool:
    """True for a list of turns, each with a role and a content (or ShareGPT's `from` and `value`)."""
    if not isinstance(value, list) or not value:
        return False
    turns = cast("list[Any]", value)
    return all(isinstance(t, Mapping) and ("role" in t or "from" in t) for t in turns)


def turns(value: Any, where: str) -> list[Turn]:
    """The turns as `{"role", "content", ...}`; what a template reads beside these (tool calls, names) is kept.

    Raises:
        InputError: no turns, a turn without role, a content that is no text (images, audio).
    """
    value = parsed_list(value)
    if not is_conversation(value):
        raise InputError(f"{where}: {str(value)[:60]!r} is no conversation; expected a list of turns with a role each")
    return [_turn(turn, f"{where}, turn {n + 1}") for n, turn in enumerate(value)]


def _turn(given: Mapping[str, object], where: str) -> Turn:
    role = str(given.get("role", given.get("from")))
    content = _content(given.get("content", given.get("value")), where)
    more = {k: v for k, v in given.items() if k not in ("role", "from", "content", "value") and not is_missing(v)}
    if role == "function_call":
        return {"role": "assistant", "content": None, "tool_calls": [_call(content, where)], **more}
    if content is None and not more:
        raise InputError(f"{where}: a turn of {role!r} without content; correct or remove it")
    return {"role": ROLES.get(role, role), "content": content, **more}


def _content(value: object, where: str) -> str | None:
    """Text of a turn; content parts are joined."""
    if is_missing(value):
        return None
    if not isinstance(value, list):
        if isinstance(value, Mapping):
            raise InputError(f"{where}: content {str(cast('Any', value))[:60]!r} is no text")
        return text(value)
    parts = cast("list[Any]", value)
    other = [p for p in parts if not isinstance(p, str) and not (isinstance(p, Mapping) and "text" in p)]
    if other:
        kind = other[0].get("type") if isinstance(other[0], Mapping) else type(other[0]).__name__
        raise InputError(f"{where}: a content part of type {kind!r}; only text is read")
    return "".join(p if isinstance(p, str) else text(p["text"]) for p in parts if isinstance(p, str) or p["text"])


def _call(content: str | None, where: str) -> Turn:
    try:
        return {"type": "function", "function": json.loads(content or "")}
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: a function_call that is no JSON: {str(content)[:60]!r}") from error


def asked(of: Sequence[Turn], tools: object, answer: Mapping[str, object], where: str) -> tuple[str, Chat]:
    """Prompt text of the last turn and the conversation it ends."""
    *before, last = of
    content = last.get("content")
    if not content:
        raise InputError(f"{where}: the last turn before the answer, of {last['role']!r}, has no text")
    offered = tuple(_tool(t, where) for t in _listed(tools, "tools", where)) if tools else ()
    rest = {k: v for k, v in last.items() if k != "content"}
    return str(content), Chat(tuple(before), rest, offered, dict(answer))


def _listed(value: object, name: str, where: str) -> list[Any]:
    listed = parsed_list(value)
    if not isinstance(listed, list):
        raise InputError(f"{where}: {name} is {str(value)[:60]!r}; expected a list, or one written as JSON")
    return cast("list[Any]", listed)


def _tool(given: object, where: str) -> dict[str, object]:
    if not isinstance(given, Mapping):
        raise InputError(f"{where}: a tool is {str(given)[:60]!r}; expected an object as chat templates take it")
    return {str(k): v for k, v in cast("Mapping[Any, Any]", given).items()}


def exchanges(history: object, where: str) -> list[Turn]:
    """Alpaca's history, pairs of what was asked and answered, as turns.

    Raises:
        InputError: no list of pairs.
    """
    pairs = _listed(history, "history", where) if history else []
    if not all(isinstance(p, list) and len(cast("list[Any]", p)) == 2 for p in pairs):
        raise InputError(f"{where}: history is {str(pairs)[:60]!r}; expected pairs of question and answer")
    said = [(role, t) for pair in pairs for role, t in zip(("user", "assistant"), pair, strict=True)]
    return [{"role": role, "content": text(t)} for role, t in said]


def split(of: Sequence[Turn], where: str) -> tuple[list[Turn], str, Turn]:
    """The turns before the last one of the assistant's, that turn's text, and what else it says.

    Raises:
        InputError: the last turn is not the assistant's, or has no text.
    """
    *before, last = of
    if last["role"] != "assistant" or not before:
        raise InputError(f"{where}: no answer: the conversation does not end with a turn of the assistant's")
    content = last.get("content")
    if not content:
        raise InputError(f"{where}: the assistant's last turn has no text (a tool call?); it cannot be scored as one")
    return before, str(content), {k: v for k, v in last.items() if k not in ("role", "content")}
