"""The rail of runs beside every page: one selection, `run=`, that all pages read."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import streamlit as st

from analyses.core.claim import Claim
from analyses.core.store import contents
from analyses.core.store.store import StoreError
from apps.catalog import Entry, Listing, run_names
from apps.dashboard.widgets import address, live, parts
from apps.drawn import cards, curves, overview, panels, rail
from apps.drawn.rail import BREAK, TOGGLE, Row
from probe.errors import InputError

MOST = 40  # rows drawn; a filter finds the others
SPARK = (("evaluate", "accuracy"), ("perplexity", "ppl"), ("over_memorization", "accuracy"))


def show(found: Listing) -> None:
    """The rail, in the sidebar."""
    by_name = run_names(found.runs())
    if not by_name:
        return
    chosen = selected(found)
    newest = {name: overview.newest(found, path) for name, path in by_name.items()}
    shown = _filtered(list(by_name), list(overview.fields(newest)))
    names, hues = together(found), curves.colors(list(by_name))
    shown = sorted(shown, key=lambda n: names.get(n, "")) if names else shown
    rows = [_row(n, hues[n], n in chosen, newest[n], names.get(n, "")) for n in shown[:MOST]]
    live.show(rail.runs(rows), key="rail", on_pick=lambda word: _picked(word, chosen, list(by_name)))
    if len(shown) > MOST:
        st.caption(f"{MOST} of {len(shown)} runs: filter them")


def selected(found: Listing) -> list[str]:
    """Names of the runs chosen; where none was, those that can be read against each other."""
    by_name = run_names(found.runs())
    return address.held_many("run", list(by_name), overview.alike(found, by_name))


def colors(found: Listing) -> dict[str, str]:
    """A colour for every run of the store, the same on every page."""
    return curves.colors(list(run_names(found.runs())))


def together(found: Listing) -> dict[str, str]:
    """Run -> what it is read as with others: its name without what a pattern finds, or its value of a field.

    Empty where every run stands for itself; the pattern goes before the field.
    """
    by_name = run_names(found.runs())
    if pattern := _set("seeds"):
        return {name: panels.stem(name, pattern) for name in by_name}
    if not (field := _set("by")):
        return {}
    newest = {name: overview.newest(found, path) for name, path in by_name.items()}
    return {name: f"{field} {value}" for name, value in overview.fields(newest).get(field, {}).items()}


def _set(key: str) -> str:
    """What a box of the filter is set to, here or by the link; they are drawn after the page."""
    return str(st.session_state.get(key, st.query_params.get(key, "")) or "")


def _picked(word: str, chosen: Sequence[str], names: Sequence[str]) -> None:
    what, _, name = word.partition(BREAK)
    if name not in names:
        return
    toggled = [n for n in names if (n in chosen) != (n == name)]
    st.session_state["run"] = toggled if what == TOGGLE and toggled else [name]


def _filtered(names: list[str], fields: list[str]) -> list[str]:
    if len(names) < 2:
        return names
    with st.popover("Filter, group", icon=":material/filter_list:", use_container_width=True):
        wanted = address.text("Show runs whose name matches (a regular expression)", key="find")
        address.text(
            "Read runs together that differ in this alone", key="seeds", placeholder=r"for example  seed\d+", limit=100
        )
        if fields:
            address.select(
                "or that agree in a field of their records", ["", *fields], key="by", name=lambda f: f or "-"
            )
    try:
        return [n for n in names if re.search(wanted, n)]
    except re.error as error:
        st.caption(address.escaped(f"{wanted} is no regular expression: {error}"))
        return names


def _row(name: str, color: str, is_shown: bool, entries: Sequence[Entry], group: str) -> Row:
    values, told = _small_curve(entries)
    return Row(name, color, is_shown, values, cards.verdict(_claims(entries)), told, group)


def _claims(entries: Sequence[Entry]) -> list[Claim]:
    found: list[Claim] = []
    for entry in entries:
        try:
            found += contents.claims(entry.root, entry.analysis, entry.key)
        except StoreError:  # the page says so
            continue
    return found


def _small_curve(entries: Sequence[Entry]) -> tuple[tuple[float, ...], str]:
    """(values over steps, what they are) of the first quantity there is; empty where there is none."""
    by_analysis = {e.analysis: e for e in entries}
    for analysis, quantity in SPARK:
        if (entry := by_analysis.get(analysis)) and (values := _mean_over_steps(entry, quantity)):
            last = next((v for v in reversed(values) if np.isfinite(v)), float("nan"))
            return values, f"{quantity}, mean of all groups; last {last:.3g}"
    return (), "no curve over steps"


@st.cache_resource(max_entries=500, show_spinner=False, hash_funcs={Entry: lambda e: (str(e.root), e.analysis, e.key)})
def _mean_over_steps(entry: Entry, quantity: str) -> tuple[float, ...]:
    try:
        data = parts.result_of(str(entry.root), entry.analysis, entry.key).data
    except (StoreError, InputError):  # the page says so
        return ()
    if quantity not in data or "step" not in data[quantity].dims:
        return ()
    found = data[quantity]
    for dim, value in (("mask", "answer"), ("variant", "micro")):
        if dim in found.dims and value in found[dim].values:
            found = found.sel({dim: value})
    return tuple(map(float, found.mean([d for d in found.dims if d != "step"]).values))
