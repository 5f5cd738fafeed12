"""Page Circuit: where in the model it happened, all layer-wise curves of one run on one layer axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import pandas as pd
import streamlit as st

from analyses.core.figures import as_text, plain
from analyses.core.store.contents import rows, table_columns
from apps.catalog import Entry, Listing
from apps.dashboard.widgets import address, exports, parts, rail, series, tables
from apps.drawn import curves, maps, strips
from apps.drawn.reproduction import Map, of_circuit

Place: TypeAlias = dict[str, Any]
"""Where a value was measured: dims and their values."""

MISSING = (
    "No result here goes layer by layer yet. logit_lens, divergence and path_patching do: "
    "probe sweep logit_lens --checkpoints DIR --prompts FILE"
)
Read = list[tuple[Entry, Place | None]]  # a result, and the part of it that is shown; None: it has none


def show(found: Listing) -> None:
    """The run's layer-wise verdicts, curves, and one map; points and cells lead to items."""
    st.subheader("Where in the model", anchor=False)
    chosen = series.choose_run(
        found, lambda e: series.has_dims(e, *curves.LAYERS, "role"), MISSING, rail.selected(found)
    )
    if chosen is None:
        return
    run, entries = chosen
    series.claims(entries, {run: "Verdicts about layers"})
    read = _read(entries)
    layers, groups = _layers(read)
    shown, cells = _map(read)
    rows_drawn = layers["layers"][1] if layers else pd.DataFrame({"key": [], "panel": []})
    drawn = [(e, at or {}) for e, at in read if e.key in set(rows_drawn["key"])]
    panels = list(dict.fromkeys(rows_drawn["panel"]))
    exports.show(
        "circuit",
        {**layers, **cells},
        lambda: of_circuit(found.store.root, drawn, panels, groups, shown),
        [*(e for e, _ in drawn), *([shown.entry] if shown else [])],
    )


def _read(entries: list[Entry]) -> Read:
    """The chosen step of every sweep that has it; a single result is what it is."""
    steps = sorted({s for e in entries if e.is_sweep for s in e.steps})
    if len(steps) < 2:
        return [(e, {}) for e in entries]
    step = address.slide("Step", steps, key="step", default=steps[-1])
    return [(e, {} if not e.is_sweep else {"step": step} if step in e.steps else None) for e in entries]


def _layers(read: Read) -> tuple[exports.Views, list[str]]:
    """(curves over layers, groups chosen); choosing a point shows the items behind it."""
    found = [_over_layers(e, at) for e, at in read if at is not None and series.has_dims(e, *curves.LAYERS)]
    measured = curves.joined(found)
    if measured.empty:
        st.caption("No curve over layers at this step.")
        return {}, []
    panels = list(dict.fromkeys(measured["panel"]))
    default = _telling(measured)[:4]
    how: Place = {"name": curves.title, "buttons": False}
    shown = address.select_many("Curves over layers", panels, key="layer_curves", default=default, **how)
    groups = [g for g in dict.fromkeys(measured["group"].dropna()) if g != curves.ALL]
    picked = address.select_many("Groups of items", groups, key="group") if len(groups) > 1 else []
    layers = curves.chosen(measured, shown, picked)
    if layers.empty:
        st.info("Choose at least one curve.")
        return {}, []
    figure = curves.layers_figure(layers)

    def named(point: Any) -> str:
        row = curves.row_at(layers, figure, point)
        return curves.place_name(row) if row else ""

    keep = parts.kept("point", named)
    parts.figure(figure, "layers", key="layers", on_point=keep, alt="Curves over layers")
    _behind_point(read, layers)
    return {"layers": (figure, layers)}, picked


def _behind_point(read: Read, layers: pd.DataFrame) -> None:
    """Items behind the point chosen on the curves."""
    by_name = {curves.place_name({str(k): v for k, v in row.items()}): row for row in layers.to_dict("records")}
    name = address.held("point", ["", *by_name], "")
    if not name:
        st.caption("Choose a point to see its items.")
        return
    row = {str(k): v for k, v in by_name[name].items() if pd.notna(v)}
    entry, at = next((e, at or {}) for e, at in read if e.key == row["key"])
    _items(entry, {**at, **curves.place_of(row)}, "point")


