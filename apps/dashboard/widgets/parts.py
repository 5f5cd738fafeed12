"""Pieces every page is made of: messages, a figure, filters, provenance."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import pandas as pd
import streamlit as st

import analyses
from analyses.core import claim, figures
from analyses.core.result import Result
from analyses.core.store import contents
from analyses.core.store.store import Store
from apps.catalog import Entry, located, not_found
from apps.dashboard.widgets import address, chart
from apps.dashboard.widgets.address import escaped
from apps.drawn.comparison import CATEGORIES
from apps.report import figures_of, provenance

Where: TypeAlias = tuple[tuple[str, Any], ...]
"""Dims and the values they are held at, in a form that can be a cache's key."""

TAGS = re.compile(r"<[^>]+>")


@st.cache_resource(max_entries=12, show_spinner=False)
def result_of(root: str, analysis: str, key: str) -> Result:
    """A whole result; a key names one content, so it never goes stale."""
    return Store.at(root).get(analysis, key)


@st.cache_resource(max_entries=60, show_spinner=False)
def part_of(root: str, analysis: str, key: str, where: Where) -> Result:
    """The part of a result a page shows."""
    whole = result_of(root, analysis, key)
    return whole.where(**{n: list(v) if isinstance(v, tuple) else v for n, v in where}) if where else whole


@st.cache_resource(max_entries=200, show_spinner=False)
def summary_of(root: str, analysis: str, key: str, where: Where = ()) -> pd.DataFrame:
    """Estimates of a part, tidy; not to be changed in place."""
    return part_of(root, analysis, key, where).summary()


@st.cache_resource(max_entries=40, show_spinner=False)
def drawn(root: str, analysis: str, key: str, where: Where) -> tuple[dict[str, Any], list[str]]:
    """(figures of a part by name, what could not be drawn); not to be changed in place."""
    notes: list[str] = []
    return dict(figures_of(part_of(root, analysis, key, where), notes)), notes


def frozen(where: Mapping[str, object]) -> Where:
    """A selection as a cache key."""
    return tuple((n, tuple(v) if isinstance(v, list) else v) for n, v in where.items())


def claims(entry: Entry) -> None:
    """Claims and warnings of a result: each claim's sentence in its tone, what stands beside it below."""
    stated = contents.claims(entry.root, entry.analysis, entry.key)
    for one in stated:
        card: Any = claim.card(one)
        getattr(st, card["tone"])(escaped(card["sentence"]), icon=":material/gavel:")
        st.caption(escaped("; ".join(f"{label}: {value}" for label, value in card["details"])))
    if not stated and (said := contents.verdict(entry.root, entry.analysis, entry.key)):
        st.info(escaped(said), icon=":material/gavel:")
    warnings = entry.record.get("warnings", [])
    for warning in warnings[:3]:
        st.warning(escaped(warning), icon=":material/warning:")
    if len(warnings) > 3:
        with st.expander(f"{len(warnings) - 3} more warnings"):
            for warning in warnings[3:]:
                st.text(warning)


def problems(found: Sequence[str]) -> None:
    """What in the results folder could not be read."""
    if found:
        with st.expander(f":material/report: {len(found)} results cannot be shown", expanded=len(found) < 3):
            for problem in found:
                st.text(problem)


def filters(summary: pd.DataFrame, prefix: str = "") -> dict[str, list[Any]]:
    """Values chosen per category that at least half of the quantities have; {} for all of them."""
    enough = summary["quantity"].nunique() / 2
    present = [
        d
        for d in CATEGORIES
        if d in summary
        and 1 < len(summary[d].dropna().unique()) <= 24
        and summary.loc[summary[d].notna(), "quantity"].nunique() >= enough
    ]
    chosen: dict[str, list[Any]] = {}
    for dim in present:
        values = list(dict.fromkeys(summary[dim].dropna()))
        if picked := address.select_many(figures.axis_name(dim), values, key=prefix + dim):
            chosen[dim] = picked
    return chosen


