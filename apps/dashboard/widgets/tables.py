"""Tables: a short plain one, there at once; the interactive grid of all rows where it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from analyses.core.figures import axis_name, plain, unit_name
from analyses.core.result import COMPANIONS, DIMS
from analyses.core.store.contents import rows
from apps.catalog import Entry
from apps.dashboard.widgets import address
from apps.dashboard.widgets.address import escaped

FIRST_ROWS, MAX_ROWS = 12, 1000
FIRST, ALL, FACTS = "First estimates", "All estimates", "Rows"
ROUND = {c: st.column_config.NumberColumn(format="%.4g") for c in ("value", *COMPANIONS[:2], "p", "p_holm")}
NUMBERS = {"value [95 % interval]", "n", "p", "p_holm", "items"}


def shown(summary: pd.DataFrame, entry: Entry, where: Mapping[str, object]) -> None:
    """The table a reader chose: the first estimates, all of them, or the rows per item behind them."""
    kind = address.select("Table", [FIRST, ALL, FACTS], key="table", radio=True, horizontal=True)
    if kind == FIRST:
        first(summary)
    elif kind == ALL:
        estimates(summary, key="estimates")
    else:
        facts(entry, where, key="facts")


def first(summary: pd.DataFrame) -> None:
    """The first estimates with intervals and units."""
    varying, constant = _told_apart(summary)
    caption = f"{min(len(summary), FIRST_ROWS):,} of {len(summary):,} estimates"
    if constant:
        caption += "; in all rows: " + ", ".join(f"{axis_name(c)} {plain(v)}" for c, v in constant.items())
    static(estimate_lines(varying.head(FIRST_ROWS).dropna(axis="columns", how="all")), caption)


def static(table: pd.DataFrame, caption: str = "") -> None:
    """``table`` of texts, all of it shown literally; numbers stand at the right.

    A Markdown table, as every other form waits for a script of its own behind the one that draws figures.
    """
    columns = list(table.columns)
    head = [_cell(c) for c in columns]
    rule = ["---:" if c in NUMBERS else "---" for c in columns]
    body = [[_cell(v) for v in line] for line in table.itertuples(index=False)]
    st.markdown("\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body)))
    if caption:
        st.caption(escaped(caption))


def estimate_lines(summary: pd.DataFrame) -> pd.DataFrame:
    """Estimates as texts: dims, value with its interval, unit, n; "" where something was not measured."""
    lines = [{name: _text(row, name) for name in _columns(summary)} for row in summary.to_dict("records")]
    return pd.DataFrame(lines, columns=_columns(summary))


def _columns(summary: pd.DataFrame) -> list[str]:
    dims = [str(c) for c in summary.columns if c not in ("value", "unit", *COMPANIONS)]
    return [*dims, "value [95 % interval]", *[c for c in ("unit", "n") if c in summary]]


def _text(row: Mapping[Any, Any], name: str) -> str:
    if name.startswith("value "):
        low, high = row.get("ci_low"), row.get("ci_high")
        interval = f" [{low:.4g}, {high:.4g}]" if pd.notna(low) and pd.notna(high) else ""
        return f"{row['value']:.4g}{interval}"
    value = row[name]
    return "" if pd.isna(value) else unit_name(value) if name == "unit" else _plain(value)


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) and not value.is_integer() else plain(value)


def _cell(value: object) -> str:
    """A text as one cell; line breaks would end its row."""
    return escaped(" ".join(str(value).split()))


def _told_apart(summary: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The estimates without the dims that are the same in all of them, and those."""
    measured = summary.dropna(axis="columns", how="all")
    if "unit" in measured:
        measured = measured.assign(unit=[unit_name(u) for u in measured["unit"]])
    constant = [c for c in measured.columns if c in DIMS and measured[c].nunique(dropna=False) == 1]
    constant = constant if len(measured) > 1 else []
    return measured.drop(columns=constant), {c: measured[c].iloc[0] for c in constant}


def estimates(summary: pd.DataFrame, *, key: str) -> None:
    """Estimates as a grid to sort and search: dims, value, interval, n."""
    varying, constant = _told_apart(summary)
    st.dataframe(varying.head(MAX_ROWS), hide_index=True, column_config=ROUND, key=key)
    if constant:
        st.caption(f"In all rows: {escaped(', '.join(f'{c} {v}' for c, v in constant.items()))}")
    if len(varying) > MAX_ROWS:
        st.caption(f"First {MAX_ROWS} of {len(varying):,} estimates; filter, or export all.")


def facts(entry: Entry, where: Mapping[str, object], *, key: str) -> None:
    """Rows of the table that match the selection and the search."""
    search = address.text("Search in items and texts", key="search", placeholder="for example an item's id")
    lists = {n: v if isinstance(v, list) else [v] for n, v in where.items()}
    found, count = rows(entry, where=lists, search=search, limit=MAX_ROWS)
    if not count:
        st.info("No row matches. Clear the search or widen the filters.")
        return
    st.dataframe(found, hide_index=True, key=key)
    advice = ": narrow the search, or export all" if count > MAX_ROWS else ""
    st.caption(f"{min(count, MAX_ROWS):,} of {count:,} rows{advice}")
