"""Results of one run: which there are, their estimates, what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import streamlit as st

from analyses.core.store import contents
from analyses.core.store.contents import array_names
from analyses.core.store.store import StoreError
from apps.catalog import Entry, Listing, run_names
from apps.dashboard.widgets import address, parts
from apps.drawn.overview import newest
from probe.errors import InputError


def choose_run(
    found: Listing, has: Callable[[Entry], bool], missing: str, chosen: Sequence[str]
) -> tuple[str, list[Entry]] | None:
    """(path, newest results) of one run among those with a result that ``has``; None and a word where there is none.

    Args:
        found: the store.
        has: whether a result can be shown here.
        missing: the word.
        chosen: runs chosen beside the page; where none of them has such a result, all that have are offered.
    """
    by_name = {n: p for n, p in run_names(found.runs()).items() if any(has(e) for e in newest(found, p))}
    if not by_name:
        st.info(missing)
        return None
    asked = st.query_params.get("of")
    offered = [n for n in by_name if n in chosen or n == asked] or list(by_name)
    name = offered[0]
    if len(offered) > 1:
        name = address.select("Training run", offered, key="of", radio=True, horizontal=True)
    lost = [n for n in (asked, *chosen) if n and n not in by_name]
    if lost and (asked in lost or not set(chosen) & set(by_name)):
        st.caption(address.escaped(f"Nothing of {', '.join(dict.fromkeys(lost))} to show here: showing {name}."))
    return by_name[name], [e for e in newest(found, by_name[name]) if has(e)]


def has_dims(entry: Entry, *dims: str) -> bool:
    """True where the arrays have any of these dims; a damaged result has none."""
    try:
        return bool(set(dims) & array_names(entry.root, entry.analysis, entry.key))
    except StoreError:
        return False


def measured(entry: Entry, where: Mapping[str, object]) -> pd.DataFrame:
    """Estimates of a part of ``entry``: what cannot be read is told, and is empty."""
    try:
        return parts.summary_of(str(entry.root), entry.analysis, entry.key, parts.frozen(where))
    except (StoreError, InputError) as error:
        st.error(address.escaped(error))
        return pd.DataFrame({"quantity": []})


def claims(entries: Sequence[Entry], names: dict[str, str]) -> bool:
    """Verdicts of the entries, run by run; False where none is stated."""
    said: dict[str, list[tuple[str, str]]] = {}
    for entry in entries:
        try:
            if contents.claims(entry.root, entry.analysis, entry.key):
                continue  # they stand among the answers above
            text = contents.verdict(entry.root, entry.analysis, entry.key)
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
