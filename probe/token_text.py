"""The text of single tokens, for people: what `tokens` lie beside a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Text of each id by itself, the space it begins with included; `#id` where the tokenizer has none for it."""
    names = tokenizer.convert_ids_to_tokens(list(ids))
    return [_text(tokenizer, i, name) for i, name in zip(ids, names, strict=True)]


def _text(tokenizer: Any, number: int, name: str | None) -> str:
    if name is None:
        return f"#{number}"
    text = str(tokenizer.decode([number], clean_up_tokenization_spaces=False))
    # A SentencePiece decoder drops the space of what it takes for the first word of a text.
    text = f" {text}" if name.startswith("▁") and not text.startswith(" ") else text
    return text or name


def visible(token: str, length: int = 14) -> str:
    """A token's text with its line breaks, tabs and leading spaces shown, cut to `length`; `∅` where it is empty."""
    text = token.replace("\n", "↵").replace("\t", "⇥").replace("\r", "␍")
    bare = text.lstrip(" ")
    text = "·" * (len(text) - len(bare)) + bare
    return (text[: length - 1] + "…" if len(text) > length else text) or "∅"