def figure(
    shown: Any, name: str, *, key: str, alt: str = "", on_point: Callable[[chart.Point], None] | None = None
) -> None:
    """A figure; its camera button saves what is on screen."""
    kind = address.held("image", ("png", "svg"), "png")
    config = {"toImageButtonOptions": {"format": kind, "filename": name, "scale": 2}}
    chart.show(shown, key=key, config=config, on_point=on_point, alt=alt or name)


def side_by_side(
    views: Mapping[str, tuple[Any, pd.DataFrame]], *, alt: str, on_point: Callable[[Any, pd.DataFrame, Any], None]
) -> None:
    """Small figures in rows of as many as there is room for.

    Args:
        views: name -> (figure, its rows).
        alt: follows each one's title for those who hear it.
        on_point: what a click on a point means: takes figure, rows and point.
    """

    def clicked(shown: object, rows: pd.DataFrame, point: chart.Point) -> None:
        if point:
            on_point(shown, rows, point)

    with st.container(horizontal=True, key="panels"):
        for name, (shown, rows) in views.items():
            title = TAGS.sub(" ", str(shown.layout.title.text))
            figure(shown, name, key=f"panel-{name}", alt=f"{title} {alt}", on_point=partial(clicked, shown, rows))


def kept(key: str, named: Callable[[Any], str]) -> Callable[[chart.Point], None]:
    """What keeps the point chosen on a chart, as a link names it, under ``key``: it outlives the chart."""

    def keep(point: chart.Point) -> None:
        st.session_state[key] = named(point) if point else ""

    return keep


def clickable(shown: Any, chosen: tuple[str, str] | None = None) -> Any:
    """A heatmap whose cells can be chosen: invisible marks on the cells, since only marks take a selection.

    ``chosen`` is the cell that is: its place as the axes name it.
    """
    cells = shown.data[0]
    height, width = len(cells.z), len(cells.z[0])
    xs = list(cells.x) if cells.x is not None else list(range(width))
    ys = list(cells.y) if cells.y is not None else list(range(height))
    copy = type(shown)(shown)
    places = [(x, y) for y in ys for x in xs]
    named = [tuple(v if isinstance(v, str) else figures.as_text(v) for v in place) for place in places]
    copy.add_scatter(
        x=[x for x, _ in places],
        y=[y for _, y in places],
        mode="markers",
        marker={"size": 26, "symbol": "square", "opacity": 0, "color": "#888888"},
        selected={"marker": {"opacity": 0.35}},
        unselected={"marker": {"opacity": 0}},
        selectedpoints=[i for i, place in enumerate(named) if place == chosen] or None,
        customdata=[c for row in cells.customdata for c in row],
        hovertemplate="%{customdata}<extra></extra>",
        showlegend=False,
    )
    if cells.x is not None and not isinstance(xs[0], int | float):
        # Marks at the border would widen the axes beyond the cells.
        copy.update_xaxes(range=[-0.5, width - 0.5])
        copy.update_yaxes(range=[-0.5, height - 0.5])
    return copy


def origin(entry: Entry) -> None:
    """What the analysis measures, what it does not show, and where the numbers come from."""

    if entry.analysis in analyses.names():
        label = "What this measures, and what it does not show"
        box = address.folded(label, key="meaning", icon=":material/menu_book:")
        if box.open:
            for name, text in analyses.get(entry.analysis).sections.items():
                box.markdown(f"**{name}.** {escaped(' '.join(text.split()))}")
    box = address.folded("Provenance", key="origin", icon=":material/history:")
    if not box.open:
        return
    lines = list(provenance(entry.record))
    box.dataframe(pd.DataFrame(lines, columns=["entry", "value"]), hide_index=True, key=f"provenance-{entry.key}")
    missing = [c["path"] for c in entry.checkpoints if not located(c["path"], entry.root)]
    if missing:
        text = f"{len(missing)} of its checkpoints are out of reach ({not_found(missing[0])}); the numbers stay valid."
        box.caption(escaped(text))
