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
from apps.dashboard.widgets import address, chart, parts, rail

# A slim sidebar, no empty band on top, small figures in rows of as many as there is room for; in a narrow window a wide
# table or figure is moved inside its own frame, not cut off.
LOOK = """<style>
[data-testid=stSidebar] {width: 236px !important; min-width: 0 !important}
[data-testid=stHeader] {background: transparent; height: 2.4rem; min-height: 0}
[data-testid=stHeader], [data-testid=stToolbar] {pointer-events: none}
[data-testid=stHeader] button {pointer-events: auto}
[data-testid=stSidebarHeader] {height: 1.8rem; padding: .2rem .8rem 0; margin: 0; min-height: 0}
[data-testid=stSidebarContent] {padding: 0}
[data-testid=stSidebarUserContent] {padding: 0 1rem 2rem}
[data-testid=stSidebarContent] h3 {font-size: 1rem; padding: 0 0 1.2rem}
[data-testid=stSidebar] [data-testid=stVerticalBlock] {gap: .5rem}
[data-testid=stMainBlockContainer] {padding: 1rem 1.5rem 4rem}
[data-testid=stMain] h3 {font-size: 1.15rem; line-height: 1.3; padding: 0 2.5rem 1.1rem 0}
[data-testid=stMain] [data-testid=stVerticalBlock] {gap: .6rem}
[data-testid=stLayoutWrapper]:has(> .st-key-ahead), .st-key-ahead {display: none}
.st-key-pictures-grid {display: grid !important; gap: .6rem 1.2rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(440px, 100%), 1fr))}
.st-key-pictures-grid > * {width: 100% !important; min-width: 0}
.st-key-pictures-grid > *:has([class*=st-key-picture-wide]) {grid-column: 1 / -1}
.st-key-panels {display: grid !important; gap: .2rem .8rem;
  grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr))}
.st-key-panels > * {width: 100% !important; min-width: 0}
[data-testid=stMain] [data-testid=stCaptionContainer] {color: inherit; opacity: .8}
[data-testid=stSidebar] [data-testid=stCaptionContainer] {color: inherit; opacity: .8; overflow-wrap: anywhere}
[data-tag-index] *, [data-testid=stBaseButton-primary] * {color: light-dark(#fff, #000) !important}
[data-testid=stMarkdownContainer]:has(table) {overflow-x: auto}
@media (max-width: 640px) {
  [data-testid=stMainBlockContainer] {padding: 3rem .8rem 3rem}
  [data-testid=stElementContainer]:has(.probe-chart) {overflow-x: auto}
  .probe-chart {min-width: 680px}
  .st-key-panels .probe-chart {min-width: 0}
}
</style>"""
BUSY_SECONDS, IDLE_SECONDS = 2, 5  # between looks at the folder, with and without a sweep under way


def main() -> None:
    """One run of the page."""
    titles = pages.titles()
    asked = st.query_params.get("page")
    first = st.session_state.get("page") or (asked if asked in titles else next(iter(titles)))
    st.set_page_config(page_title=f"{first} · posttrain-probe", layout="wide")
    st.html(LOOK)
    chart.ahead()
    store = Store.at(_arguments().results)
    address.begin()
    found = listing(store)
    with st.sidebar:
        st.markdown("### posttrain-probe")
        page = address.select("Page", list(titles), key="page", radio=True, label_visibility="collapsed")
        address.turn(page)
        beside = st.container()
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
    with beside:  # last, as it reads a curve of every run: a reader sees the page meanwhile
        rail.show(found)
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
