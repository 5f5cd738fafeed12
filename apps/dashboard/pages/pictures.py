"""Page Pictures: the figures of the core papers, of one's own run, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from analyses.core import claim
from analyses.core.store import contents
from analyses.core.store.store import StoreError
from apps.catalog import Entry, Listing
from apps.dashboard.widgets import address, exports, parts, rail, series
from apps.dashboard.widgets.address import escaped
from apps.drawn import pictures
from apps.drawn.pictures import PICTURES, Picture, Source
from apps.drawn.reproduction import of_pictures
from probe.errors import InputError

MISSING = "No result here makes one of these pictures yet. The box below has the commands."


def show(found: Listing) -> None:
    """Every picture that the chosen run has a result for; how to make the others."""
    st.subheader("Pictures of one run", anchor=False)
    analyses = {p.analysis for p in PICTURES}
    chosen = series.choose_run(found, lambda e: e.analysis in analyses, MISSING, rail.selected(found))
    entries = [e for e in found.entries if chosen and e.run == chosen[0]]
    there = {p.title: (p, of) for p in PICTURES if (of := pictures.sources(p, entries))}
    if there:
        _shown(found, list(there.values()))
    _missing([p for p in PICTURES if p.title not in there])


def _shown(found: Listing, there: Sequence[tuple[Picture, list[Source]]]) -> None:
    """The pictures chosen, as many as a page has room for, and what a reader takes from them."""
    by_title = {p.title: (p, of) for p, of in there}
    names = address.select_many("Pictures", list(by_title), key="pictures", default=list(by_title))
    drawn = {title: _drawn(*by_title[title]) for title in names}
    whole = {title: view for title, view in drawn.items() if view is not None}
    room = list(whole)[: pictures.fitting([int(figure.layout.height) for figure, _ in whole.values()])]
    with st.container(key="pictures-grid"):
        for number, title in enumerate(room):
            _framed(number, by_title[title][0], by_title[title][1], whole[title][0])
    if left := [t for t in whole if t not in room]:
        st.caption(escaped(f"No room left on this page for: {', '.join(left)}. Take others away to see them."))
    stored = [(p, of) for p, of in there if p.title in room]
    views = {by_title[title][0].name: whole[title] for title in room}
    exports.show(
        "pictures", views, lambda: of_pictures(found.store.root, stored), [e for _, of in stored for e, _ in of]
    )


def _framed(number: int, picture: Picture, of: Sequence[Source], figure: Any) -> None:
    """A picture with its title, what was found, and what to look at; of several panels over the whole width."""
    width = "wide" if pictures.panels(figure) > 1 else "small"
    with st.container(key=f"picture-{width}-{number}"):
        st.markdown(f"##### {escaped(picture.title)}")
        untitled = type(figure)(figure).update_layout(title_text="", margin_t=40)
        parts.figure(untitled, picture.name, key=f"picture_{number}", alt=picture.title)
        for said in () if picture.joined else _claims(of[0][0]):
            st.markdown(escaped(said))
        st.caption(escaped(picture.look))


def _claims(entry: Entry) -> list[str]:
    return [str(claim.card(one)["sentence"]) for one in contents.claims(entry.root, entry.analysis, entry.key)[:2]]


def _drawn(picture: Picture, of: Sequence[Source]) -> tuple[Any, pd.DataFrame] | None:
    """(figure, rows) of a picture; None, and a word, where it cannot be drawn."""
    try:
        found = {
            pictures.value(e, picture.joined): parts.part_of(str(e.root), e.analysis, e.key, parts.frozen(at))
            for e, at in of
        }
        if picture.joined:
            return pictures.joined(picture, found)
        entry, at = of[0]
        views, notes = parts.drawn(str(entry.root), entry.analysis, entry.key, parts.frozen(at))
    except (StoreError, InputError, ValueError, KeyError) as error:
        st.error(escaped(f"{picture.title}: {error}"))
        return None
    for note in notes:
        st.info(escaped(note))
    if picture.figure not in views:
        st.caption(escaped(f"{picture.title}: this result of {picture.analysis} has nothing to draw it from."))
        return None
    return views[picture.figure], next(iter(found.values())).summary()


def _missing(left: Sequence[Picture]) -> None:
    """The commands that make what is not there."""
    if not left:
        return
    box = address.folded(f"{len(left)} more pictures, and what makes them", key="missing")
    if box.open:
        for picture in left:
            box.markdown(f"**{escaped(picture.title)}.** {escaped(picture.look)}")
            box.code(pictures.made_by(picture), language="bash")
