"""What the results answer: a card for every claim that is stored, what was found before what was not.

Nothing is decided here: sentences, tones and details are those of `analyses.core.claim` and `apps.drawn.cards`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import streamlit as st

from analyses.core import claim
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim
from apps.catalog import Listing
from apps.dashboard.widgets import address, live, tables
from apps.dashboard.widgets.address import escaped
from apps.drawn import cards, overview
from apps.drawn.cards import Card, Said

ORDER = {FOUND: 0, UNJUDGED: 1, NONE: 2}
COLUMNS = ["training run", "analysis", "answer", "claim", "beside it"]


def show(found: Listing, by_name: Mapping[str, str]) -> Callable[[], None]:
    """Cards of the newest results' claims for the first screen; what shows the others, and all that stands beside."""
    newest = {name: overview.newest(found, path) for name, path in by_name.items()}
    said, lost = overview.said(newest)
    for problem in lost:
        st.error(escaped(problem))
    said = sorted(said, key=lambda s: ORDER[s[2].answer])
    made = [*cards.cards(said), *cards.missing(e.analysis for entries in newest.values() for e in entries)]
    live.show(cards.row(cards.first(made)), key="cards", on_pick=lambda runs: _picked(runs, by_name))
    return lambda: _others(said, [c for c in made if c not in cards.first(made)], by_name)


def _others(said: Sequence[Said], left: Sequence[Card], by_name: Mapping[str, str]) -> None:
    """The box with all answers."""
    if not said:
        return
    box = address.folded(f"All {len(said)} answers, with what stands beside each", key="answers")
    if box.open:
        with box:
            live.show(cards.row(left), key="more_cards", on_pick=lambda runs: _picked(runs, by_name))
            tables.static(pd.DataFrame([_row(*s) for s in said], columns=COLUMNS), "Intervals are 95 %, over items.")


def _picked(runs: str, by_name: Mapping[str, str]) -> None:
    """A card's runs become the runs chosen."""
    if names := [n for n in runs.split("\n") if n in by_name]:
        address.go(run=names)


def _row(run: str, analysis: str, one: Claim) -> list[str]:
    beside = claim.card(one)["details"]
    assert isinstance(beside, list)
    return [run, analysis, one.answer, claim.sentence(one), "; ".join(f"{label}: {value}" for label, value in beside)]
