"""Estimates of several results on one axis, and the names that tell results and runs apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
import streamlit as st

from analyses.core.figures import plain, quantity_name, value_name
from analyses.core.result import DIMS
from analyses.core.store import StoreError
from apps.contents import array_names, verdict
from apps.reading import Entry, Listing, run_names
from apps.views import address, parts
from probe.errors import InputError

UNSAID = ("micro", "given")  # what a reader assumes where nothing else is said
SEPARATOR = " · "
KEPT = ("quantity", "unit", "group", "value", "ci_low", "ci_high", "n")


def newest(found: Listing, run: str) -> list[Entry]:
    """The newest result of each analysis about a run."""
    return list({e.analysis: e for e in found.entries if e.run == run}.values())


def choose_run(found: Listing, has: Callable[[Entry], bool], missing: str) -> tuple[str, list[Entry]] | None:
    """(path, newest results) of one run among those with a result that ``has``; None and a word where there is none."""
    by_name = {n: p for n, p in run_names(found.runs()).items() if any(has(e) for e in newest(found, p))}
    if not by_name:
        st.info(missing)
        return None
    name = address.select("Training run", list(by_name), key="of", radio=True, horizontal=True)
    return by_name[name], [e for e in newest(found, by_name[name]) if has(e)]


def has_dims(entry: Entry, *dims: str) -> bool:
    """True where the arrays have any of these dims; a damaged result has none."""
    try:
        return bool(set(dims) & array_names(entry.root, entry.analysis, entry.key))
    except StoreError:
        return False


def panelled(entry: Entry, axis: str, never: set[str], where: dict[str, object] | None = None) -> pd.DataFrame:
    """Estimates of ``entry`` over ``axis``: every combination of the other dims is named in the column panel.

    Quantities with another ordered dim (in ``never``) are left to maps.
    """
    try:
        summary = parts.summary_of(str(entry.root), entry.analysis, entry.key, parts.frozen(where or {}))
    except (StoreError, InputError) as error:
        st.error(address.escaped(error))
        return pd.DataFrame()
    found: list[pd.DataFrame] = []
    for _, part in summary.groupby("quantity", sort=False):
        dims = [d for d in part.columns if d in DIMS and part[d].notna().any()]
        several = {d for d in dims if len(part[d].unique()) > 1}
        if axis not in several or never & several:
            continue
        texts = part[["quantity", *[d for d in dims if d not in (axis, "group", *never)]]].itertuples(index=False)
        panel = [SEPARATOR.join(plain(v) for v in values if v not in UNSAID) for values in texts]
        rows = part.reindex(columns=[*KEPT, axis]).assign(panel=panel, analysis=entry.analysis, key=entry.key)
        found.append(rows.assign(run=entry.run))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def title(panel: str) -> str:
    """Name of a panel for people: its quantity and what else tells it apart, in plain words."""
    quantity, *rest = panel.split(SEPARATOR)
    return SEPARATOR.join([quantity_name(quantity), *map(value_name, rest)])


def joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """All rows of the frames that have any."""
    full = [f for f in frames if len(f)]
    return pd.concat(full, ignore_index=True) if full else pd.DataFrame()


def claims(entries: Sequence[Entry], names: dict[str, str]) -> bool:
    """Verdicts of the entries, run by run; False where none is stated."""
    said: dict[str, list[tuple[str, str]]] = {}
    for entry in entries:
        try:
            text = verdict(entry.root, entry.analysis, entry.key)
        except StoreError as error:
            st.error(address.escaped(error))
            continue
        if text:
            said.setdefault(names.get(entry.run, entry.run), []).append((entry.analysis, text))
    if not said:
        return False
    total = sum(map(len, said.values()))
    with st.container(border=True, height=320 if total > 8 else "content"):
        for run, lines in said.items():
            told = "  \n".join(f"{address.escaped(a)}: {address.escaped(t)}" for a, t in lines)
            st.markdown(f"**{address.escaped(run)}**  \n{told}")
    return True
