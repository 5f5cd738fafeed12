"""What the results answer, in plain words: every claim that is stored, what was found before what was not.

Nothing is decided here: sentences, tones and details are those of `analyses.core.claim`; what was not assessed is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd
import streamlit as st

from analyses.core import claim
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim
from analyses.core.store.contents import claims
from analyses.core.store.store import StoreError
from apps.catalog import Entry, Listing
from apps.dashboard.widgets import series, tables
from apps.dashboard.widgets.address import escaped

STAGED = "over_memorization"
ICONS = {
    "error": ":red[:material/trending_down:]",
    "warning": ":orange[:material/psychology_alt:]",
    "info": ":blue[:material/check_circle:]",
    NONE: ":gray[:material/remove_circle_outline:]",
    UNJUDGED: ":gray[:material/help_outline:]",
}
ORDER = {FOUND: 0, UNJUDGED: 1, NONE: 2}
EXPECTED = {
    "gains": "whether gains are memory",
    STAGED: "over-memorization and what to ship",
    "cross_patching": "where it sits",
}
MOST = 12  # lines before the box scrolls
COLUMNS = ["training run", "analysis", "answer", "claim", "beside it"]

Said = tuple[str, str, Claim]


def show(found: Listing, by_name: Mapping[str, str]) -> None:
    """Every claim of the newest results, what was found first, and what was not assessed; then all beside it."""
    newest = {name: series.newest(found, path) for name, path in by_name.items()}
    said = sorted(_said(newest), key=lambda s: (ORDER[s[2].answer], _tone(s[2]) == "info"))
    lines = [_line(run, one) for run, _, one in said]
    with st.container(border=True, height=380 if len(lines) > MOST else "content"):
        st.markdown("\n".join(f"- {line}" for line in [*lines, *_missing(newest)]) or "No result makes a claim yet.")
    if said:
        tables.static(pd.DataFrame([_row(*s) for s in said], columns=COLUMNS), "Intervals are 95 %, over items.")


def _said(newest: Mapping[str, Sequence[Entry]]) -> Iterator[Said]:
    for run, entries in newest.items():
        for entry in entries:
            try:
                yield from ((run, entry.analysis, one) for one in claims(entry.root, entry.analysis, entry.key))
            except StoreError as error:
                st.error(escaped(error))


def _tone(one: Claim) -> str:
    return str(claim.card(one)["tone"])


def _line(run: str, one: Claim) -> str:
    icon = ICONS[_tone(one) if one.is_found else one.answer]
    sentence = escaped(claim.sentence(one))
    return f"{icon} **{escaped(run)}**: {f'**{sentence}**' if one.is_found else sentence}"


def _row(run: str, analysis: str, one: Claim) -> list[str]:
    beside = claim.card(one)["details"]
    assert isinstance(beside, list)
    return [run, analysis, one.answer, claim.sentence(one), "; ".join(f"{label}: {value}" for label, value in beside)]


def _missing(newest: Mapping[str, Sequence[Entry]]) -> Iterator[str]:
    """What no run was asked, in words."""
    there = {e.analysis for entries in newest.values() for e in entries}
    for analysis, question in EXPECTED.items():
        if analysis not in there:
            yield f"{ICONS[UNJUDGED]} Not assessed: {question} (no result of {escaped(analysis)} is here)."
