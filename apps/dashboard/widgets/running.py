"""Running a model from a page: whether that is allowed and possible here, the model, what it writes while it writes."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import streamlit as st

import probe

if TYPE_CHECKING:
    from probe import Edit, Model

T = TypeVar("T")
Tell: TypeAlias = Callable[[Mapping[str, str]], None]
"""Told what every arm has written so far."""

WRITTEN, MOST_KEPT = "_written_texts", 20
OFF = "this dashboard can be reached from other machines. Start it with PROBE_STEER=1 to allow it."


def reason(*, thoroughly: bool = False) -> str:
    """Why no model can be run here, "" where one can.

    Args:
        thoroughly: import torch instead of looking whether it is installed, which takes seconds.
    """
    if os.environ.get("PROBE_DASHBOARD_OPEN") == "1" and os.environ.get("PROBE_STEER") != "1":
        return f"off: {OFF}"
    try:
        there = importlib.import_module("torch") if thoroughly else importlib.util.find_spec("torch")
    except ImportError:
        there = None
    return "" if there else "torch is not installed here"


@st.cache_resource(max_entries=2, show_spinner="Loading the model ...")
def model(path: str) -> Model:
    """The model at a path."""
    return probe.Model.load(path)


def write(
    model: Model, prompt: str, arms: Mapping[str, Sequence[Edit]], tell: Tell | None = None, **how: Any
) -> dict[str, str]:
    """What the model writes behind the prompt under each arm's edits; ``tell`` is told after every token."""
    done: dict[str, str] = {}
    for name, edits in arms.items():

        def told(texts: Sequence[str], name: str = name) -> None:
            if tell:
                tell({**done, name: texts[0]})

        (completion,) = model.generate([prompt], edits=edits, on_text=told, **how)
        done[name] = completion.text
    return done


def streamed(of: Hashable, make: Callable[[Tell], T]) -> T:
    """What ``make`` gives, shown while it is written; made once a session for each ``of``."""
    kept: dict[Hashable, T] = st.session_state.setdefault(WRITTEN, {})
    if of not in kept:
        place = st.empty()
        kept[of] = make(lambda texts: _so_far(place, texts))
        place.empty()
        for old in list(kept)[:-MOST_KEPT]:
            del kept[old]
    return kept[of]


def _so_far(place: Any, texts: Mapping[str, str]) -> None:
    with place.container():
        st.caption("The model writes ...")
        for column, (name, text) in zip(st.columns(len(texts)), texts.items(), strict=True):
            column.markdown(f"**{name}**")
            column.code(text or " ", language=None, wrap_lines=True)
