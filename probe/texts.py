"""Texts: what a person types where a batch is wanted, as items and as one batch in the order given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from probe.batches import TokenBatch
from probe.errors import InputError
from probe.items import Item
from probe.prompts import Prompts
from probe.readers import conversations

Messages: TypeAlias = Sequence[Mapping[str, Any]]
"""One conversation, as chat templates take it: `[{"role": "user", "content": "Hi"}]`."""
Text: TypeAlias = str | Messages
Texts: TypeAlias = Text | Sequence[Text] | Prompts | TokenBatch
"""What goes wherever a batch goes: a text, a conversation, several of either, prompts, a batch."""

EXAMPLE = 'a text ("Once upon a time"), several (["a", "b"]), a conversation ([{"role": "user", "content": "Hi"}])'


@dataclass(frozen=True)
class Asked:
    """Items in the order given, and whether they are conversations."""

    items: tuple[Item, ...]
    is_chat: bool

    @property
    def template(self) -> Literal["none", "chat"]:
        """How they are written where nobody says: conversations by the chat template, texts as they are."""
        return "chat" if self.is_chat else "none"

    @property
    def prompts(self) -> Prompts:
        """The items as prompts."""
        return Prompts(self.items, "texts")


def asked(given: Text | Sequence[Text], what: str = "text") -> Asked:
    """The items that texts or conversations stand for, called 0, 1, 2 in their order.

    Raises:
        InputError: nothing, an empty text, texts beside conversations, or what is neither; with an example.
    """
    several = _several(given, what)
    kinds = {isinstance(one, str) for one in several}
    if len(kinds) != 1:
        raise InputError(
            f"{what}: {'texts and conversations in one call; give them apart' if several else 'nothing was given'}. "
            f"Expected {EXAMPLE}"
        )
    return Asked(tuple(_item(n, one, what) for n, one in enumerate(several)), kinds == {False})


def _several(given: object, what: str) -> list[Text]:
    if isinstance(given, str):
        return [given]
    if not isinstance(given, Sequence) or isinstance(given, bytes):
        raise InputError(f"{what}: {type(given).__name__} was given; expected {EXAMPLE}, or Prompts")
    listed = list(cast("Sequence[Any]", given))
    if conversations.is_conversation(listed):
        return [cast("Messages", listed)]
    for one in listed:
        if not isinstance(one, str) and not conversations.is_conversation(one):
            raise InputError(f"{what}: {str(one)[:60]!r} is neither a text nor a conversation; expected {EXAMPLE}")
    return listed


def _item(number: int, one: Text, what: str) -> Item:
    where = f"{what} {number}"
    if isinstance(one, str):
        if not one.strip():
            raise InputError(f"{where} is empty; expected {EXAMPLE}")
        if any("\ud800" <= c <= "\udfff" for c in one):
            raise InputError(f"{where} holds half of a character (a lone surrogate): {one[:40]!a}; correct it")
        return Item(str(number), one, "-")
    said, chat = conversations.asked(conversations.turns(list(one), where), None, {}, where)
    return Item(str(number), said, "-", chat=chat)


def one_text(given: object, call: str) -> Text:
    """The one text or conversation given.

    Raises:
        InputError: several, with the call for one.
    """
    if isinstance(given, str) or conversations.is_conversation(given):
        return cast("Text", given)
    shown = f"{len(given)} of them" if isinstance(given, Sequence) else type(given).__name__
    raise InputError(f'{call} takes one text or conversation; given: {shown}. Expected e.g. model.{call}("Once upon")')
