"""The dashboard: pages over saved results. Started by `probe dashboard`; needs neither torch nor a model."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

import streamlit as st

from analyses.core.store.store import Store
from apps.catalog import Listing, listing
from apps.dashboard import pages
from apps.dashboard.widgets import address, parts

# In a narrow window a wide table is moved inside its own frame, not cut off, and the margins give way.
NARROW = """<style>
[data-testid=stMarkdownContainer]:has(table) {overflow-x: auto}
@media (max-width: 1100px) {[data-testid=stMainBlockContainer] {padding-left: 2rem; padding-right: 2rem}}
</style>"""
BUSY_SECONDS, IDLE_SECONDS = 2, 5  # between looks at the folder, with and without a sweep under way


def main() -> None:
    """One run of the page."""
    st.set_page_config(page_title="posttrain-probe", layout="wide")
    st.html(NARROW)
    store = Store.at(_arguments().results)
    address.begin()
    found = listing(store)
    titles = pages.titles()
    asked = st.query_params.get("page")
    with st.sidebar:
        st.markdown("### posttrain-probe")
        page = address.select("Page", list(titles), key="page", radio=True, label_visibility="collapsed")
        address.turn(page)
        st.caption(address.escaped(f"{len(found.entries)} results in {store.place}"))
        pause = BUSY_SECONDS if store.running() else IDLE_SECONDS
        st.fragment(_live, run_every=pause)(found)
    if asked and asked not in titles:
        st.caption(address.escaped(f"No page {asked}: showing {page}."))
    parts.problems(found.problems)
    if found.entries:
        import_module(f"{pages.__name__}.{titles[page]}").show(found)
    else:
        _empty(store)
    address.write()


def _live(shown: Listing) -> None:
    """Sweeps under way; a finished result reloads the page's lists."""
    for state in shown.store.running():
        done, total = int(state.get("done", 0)), max(int(state.get("total", 1)), 1)
        st.progress(min(done / total, 1.0), f"{address.escaped(state.get('analysis'))}: {done} of {total} checkpoints")
    if not shown.is_current():
        st.rerun(scope="app")


def _empty(store: Store) -> None:
    st.header("No results yet", anchor=False)
    st.text(f"Looked in {store.place}")
    st.markdown("Make some, they appear here by themselves:")
    st.code("probe demo\nprobe sweep perplexity --checkpoints DIR --prompts FILE", language="bash")
    st.markdown("Or name another folder or URL: `probe dashboard --results DIR`.")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--results", default=os.environ.get("PROBE_RESULTS"))
    return parser.parse_known_args(sys.argv[1:])[0]


main()