def _over_layers(entry: Entry, at: Mapping[str, object]) -> pd.DataFrame:
    return curves.over_layers(series.measured(entry, at)).assign(analysis=entry.analysis, key=entry.key)


def _telling(curves: pd.DataFrame) -> list[str]:
    """Of each analysis's first quantity, the curve that differs most between layers."""
    found: list[str] = []
    for _, part in curves.groupby("analysis", sort=False):
        of_first = part[part["quantity"] == part["quantity"].iloc[0]].groupby("panel", sort=False)["value"]
        found.append(str((of_first.max() - of_first.min()).idxmax()))
    return found


def _map(read: Read) -> tuple[Map | None, exports.Views]:
    """A heatmap over layers and a second axis; choosing a cell shows the items behind it."""
    found: dict[str, tuple[Map, pd.DataFrame]] = {}
    for entry, at in read:
        for x in curves.LAYERS:
            for y in maps.PARTNERS:
                for name, cells in _cells(entry, x, y, {} if y == "step" else at).items():
                    title = f"{entry.analysis}: {curves.title(name)} ({x} × {y})"
                    found[title] = (Map(title, name, x, y, entry, {} if y == "step" else at or {}), cells)
    if not found:
        return None, {}
    st.markdown("##### Map")
    shown, cells = found[address.select("Map", list(found), key="map", label_visibility="collapsed")]
    figure = maps.map_figure(cells, shown.x, shown.y, shown.title)
    axes = [shown.x, shown.y]
    by_name: Place = {_cell_name(c): c for c in cells[axes].to_dict("records")}
    name = address.held("cell", ["", *by_name], "")
    cell = by_name.get(name)
    keep = parts.kept(
        "cell", lambda p: _cell_name({a: _value(cells[a], p[s]) for a, s in zip(axes, "xy", strict=True)})
    )
    marked = parts.clickable(figure, (as_text(cell[shown.x]), as_text(cell[shown.y])) if cell else None)
    parts.figure(marked, "map", key="map_figure", on_point=keep, alt=shown.title)
    if cell:
        _items(shown.entry, {**shown.at, **cells.attrs["fixed"], **cell}, "cell")
    else:
        st.caption("Choose a cell to see its items.")
    return shown, {"map": (figure, cells)}


def _cells(entry: Entry, x: str, y: str, at: Place | None) -> dict[str, pd.DataFrame]:
    if at is None or not (series.has_dims(entry, x) and series.has_dims(entry, y)):
        return {}
    return maps.maps_of(parts.summary_of(str(entry.root), entry.analysis, entry.key, parts.frozen(at)), x, y)


def _cell_name(cell: dict[Any, Any]) -> str:
    """A cell as a link names it."""
    return ", ".join(f"{axis} {plain(value)}" for axis, value in cell.items())


def _value(column: pd.Series, shown: object) -> Any:
    """The value of ``column`` that stands as ``shown`` on the axis."""
    return next((v for v in column.unique().tolist() if as_text(v) == str(shown) or v == shown), shown)


def _items(entry: Entry, where: Mapping[str, object], chosen: str) -> None:
    """Rows behind a point or a cell; choosing one leads to its item."""
    lists = {k: [v] for k, v in where.items()}
    found, count = rows(entry, where=lists, limit=tables.MAX_ROWS)
    has_pos = {"item", "pos"} <= set(table_columns(entry.root, entry.analysis, entry.key))
    told = "Items"
    if has_pos and count:
        items = len(rows(entry, where=lists, columns=["item"], distinct=True, limit=count)[0])
        told = f"Tokens of {items:,} {'item' if items == 1 else 'items'}"
    st.markdown(f"{told} at " + address.escaped(", ".join(f"{k} {v}" for k, v in where.items())))
    if not count:
        st.caption(f"This result keeps no rows per item for this {chosen}.")
        return
    how: Place = {"on_select": "rerun", "selection_mode": "single-row"}
    picked = st.dataframe(strips.decoded(entry, found), hide_index=True, key=f"{chosen}_items", **how)
    st.caption(f"{len(found):,} of {count:,} rows")
    if picked.selection.rows and "item" in found:
        item = str(found["item"].iloc[picked.selection.rows[0]])
        label = f"Open item {address.escaped(item)} on page Token"
        st.button(label, on_click=address.go, kwargs={"page": "Token", "item": item}, disabled=not has_pos)
