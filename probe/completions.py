"""Completions: continuations of prompts, as text with what differs marked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Literal

from probe.items import Item

Finish = Literal["eos", "stop", "length"]
_MARK = "background:rgba(255,127,14,0.35)"
_WORDS = re.compile(r"\s+|[^\s]+")


@dataclass(frozen=True, repr=False)
class Completion:
    """One continuation. `ids` holds every token drawn, an EOS included; `text` leaves out special tokens
    and ends before the stop string."""

    item: Item
    sample: int
    ids: tuple[int, ...]
    text: str
    finish: Finish

    def __repr__(self) -> str:
        return f"Completion({self.item.prompt!r} -> {self.text!r}, {len(self.ids)} tokens, {self.finish})"

    def html(self) -> str:
        """Prompt and continuation, the latter in bold."""
        return f"<div style='white-space:pre-wrap'>{escape(self.item.prompt)}<b>{escape(self.text)}</b></div>"

    _repr_html_ = html


class Completions(list[Completion]):
    """Completions in the order of the prompts, then by sample."""

    @property
    def texts(self) -> list[str]:
        """Their texts."""
        return [c.text for c in self]

    def _repr_html_(self) -> str:
        return "".join(c.html() for c in self)


def words(text: str) -> list[str]:
    """Words and the white space between them, in order."""
    return _WORDS.findall(text)


def changed(text: str, reference: str) -> Iterator[tuple[str, bool]]:
    """The words and white space of `text`, in order, each with whether it is new against `reference`."""
    own = words(text)
    same = difflib.SequenceMatcher(None, words(reference), own, autojunk=False)
    for kind, _, _, start, stop in same.get_opcodes():
        yield from ((word, kind != "equal") for word in own[start:stop])


def marked(text: str, reference: str) -> str:
    """`text` as HTML, what is new against `reference` marked."""
    parts = changed(text, reference)
    return "".join(f"<span style='{_MARK}'>{escape(w)}</span>" if new else escape(w) for w, new in parts)
