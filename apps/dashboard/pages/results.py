"""The page every analysis gets: its figures, estimates, rows and provenance, at one step or over all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
import streamlit as st

from analyses.core.analysis import get, names
from analyses.core.store.contents import table_bytes
from analyses.core.store.store import Store, StoreError
from apps.catalog import Entry, Listing
from apps.dashboard.widgets import address, exports, parts, tables
from apps.drawn.reproduction import python_code
from probe.errors import InputError

PLAY_SECONDS = 0.9
ALL = "all steps"


def show(found: Listing) -> None:
    """Choose an analysis and one of its results; look at it."""
    left, right = st.columns([1, 2])
    with left:
        made = found.analyses()
        known = [*made, *sorted(set(names()) - set(made))]
        analysis = address.select("Analysis", known, key="analysis", name=lambda n: _with_count(n, found))
    entries = found.of(analysis)
    st.subheader(_title(analysis), anchor=False)
    if not entries:
        _how_to_get(analysis)
        return
    with right:
        by_key = {e.key: e for e in entries}
        key = address.select("Result", list(by_key), key="key", name=lambda k: by_key[k].label)
    entry = by_key[key]
    try:
        parts.claims(entry)
        summary = parts.summary_of(str(entry.root), entry.analysis, entry.key)
    except (StoreError, InputError) as error:
        st.error(address.escaped(error))
        return
    where = parts.filters(summary)
    _view(entry, where)
    parts.origin(entry)


def _view(entry: Entry, where: Mapping[str, object]) -> None:
    """The part of the page a slider redraws; a fragment, so that nothing else runs again."""
    playing = bool(st.session_state.get("play")) and len(entry.steps) > 1
    st.fragment(_draw, run_every=PLAY_SECONDS if playing else None)(entry, where, playing)


def _draw(entry: Entry, where: Mapping[str, object], was_playing: bool) -> None:
    at = _step(entry, was_playing)
    chosen = {**where, **({"step": at} if at is not None else {})}
    summary = parts.summary_of(str(entry.root), entry.analysis, entry.key, parts.frozen(chosen))
    above = st.container()
    # At first sight the table goes first: a reader sees numbers while the figure is still being made and loaded.
    # Later on the figure goes first: written out of order it would be taken down and set up again.
    is_new = st.session_state.get("shown_key") != entry.key
    st.session_state["shown_key"] = entry.key
    if is_new:
        tables.shown(summary, entry, chosen)
    with above:
        shown, name = _figure(entry, chosen)
    if not is_new:
        tables.shown(summary, entry, chosen)
    exports.offer(lambda: _files(entry, summary, shown, name or "figure"))
    known = name if entry.analysis in names() else None
    exports.code(lambda: python_code(entry, chosen, known), [entry])
    if not was_playing:
        address.write(part=True)  # each step of Play would be one of the browser's history
    _prepare_next(entry, chosen)


def _files(entry: Entry, summary: pd.DataFrame, shown: Any | None, name: str) -> list[exports.File]:
    """The figure, the estimates of this part, and all rows of the result."""
    stem = f"{entry.analysis}-{entry.key[:6]}"
    csv, parquet = exports.tables("All rows", stem, pd.DataFrame())
    return [
        *([exports.page("Figure", f"{stem}-{name}", shown)] if shown is not None else []),
        *exports.tables("Estimates", f"{stem}-estimates", summary),
        replace(csv, data=lambda: Store(entry.root).get(entry.analysis, entry.key).table.to_csv(index=False)),
        replace(parquet, data=lambda: table_bytes(entry)),
    ]


def _prepare_next(entry: Entry, chosen: dict[str, Any]) -> None:
    """Draw the step after this one while the reader looks at this one: the slider and Play then find it ready."""
    at = chosen.get("step")
    later = [s for s in entry.steps if at is None or s > at]
    if later and entry.is_sweep:
        following = parts.frozen({**chosen, "step": later[0]})
        parts.summary_of(str(entry.root), entry.analysis, entry.key, following)
        parts.drawn(str(entry.root), entry.analysis, entry.key, following)


def _figure(entry: Entry, chosen: Mapping[str, object]) -> tuple[Any | None, str | None]:
    """The figure chosen among those of this part, drawn, and its name."""
    drawn, notes = parts.drawn(str(entry.root), entry.analysis, entry.key, parts.frozen(chosen))
    for note in notes:
        st.info(address.escaped(note))
    if not drawn:
        st.info("Nothing to draw in this selection: no estimate was measured here. Widen the filters.")
        return None, None
    name = address.select("Figure", list(drawn), key="figure", radio=True, horizontal=True)
    parts.figure(drawn[name], name, key="main_figure")
    return drawn[name], name


def _step(entry: Entry, was_playing: bool) -> int | None:
    """The step chosen on the slider; None for all steps."""
    if len(entry.steps) < 2 or not entry.is_sweep:
        return None
    options: list[Any] = [ALL, *entry.steps]
    if was_playing and st.session_state.get("play"):
        last = st.session_state.get("step", ALL)
        place = options.index(last) if last in options else 0
        st.session_state["step"] = options[place + 1 if place + 1 < len(options) else 1]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        value = address.slide("Step", options, key="step", default=ALL)
        if address.flag("Play", key="play", width="content") != was_playing:
            st.rerun(scope="app")
    return None if value == ALL else int(value)


def _title(analysis: str) -> str:
    return address.escaped(get(analysis).title) if analysis in names() else f"{analysis} (not known to this version)"


def _with_count(name: str, found: Listing) -> str:
    count = len(found.of(name))
    return f"{name} ({count})" if count else f"{name} (no results yet)"


def _how_to_get(analysis: str) -> None:
    of = get(analysis)
    st.info("No results of this analysis yet. Make one with the command below; it appears here by itself.")
    inputs = " ".join(f"--{i.name.replace('_', '-')} ..." for i in of.inputs if i.kind != "Model" and not i.optional)
    word = "run" if of.arity == "result" else "sweep"
    series = "" if of.arity == "result" else "--checkpoints DIR "
    st.code(f"probe {word} {analysis} {series}{inputs}".strip(), language="bash")
    for name, text in of.sections.items():
        st.markdown(f"**{name}.** {address.escaped(' '.join(text.split()))}")
