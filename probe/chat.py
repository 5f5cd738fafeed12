"""Conversations as a chat template writes them: where the turns' own texts and the answer stand in the whole.

A template may trim what it is given and may write around it (an empty thought before an answer). What it writes is
what the model was trained on, so it is taken as it is; where a turn's text lies in it is found by rendering the same
conversation once more with marks in place of the texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jinja2

from probe.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from probe.items import Item

Turn = Mapping[str, Any]
_OPEN, _CLOSE = "\ue000", "\ue001"  # private use: around the number of the turn whose text a mark stands for


@dataclass(frozen=True)
class WrittenChat:
    """A rendered conversation.

    Attributes:
        text: all of it, up to the answer's last character, or up to where generation begins.
        start: where the answer begins (the text's end where there is none).
        own: character ranges of the turns' own texts before the answer, in order.
        end: what the template writes after the answer (its end-of-turn mark).
    """

    text: str
    start: int
    own: tuple[tuple[int, int], ...]
    end: str = ""


def asked(tokenizer: PreTrainedTokenizerBase, item: Item, options: Mapping[str, object]) -> WrittenChat:
    """The conversation up to where the model's answer begins.

    Args:
        tokenizer: has the template.
        item: the conversation.
        options: variables of the template.

    Raises:
        InputError: no chat template, a template that refuses the conversation or rewrites its last text.
    """
    template = _Template(tokenizer, item, options)
    text = template.open(template.turns)
    return WrittenChat(text, len(text), template.own(text, text))


def answered(tokenizer: PreTrainedTokenizerBase, item: Item, options: Mapping[str, object]) -> WrittenChat:
    """The conversation with the item's answer as the assistant's turn, cut behind the answer.

    What the template writes between its generation prompt and the answer is part of it, as in training.

    Args:
        tokenizer: has the template.
        item: the conversation.
        options: variables of the template.

    Raises:
        InputError: as `asked`; an answer of which the template leaves nothing.
    """
    template = _Template(tokenizer, item, options)
    opened = template.open(template.turns)
    if template.continues:
        return WrittenChat(opened + item.answer, len(opened), template.own(opened, opened))
    head, _, tail = template.closed(_mark(len(template.turns))).partition(_mark(len(template.turns)))
    whole = template.closed(item.answer)
    stop = len(whole) - len(tail)
    # A template that writes the answer in parts (a thought, then the rest) leaves no one place for a mark.
    start = len(head) if whole.startswith(head) and len(head) <= stop else _common(opened, whole)
    if not whole.endswith(tail) or start >= stop:
        raise InputError(
            f"item {item.id}: the chat template leaves nothing of its answer {item.answer[:40]!r}; use template='none'"
        )
    return WrittenChat(whole[:stop], start, template.own(opened, whole[:start]), tail)


class _Template:
    """A tokenizer's chat template with one item's conversation and the template's options."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, item: Item, options: Mapping[str, object]) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise InputError("template='chat', but this tokenizer has no chat template; use template='none'")
        self.tokenizer, self.item = tokenizer, item
        self.options: dict[str, Any] = dict(options)
        self.turns: Sequence[Turn] = item.messages
        tools = item.chat.tools if item.chat else ()
        self.tools: list[Any] | None = [dict(tool) for tool in tools] or None
        self.more = dict(item.chat.answer) if item.chat else {}
        self.continues = self.turns[-1].get("role") == "assistant"

    def open(self, turns: Sequence[Turn]) -> str:
        """The prompt as generation meets it; a last turn of the assistant's is continued."""
        how = "continue_final_message" if self.continues else "add_generation_prompt"
        return self._render(turns, **{how: True})

    def closed(self, answer: str) -> str:
        """The conversation with an answer."""
        return self._render(
            [*self.turns, {"role": "assistant", "content": answer, **self.more}], add_generation_prompt=False
        )

    def own(self, opened: str, text: str) -> tuple[tuple[int, int], ...]:
        """Ranges of the turns' texts in `text`, which begins as the opened prompt does.

        Raises:
            InputError: the last turn's text is not to be found.
        """
        texts = {n: str(t["content"]) for n, t in enumerate(self.turns) if isinstance(t.get("content"), str)}
        marked = self.open([{**t, "content": _mark(n)} if n in texts else t for n, t in enumerate(self.turns)])
        found = _aligned(opened, marked, texts)
        if found and text.startswith(opened[: found[-1][1]]):
            return found
        # The template looks at what the texts say: the last one is looked for as it is.
        last = self.item.prompt.strip()
        at = text.rfind(last)
        if not last or at < 0:
            raise InputError(
                f"item {self.item.id}: the chat template rewrites the prompt, so its tokens cannot be told from the "
                "template's; use template='none'"
            )
        return ((at, at + len(last)),)

    def _render(self, turns: Sequence[Turn], **how: bool) -> str:

        given = [dict(turn) for turn in turns]
        try:
            text = self.tokenizer.apply_chat_template(given, tools=self.tools, tokenize=False, **how, **self.options)
        except (jinja2.TemplateError, TypeError, KeyError, ValueError) as error:
            roles = ", ".join(str(turn.get("role")) for turn in given)
            raise InputError(f"item {self.item.id}: the chat template refuses turns of {roles}: {error}") from error
        return str(text)


def _mark(number: int) -> str:
    return f"{_OPEN}{number}{_CLOSE}"


def _common(one: str, other: str) -> int:
    """Length of the longest common beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


def _aligned(text: str, marked: str, texts: Mapping[int, str]) -> tuple[tuple[int, int], ...] | None:
    """Ranges that the marks' texts take up in `text`; None where it is not the marked text with marks filled in."""
    first, *rest = marked.split(_OPEN)
    if not text.startswith(first):
        return None
    at, found = len(first), list[tuple[int, int]]()
    for n, piece in enumerate(rest):
        number, _, literal = piece.partition(_CLOSE)
        given = texts[int(number)]
        forms = (given, given.strip(), given.rstrip(), given.lstrip())
        taken = next((f for f in forms if text.startswith(f + literal, at)), None)
        last = n == len(rest) - 1
        stop = at + len(taken) if taken is not None else (text.rfind if last else text.find)(literal, at)
        if stop < at:
            return None
        found.append((at, stop))
        at = stop + len(literal)
    return tuple(found) if at == len(text) else None
