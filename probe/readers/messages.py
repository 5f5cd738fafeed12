"""Chat messages of a rollout log: what of them is the policy's own text, and where each turn begins.

Roles make the mask: what an assistant wrote (its content and its tool calls) was sampled by the policy, what a user,
a system or a tool wrote was not. What stands between turns is known from the tokenizer's chat template alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from probe.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OWN = ("assistant", "ai", "model", "gpt")
TOOLS = ("tool", "function", "ipython", "environment", "observation")
TEXT_PARTS = ("text", "input_text", "output_text")

Turn = dict[str, Any]


class MessageTrace(NamedTuple):
    """A response of several turns as tokens: ids, which of them the policy sampled, where turns begin and what they
    are (`call`, `answer`, `turn` for the policy's own, `tool` or `turn` for the rest)."""

    ids: list[int]
    mask: list[bool]
    starts: list[int]
    types: list[str]


def is_messages(value: object) -> bool:
    """True for a list of chat messages."""
    return isinstance(value, list) and all(isinstance(m, dict) and ("content" in m or "tool_calls" in m) for m in value)


def cleaned(turns: Sequence[Mapping[str, Any]], where: str) -> list[Turn]:
    """The turns with their content as text: parts of text are joined, empty fields dropped.

    Raises:
        InputError: content that is not text (pictures, sound), several turns of which one names no role.
    """
    out: list[Turn] = []
    for turn in turns:
        kept = {k: v for k, v in turn.items() if v is not None and k in ("role", "content", "tool_calls", "name")}
        if isinstance(kept.get("tool_calls"), str):
            kept["tool_calls"] = json.loads(kept["tool_calls"])
        kept["content"] = _content(turn.get("content"), where)
        kept["role"] = str(turn.get("role") or "")
        if not kept["role"] and len(turns) > 1:
            raise InputError(f"{where}: a chat message without a role among {len(turns)}: whose text it is, is unknown")
        out.append({k: v for k, v in kept.items() if v not in ([], None)})
    return out


def _content(value: object, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, list) else [value]
    texts: list[str] = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and part.get("type", "text") in TEXT_PARTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise InputError(f"{where}: a chat message holds a part of type {kind!r}; only text can be read")
    return "".join(texts)


def own_text(turns: Sequence[Turn]) -> str:
    """What the policy itself wrote, its tool calls as JSON; a line break between turns."""
    return "\n".join(_turn_text(t) for t in turns if is_own(t))


def all_text(turns: Sequence[Turn]) -> str:
    """The text of every turn, a line break between them."""
    return "\n".join(_turn_text(t) for t in turns)


def is_own(turn: Turn) -> bool:
    """True if the policy wrote this turn (of a response that is one message without a role, it did)."""
    return turn["role"] in ("", *OWN)


def is_trace(turns: Sequence[Turn]) -> bool:
    """True for a response of more than one plain message of the policy."""
    return len(turns) != 1 or not is_own(turns[0]) or "tool_calls" in turns[0]


def _turn_text(turn: Turn) -> str:
    calls = [json.dumps(_call(c), ensure_ascii=False) for c in turn.get("tool_calls", [])]
    return "\n".join([*([turn["content"]] if turn["content"] else []), *calls])


def _call(call: object) -> Any:
    """The name and arguments of a tool call, however it is wrapped."""
    inner = call.get("function", call) if isinstance(call, dict) else call
    if not isinstance(inner, dict):
        return inner
    return {k: v for k, v in inner.items() if k in ("name", "arguments") and v is not None} or inner


def traced(
    prompt: Sequence[Turn] | None, turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase, where: str
) -> MessageTrace:
    """A response of several turns as the chat template spells it after its prompt.

    Each turn is encoded by itself, as it was sampled or inserted. A turn of the policy ends with its end token; what
    the template puts behind that (a line break, the next header) nobody sampled.

    Raises:
        InputError: no template, a prompt that is no list of messages, or a template that rewrites earlier turns.
    """
    if prompt is None or not getattr(tokenizer, "chat_template", None):
        lacks = "its prompt is not a list of messages" if prompt is None else "this tokenizer has no chat template"
        raise InputError(
            f"{where}: a response of {len(turns)} turns ({', '.join(t['role'] for t in turns)}), but {lacks}: what "
            "stands between the turns, and so what the policy saw, is unknown. Record ids with probe.training.recording"
        )
    pieces: list[tuple[str, bool, str]] = []
    seen = _rendered(prompt, [], tokenizer, opened=is_own(turns[0]))
    for number, turn in enumerate(turns):
        following = turns[number + 1 : number + 2]
        opened = bool(following) and is_own(following[0])
        closed = _rendered(prompt, turns[: number + 1], tokenizer, opened=False)
        whole = _rendered(prompt, turns[: number + 1], tokenizer, opened=True) if opened else closed
        if not (closed.startswith(seen) and whole.startswith(closed)):
            raise InputError(
                f"{where}: the chat template rewrites earlier turns (turn {number + 1}, {turn['role']}), so the text "
                "that the policy saw cannot be rebuilt from the messages. Record ids with probe.training.recording"
            )
        pieces.extend(_pieces(turn, whole[len(seen) :], tokenizer, last=not following))
        seen = whole
    return _encoded(pieces, tokenizer, where)


def _rendered(
    prompt: Sequence[Turn], turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase, *, opened: bool
) -> str:
    """Prompt and turns through the template; `opened`: with the header under which the policy goes on."""
    messages = [*prompt, *turns]
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=opened, tokenize=False))


def _pieces(turn: Turn, text: str, tokenizer: PreTrainedTokenizerBase, *, last: bool) -> list[tuple[str, bool, str]]:
    """(text, sampled, type): the policy's turn up to its end token, and what the template put behind it."""
    if not is_own(turn):
        return [(text, False, "tool" if turn["role"] in TOOLS else "turn")]
    kind = "call" if "tool_calls" in turn else "answer" if last else "turn"
    end = str(tokenizer.eos_token or "")
    at = text.rfind(end) + len(end) if end and end in text else len(text)
    return [(text[:at], True, kind), *([(text[at:], False, "turn")] if text[at:] and not last else [])]


def _encoded(pieces: Sequence[tuple[str, bool, str]], tokenizer: PreTrainedTokenizerBase, where: str) -> MessageTrace:
    """Neighbouring pieces that nobody sampled are one segment, named after the first of them that is a tool's."""
    trace = MessageTrace([], [], [], [])
    for text, sampled, kind in pieces:
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        if tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) != text:
            raise InputError(f"{where}: a turn's text does not come back from this tokenizer unchanged: {text[:40]!r}")
        if not ids:
            continue
        if not sampled and trace.mask and not trace.mask[-1]:
            if kind == "tool":
                trace.types[-1] = "tool"
        else:
            trace.starts.append(len(trace.ids))
            trace.types.append(kind)
        trace.ids.extend(ids)
        trace.mask.extend([sampled] * len(ids))
    return trace
