"""Page Compare: A, B and A - B of one analysis, with statistics paired by item."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from analyses.core.store.contents import rows, table_columns
from analyses.core.store.store import Store
from apps.catalog import Entry, Listing
from apps.dashboard.widgets import address, exports, parts, tables
from apps.drawn import comparison
from apps.drawn.comparison import PAIRING, Value
from apps.drawn.reproduction import of_compare

NUMBERS = ("float", "double", "int", "bool")
SECONDARY = {"pos", "layer", "target", "n_tokens", "sample", "step", "head"}
MAX_PAIRS = 500_000
SUMMED = ("perplexity",)  # analyses whose rows hold sums over an item's tokens
Address = tuple[str, str, str, tuple[tuple[str, Any], ...]]  # folder, analysis, key, the part read of it
Side = tuple[Entry, dict[str, Any]]  # a result, and the step read of it


def show(found: Listing) -> None:
    """Choose two results or checkpoints; see both and their difference."""
    st.subheader("Two results side by side", anchor=False)
    several = [a for a in found.analyses() if sum(max(1, len(e.steps)) for e in found.of(a)) > 1]
    if not several:
        st.info("Comparing needs two results, or two checkpoints of a sweep, of one analysis.")
        return
    analysis = address.select("Analysis", several, key="analysis")
    entries = found.of(analysis)
    first, first_at = _side("A", entries, len(entries) - 1, 0)
    # Two checkpoints of one sweep, or two results where one has a single checkpoint.
    other = len(entries) - 1 if entries[-1].is_sweep and len(entries[-1].steps) > 1 else len(entries) - 2
    second, second_at = _side("B", entries, other, -1)
    names = {"A": _name(first, first_at), "B": _name(second, second_at)}
    st.caption(f"A: {address.escaped(names['A'])}  \nB: {address.escaped(names['B'])}")
    if first.key == second.key and first_at == second_at:
        st.info("A and B are the same: choose another result or step for one of them.")
        return
    sides = ((first, first_at), (second, second_at))
    quantity, chosen, views = _estimates(sides)
    value, lines = _paired(sides, chosen, quantity)
    made = partial(of_compare, sides, quantity, chosen, value)
    exports.show("compare", {**views, **lines}, made, dict.fromkeys((first, second)))


def _side(letter: str, entries: list[Entry], default: int, step: int) -> tuple[Entry, dict[str, Any]]:
    left, right = st.columns([2, 1])
    by_key = {e.key: e for e in entries}
    with left:
        start = entries[default].key
        key = address.select(letter, list(by_key), key=letter.lower(), default=start, name=lambda k: by_key[k].label)
    entry = by_key[key]
    if len(entry.steps) < 2 or not entry.is_sweep:
        return entry, {}
    with right:
        name = f"step_{letter.lower()}"
        return entry, {"step": address.slide(f"Step of {letter}", entry.steps, key=name, default=entry.steps[step])}


def _name(entry: Entry, at: Mapping[str, object]) -> str:
    return entry.label + (f", step {at['step']}" if at else "")


def _estimates(sides: tuple[Side, Side]) -> tuple[str | None, dict[str, list[Any]], exports.Views]:
    """(quantity, values chosen, figures): both on shared axes, and their difference where both were measured."""
    a, b = (parts.summary_of(str(e.root), e.analysis, e.key, parts.frozen(at)) for e, at in sides)
    quantities = [q for q in dict.fromkeys(a["quantity"]) if q in set(b["quantity"])]
    if not quantities:
        st.info(
            "A and B have no quantity in common: " + address.escaped(f"{set(a['quantity'])} and {set(b['quantity'])}")
        )
        return None, {}, {}
    quantity = address.select("Quantity", quantities, key="quantity")
    both = comparison.sides(a, b, quantity)
    chosen = parts.filters(both, prefix="compare_")
    views = comparison.estimates(both, chosen)
    for name, alt in (("both-sides", f"{quantity} of A and B"), ("difference", f"{quantity}: A minus B")):
        parts.figure(views[name][0], f"{quantity}-{name}", key=f"compare-{name}", alt=alt)
    box = address.folded("Numbers", key="numbers")
    if box.open:
        box.dataframe(views["difference"][1], hide_index=True, column_config=tables.ROUND, key="difference_rows")
        box.caption("The difference of two estimates carries no interval; the paired statistics below do.")
    return quantity, chosen, views


def _paired(
    sides: tuple[Side, Side], chosen: dict[str, list[Any]], quantity: str | None
) -> tuple[Value | None, exports.Views]:
    """(number, figure): A - B per item, mean with a bootstrap interval over items, and a sign-flip test."""
    kinds = [table_columns(e.root, e.analysis, e.key) for e, _ in sides]
    numbers = [c for c, k in kinds[0].items() if c in kinds[1] and k.startswith(NUMBERS) and c not in SECONDARY]
    if "item" not in kinds[0] or not numbers:
        st.caption("No statistics paired by item: these results keep no rows per item.")
        return None, {}
    st.markdown("##### Paired by item")
    whole = sides[0][0].analysis in SUMMED
    choices = [
        Value(c, per_token, whole)
        for c in numbers
        for per_token in ((True, False) if whole and c.endswith("_nats") else (False,))
    ]
    first = next((c for c in choices if c.column == quantity), choices[0])
    value = address.select("Value per item", choices, key="column", default=first, name=lambda c: c.name)
    of = [{**chosen, **{name: [step] for name, step in at.items()}} for _, at in sides]
    a, b = ((str(e.root), e.analysis, e.key, parts.frozen(w)) for (e, _), w in zip(sides, of, strict=True))
    count, views = _by_item(a, b, value)
    if count > MAX_PAIRS:
        st.caption(f"{count:,} rows are too many to pair in a page; use result.table in a notebook.")
        return None, {}
    if not views:
        st.info("No item was measured on both sides.")
        return None, {}
    figure, lines = views["paired-by-item"]
    alt = f"{value.name}: mean over items of A − B with its interval"
    parts.figure(figure, "paired", key="paired_figure", alt=alt)
    st.dataframe(lines.dropna(axis="columns", how="all"), hide_index=True, key="paired", column_config=tables.ROUND)
    st.caption(
        "Mean over items of A − B, 95 % bootstrap interval over items; p: signs of "
        "the differences flipped; p_holm: corrected for the number of lines. Every item counts the same here, "
        "while a quantity above may weigh items by their tokens. Where telling layers, heads or the like apart would "
        f"give more than {comparison.MAX_LINES} lines, the title says what is averaged over: choose fewer groups above."
    )
    return value, views


@st.cache_resource(max_entries=100, show_spinner="Pairing items ...")
def _by_item(first: Address, second: Address, value: Value) -> tuple[int, exports.Views]:
    """(rows of the larger side, A - B by item where they are not too many); not to be changed in place."""
    entries = [
        Entry(Store.at(root).root, {"analysis": analysis, "key": key}) for root, analysis, key, _ in (first, second)
    ]
    kinds = [table_columns(e.root, e.analysis, e.key) for e in entries]
    columns = [*(c for c in PAIRING if all(c in k for k in kinds)), *value.columns]
    found: list[pd.DataFrame] = []
    counts: list[int] = []
    for entry, (*_, where) in zip(entries, (first, second), strict=True):
        part, count = rows(entry, where=dict(where), columns=columns, limit=MAX_PAIRS)
        found.append(part)
        counts.append(count)
    return max(counts), comparison.by_item(found[0], found[1], value) if max(counts) <= MAX_PAIRS else {}
