"""Page Circuit: where in the model it happened, all layer-wise curves of one run on one layer axis."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from analyses.core import figures
from analyses.core.result import DIMS
from apps.contents import rows, table_columns
from apps.reading import Entry, Listing
from apps.views import address, parts, series, tables

AXES = ("layer", "window", "state")
OTHER_AXES = {"pos", "key_pos", "head", "kv_head", "neuron", "alpha", "k", "step", "source_step"}
PARTNERS = ("head", "kv_head", "step", "pos", "neuron", "alpha", "window")
MISSING = (
    "No result here goes layer by layer yet. logit_lens, divergence and path_patching do: "
    "probe sweep logit_lens --checkpoints DIR --prompts FILE"
)


def show(found: Listing) -> None:
    """The run's layer-wise verdicts, curves, and one map whose cells lead to items."""
    st.subheader("Where in the model", anchor=False)
    chosen = series.choose_run(found, lambda e: series.has_dims(e, *AXES, "role"), MISSING)
    if chosen is None:
        return
    run, entries = chosen
    series.claims(entries, {run: "Verdicts about layers"})
    where = _step(entries)
    _curves(entries, where)
    _map(entries, where)


def _step(entries: list[Entry]) -> dict[str, Any]:
    steps = sorted({s for e in entries if e.is_sweep for s in e.steps})
    if len(steps) < 2:
        return {}
    return {"step": address.slide("Step", steps, key="step", default=steps[-1])}


def _at(entry: Entry, where: dict[str, Any]) -> dict[str, Any]:
    """The chosen step for a sweep; a single result is what it is."""
    return where if entry.is_sweep else {}


def _curves(entries: list[Entry], where: dict[str, Any]) -> None:
    curves = series.joined([_by_layer(e, axis, _at(e, where)) for e in entries for axis in AXES])
    if curves.empty:
        st.caption("No curve over layers at this step.")
        return
    panels = list(dict.fromkeys(curves["panel"]))
    default = _telling(curves)[:4]
    how: dict[str, Any] = {"name": series.title, "buttons": False}
    shown = address.select_many("Curves over layers", panels, key="layer_curves", default=default, **how)
    if not shown:
        st.info("Choose at least one curve.")
        return
    curves = curves[curves["panel"].isin(shown)].assign(group=lambda kept: kept["group"].fillna("all items"))
    groups = list(dict.fromkeys(curves["group"]))
    if len(groups) > 1:
        picked = address.select_many("Groups of items", groups, key="group")
        curves = curves[curves["group"].isin(picked or groups)]
    if len(curves):
        named = curves.assign(panel=[series.title(p) for p in curves["panel"]])
        figure = figures.curve(named, x="layer", color="group", facet="panel", columns=1)
        parts.figure(figure, "layers", key="layers", alt="Curves over layers")


def _telling(curves: pd.DataFrame) -> list[str]:
    """Of each analysis's first quantity, the curve that differs most between layers."""
    found: list[str] = []
    for _, part in curves.groupby("analysis", sort=False):
        of_first = part[part["quantity"] == part["quantity"].iloc[0]].groupby("panel", sort=False)["value"]
        found.append(str((of_first.max() - of_first.min()).idxmax()))
    return found


def _by_layer(entry: Entry, axis: str, where: dict[str, Any]) -> pd.DataFrame:
    """Curves of ``entry`` over layers; windows stand at their first layer, states at the block they come out of."""
    others = OTHER_AXES | (set(AXES) - {axis})
    rows = series.panelled(entry, axis, others, where) if series.has_dims(entry, axis) else pd.DataFrame()
    if rows.empty or axis == "layer":
        return rows
    layer = rows[axis] - (axis == "state")
    note = " (window by first layer)" if axis == "window" else " (state; −1 is the embedding)"
    return rows.assign(layer=layer, panel=rows["panel"] + note).drop(columns=axis)


def _map(entries: list[Entry], where: dict[str, Any]) -> None:
    """A heatmap over layers and a second axis; choosing a cell shows the items behind it."""
    maps: dict[str, tuple[Entry, pd.DataFrame, str, str]] = {}
    for entry in entries:
        for x in AXES:
            for y in PARTNERS:
                at = {} if y == "step" else _at(entry, where)
                for name, part in _maps(entry, x, y, at).items():
                    maps[f"{entry.analysis}: {name} ({x} × {y})"] = (entry, part, x, y)
    if not maps:
        return
    st.markdown("##### Map")
    name = address.select("Map", list(maps), key="map", label_visibility="collapsed")
    entry, part, x, y = maps[name]
    figure = parts.clickable(figures.heatmap(part, x=x, y=y, title=name, unit=parts.unit(part)))
    event = parts.figure(figure, "map", key="map_figure", on_select="rerun", alt=name)
    points = event.selection.points if event else []
    if not points:
        st.caption("Choose a cell to see its items.")
        return
    cell = {x: _value(part[x], points[0]["x"]), y: _value(part[y], points[0]["y"])}
    _items(entry, {**({} if y == "step" else _at(entry, where)), **part.attrs["fixed"], **cell})


def _maps(entry: Entry, x: str, y: str, where: dict[str, Any]) -> dict[str, pd.DataFrame]:
    if not (series.has_dims(entry, x) and series.has_dims(entry, y)):
        return {}
    summary = parts.summary_of(str(entry.root), entry.analysis, entry.key, parts.frozen(where))
    found: dict[str, pd.DataFrame] = {}
    for quantity, part in summary.groupby("quantity", sort=False):
        dims = [d for d in part.columns if d in DIMS and part[d].notna().any()]
        if x not in dims or y not in dims or len(part[x].unique()) < 2 or len(part[y].unique()) < 2:
            continue
        rest = [d for d in dims if d not in (x, y) and len(part[d].unique()) > 1]
        if any(len(part[d].unique()) > 12 for d in rest):
            continue
        for values, cells in part.groupby(rest, sort=False) if rest else [((), part)]:
            fixed = dict(zip(rest, values if isinstance(values, tuple) else (values,), strict=True))
            cells = cells.copy()
            cells.attrs["fixed"] = fixed
            found[" · ".join([str(quantity), *map(str, fixed.values())])] = cells
    return found


def _value(column: pd.Series, shown: Any) -> Any:
    """The value of ``column`` that stands as ``shown`` on the axis."""
    from analyses.core.figures import as_text

    return next((v for v in column.unique().tolist() if as_text(v) == str(shown) or v == shown), shown)


def _items(entry: Entry, where: dict[str, Any]) -> None:
    """Rows behind a cell; choosing one leads to its item."""
    st.markdown("Items at " + address.escaped(", ".join(f"{k} {v}" for k, v in where.items())))
    found, count = rows(entry, where={k: [v] for k, v in where.items()}, limit=tables.MAX_ROWS)
    if not count:
        st.caption("This result keeps no rows per item for this cell.")
        return
    picked = st.dataframe(found, hide_index=True, key="cell_items", on_select="rerun", selection_mode="single-row")
    st.caption(f"{len(found):,} of {count:,} rows")
    has_pos = {"item", "pos"} <= set(table_columns(entry.root, entry.analysis, entry.key))
    if picked.selection.rows and "item" in found:
        item = str(found["item"].iloc[picked.selection.rows[0]])
        label = f"Open item {address.escaped(item)} on page Token"
        st.button(label, on_click=address.go, kwargs={"page": "Token", "item": item}, disabled=not has_pos)
