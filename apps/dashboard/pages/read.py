"""Page Read: what the model wrote, item by item, at two checkpoints, with what differs marked."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from analyses.core.store.contents import rows, table_columns
from analyses.core.store.files import place
from analyses.core.store.store import StoreError
from apps.catalog import Entry, Listing
from apps.dashboard.widgets import address, exports, live, rail, series
from apps.drawn import reading, texts
from apps.drawn.reading import BREAK, FILTERS, ITEM, STEP
from apps.drawn.reproduction import of_reading

MISSING = (
    "No result here keeps what the model wrote yet. evaluate does: "
    "probe sweep evaluate --checkpoints DIR --prompts FILE"
)
MAX_MARKS = 400_000  # rows of a result that marks are made of
MAX_SAMPLES = 32
START = 60  # characters of a prompt in the list


def show(found: Listing) -> None:
    """Items at the left, the one chosen at the right."""
    st.subheader("What the model wrote", anchor=False)
    chosen = series.choose_run(found, has_texts, MISSING, rail.selected(found))
    if chosen is None:
        return
    entries = {e.key: e for e in chosen[1]}
    key = next(iter(entries))
    if len(entries) > 1:
        key = address.select("Result", list(entries), key="key", name=lambda k: entries[k].label)
    entry = entries[key]
    found_marks = _marks(str(entry.root), entry.analysis, entry.key)
    a, b = _steps(found_marks)
    how, group = _wanted(found_marks)
    of_group = found_marks[found_marks["group"].isin(group)] if group else found_marks
    names = reading.kept(of_group, how, a, b)
    written = texts.of(entry)
    starts = {i: " ".join(w[0][0][:START].split()) for i, w in written.items()}
    if search := str(st.session_state.get("search", "") or ""):
        names = [n for n in names if search.lower() in f"{n} {starts.get(n, '')}".lower()]
    if not names:
        st.info("No item is left: choose another filter, group or step.")
        return
    _both(entry, reading.listed(of_group, names, starts), written, (a, b), sorted(found_marks["step"].unique()))


def has_texts(entry: Entry) -> bool:
    """True for a result with graded texts per item."""
    try:
        return {"item", "text", "correct"} <= set(table_columns(entry.root, entry.analysis, entry.key))
    except StoreError:
        return False


@st.cache_resource(max_entries=20, show_spinner=False)
def _marks(root: str, analysis: str, key: str) -> pd.DataFrame:
    """Marks of a result; not to be changed in place."""
    entry = Entry(place(root), {"analysis": analysis, "key": key})
    return reading.marks(rows(entry, columns=reading.SMALL, limit=MAX_MARKS)[0])


def _steps(found: pd.DataFrame) -> tuple[int, int]:
    """Steps of the two checkpoints compared; the same twice where there is one."""
    steps = [int(s) for s in sorted(found["step"].unique())]
    if len(steps) < 2:
        return steps[0], steps[0]
    left, right = st.columns(2)
    with left:
        a = address.slide("A: step", steps, key="base", default=steps[0])
    with right:
        b = address.slide("B: step", steps, key="step", default=steps[-1])
    return a, b


def _wanted(found: pd.DataFrame) -> tuple[str, list[str]]:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        how = address.select("Items", list(FILTERS), key="flip", name=lambda f: FILTERS[f], radio=True, horizontal=True)
        with st.popover("Groups, search", icon=":material/filter_list:"):
            groups = [str(g) for g in dict.fromkeys(found["group"]) if g]
            picked = address.select_many("Groups of items", groups, key="group") if len(groups) > 1 else []
            address.text("Search in items and prompts", key="search", placeholder="for example an item's id")
    return how, picked


def _both(
    entry: Entry, items: list[reading.Listed], written: dict[str, texts.Written], at: tuple[int, int], steps: list[Any]
) -> None:
    """The list, and the item chosen on it."""
    names = [i.item for i in items]
    item = address.held("item", names, names[0])
    left, right = st.columns([1, 2])
    with left:
        live.show(reading.index(items, item, *at), key="items", on_pick=partial(_picked, steps=steps))
        cut = f", the first {reading.MOST} listed" if len(items) > reading.MOST else ""
        st.caption(f"{len(items):,} items{cut}. Keys: J and K for the next item, [ and ] for B's step.")
    found, _ = rows(entry, where={"item": [item]}, limit=MAX_SAMPLES * max(len(steps), 1))
    by_step = {s: reading.written(_at(found, s).head(MAX_SAMPLES)) for s in dict.fromkeys(at)}
    sides = [(f"{letter} · step {s}" if len(steps) > 1 else "Answer", of) for letter, (s, of) in _lettered(by_step)]
    gold = str(found["gold"].dropna().iloc[0]) if "gold" in found and found["gold"].notna().any() else ""
    prompt, answer, _ = next(iter(written.get(item, [])), ("", "", ""))
    with right:
        page = reading.page(prompt, gold or answer, sides, [int(s) for s in steps])
        live.show(page, key="reader", on_pick=partial(_picked, steps=steps))
    exports.code(lambda: of_reading(entry, item, at), [entry])


def _lettered(by_step: dict[int, list[reading.Written]]) -> list[tuple[str, tuple[int, list[reading.Written]]]]:
    letters = "AB" if len(by_step) == 2 else "B"
    return list(zip(letters, by_step.items(), strict=True))


def _at(found: pd.DataFrame, step: int) -> pd.DataFrame:
    return found[found["step"] == step] if "step" in found else found


def _picked(word: str, steps: Sequence[object]) -> None:
    """An item of the list, or another step for B."""
    what, _, value = word.partition(BREAK)
    if what == ITEM:
        address.go(item=value)
    elif what == STEP and value.lstrip("-").isdigit() and int(value) in steps:
        address.go(step=int(value))
