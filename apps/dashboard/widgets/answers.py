"""What the results answer: a card for every claim that is stored, what was found before what was not.

Nothing is decided here: sentences, tones and details are those of `analyses.core.claim` and `apps.drawn.cards`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import pandas as pd
import streamlit as st

from analyses.core import claim
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim
from analyses.core.store.contents import claims
from analyses.core.store.store import StoreError
from apps.catalog import Entry, Listing
from apps.dashboard.widgets import address, live, series, tables
from apps.dashboard.widgets.address import escaped
from apps.drawn import cards
from apps.drawn.cards import Card, Said

STAGED = "over_memorization"
ORDER = {FOUND: 0, UNJUDGED: 1, NONE: 2}
FIRST = 6  # cards at first sight
COLUMNS = ["training run", "analysis", "answer", "claim", "beside it"]


def show(found: Listing, by_name: Mapping[str, str]) -> Callable[[], None]:
    """Cards of the newest results' claims for the first screen; what shows the others, and all that stands beside."""
    newest = {name: series.newest(found, path) for name, path in by_name.items()}
    said = sorted(_said(newest), key=lambda s: ORDER[s[2].answer])
    made = [*cards.cards(said), *cards.missing(e.analysis for entries in newest.values() for e in entries)]
    live.show(cards.row(first(made)), key="cards", on_pick=lambda runs: _picked(runs, by_name))
    return lambda: _others(said, [c for c in made if c not in first(made)], by_name)


def _others(said: Sequence[Said], left: Sequence[Card], by_name: Mapping[str, str]) -> None:
    """The box with all answers."""
    if not said:
        return
    box = address.folded(f"All {len(said)} answers, with what stands beside each", key="answers")
    if box.open:
        with box:
            live.show(cards.row(left), key="more_cards", on_pick=lambda runs: _picked(runs, by_name))
            tables.static(pd.DataFrame([_row(*s) for s in said], columns=COLUMNS), "Intervals are 95 %, over items.")


def first(made: Sequence[Card]) -> list[Card]:
    """The cards for the first screen: of every tone the first, then the next in order."""
    leading = [next(c for c in made if c.tone == tone) for tone in dict.fromkeys(c.tone for c in made)]
    rest = [c for c in made if c not in leading]
    chosen = [*leading, *rest][:FIRST]
    return [c for c in made if c in chosen]


def _picked(runs: str, by_name: Mapping[str, str]) -> None:
    """A card's runs become the runs chosen."""
    if names := [n for n in runs.split("\n") if n in by_name]:
        address.go(run=names)


def _said(newest: Mapping[str, Sequence[Entry]]) -> Iterator[Said]:
    for run, entries in newest.items():
        for entry in entries:
            try:
                yield from ((run, entry.analysis, one) for one in claims(entry.root, entry.analysis, entry.key))
            except StoreError as error:
                st.error(escaped(error))


def _row(run: str, analysis: str, one: Claim) -> list[str]:
    beside = claim.card(one)["details"]
    assert isinstance(beside, list)
    return [run, analysis, one.answer, claim.sentence(one), "; ".join(f"{label}: {value}" for label, value in beside)]
