"""Attention of the item on page Token: read from its checkpoint, so it is made only when its box is open."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import streamlit as st

from apps.dashboard.widgets import address, live
from apps.drawn import attention
from probe.errors import ProbeError

if TYPE_CHECKING:
    from probe import Model

MOST = 160  # tokens of a text whose maps can be told apart


def show(text: str, checkpoint: str, layer: int, load: Callable[[str], Model]) -> None:
    """Heads of a layer as small maps; the head chosen, over the text.

    Args:
        text: prompt and answer.
        checkpoint: path of the model that reads it.
        layer: whose heads are shown.
        load: the model at a path.
    """
    try:
        tokens, patterns = _read(text, checkpoint, layer, load)
    except ProbeError as error:
        st.info(address.escaped(error))
        return
    if len(tokens) > MOST:
        st.info(f"{len(tokens)} tokens: the maps of more than {MOST} cannot be read here; see `model.attention`.")
        return
    head = int(address.held("head", [str(h) for h in range(len(patterns))], "0"))
    query = int(address.held("query", [str(q) for q in range(len(tokens))], str(len(tokens) - 1)))
    live.show(attention.thumbnails(layer, patterns, head), key="heads", on_pick=_picked)
    live.show(attention.over_text(tokens, patterns[head], query), key="over_text", on_pick=_picked)
    st.caption("A weight says where a head looks, not what it takes from there, nor that this matters.")


@st.cache_resource(max_entries=40, show_spinner="Reading attention ...")
def _read(
    text: str, checkpoint: str, layer: int, _load: Callable[[str], Model]
) -> tuple[list[str], list[attention.Pattern]]:
    found = _load(checkpoint).attention(text, layer)
    return list(found.tokens), found.pattern.tolist()


def _picked(word: str) -> None:
    """Another head, or another token that looks."""
    what, _, value = word.partition(attention.BREAK)
    address.go(**{what: value})
