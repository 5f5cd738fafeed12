"""Page Compare: A, B and A - B of one analysis, with statistics paired by item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from analyses.core import figures
from analyses.core.result import COMPANIONS, DIMS
from analyses.core.stats import holm, paired_difference, sign_flip
from apps.contents import rows, table_columns
from apps.reading import Entry, Listing
from apps.views import address, parts, tables

LAST, NUMBERS = "last", ("float", "double", "int", "bool")
PAIRING = ("item", "group", "answer_kind", "mask", "variant", "layer", "pos", "head", "sample", "site", "target")
SECONDARY = {"pos", "layer", "target", "n_tokens", "sample", "step", "head"}
MAX_PAIRS = 500_000
SUMMED = ("perplexity",)  # analyses whose rows hold sums over an item's tokens


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
    _estimates(first, first_at, second, second_at)
    _paired(first, first_at, second, second_at)


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


def _name(entry: Entry, at: dict[str, Any]) -> str:
    return entry.label + (f", step {at['step']}" if at else "")


def _estimates(first: Entry, first_at: dict[str, Any], second: Entry, second_at: dict[str, Any]) -> None:
    """Estimates of both on shared axes, and their difference where both were measured."""
    a, b = (
        parts.summary_of(str(e.root), e.analysis, e.key, parts.frozen(at))
        for e, at in ((first, first_at), (second, second_at))
    )
    quantities = [q for q in dict.fromkeys(a["quantity"]) if q in set(b["quantity"])]
    if not quantities:
        st.info(
            "A and B have no quantity in common: " + address.escaped(f"{set(a['quantity'])} and {set(b['quantity'])}")
        )
        return
    quantity = address.select("Quantity", quantities, key="quantity")
    both = pd.concat([a.assign(side="A"), b.assign(side="B")], ignore_index=True)
    both = both[both["quantity"] == quantity].dropna(axis="columns", how="all")
    for dim, values in parts.filters(both, prefix="compare_").items():
        both = both[both[dim].isin(values)]
    difference = subtracted(both)
    shown, change = _drawn(both, difference, quantity)
    parts.figure(shown, quantity, key="both", alt=f"{quantity} of A and B")
    parts.figure(change, f"{quantity}-difference", key="difference", alt=f"{quantity}: A minus B")
    box = address.folded("Numbers", key="numbers")
    if box.open:
        box.dataframe(difference, hide_index=True, column_config=tables.ROUND, key="difference_rows")
        box.caption("The difference of two estimates carries no interval; the paired statistics below do.")


def subtracted(both: pd.DataFrame) -> pd.DataFrame:
    """A, B and A - B of the estimates measured on both sides."""
    dims = [c for c in both.columns if c in DIMS]
    sides = [both[both["side"] == s].drop(columns=["side", *COMPANIONS], errors="ignore") for s in "AB"]
    keys = ["quantity", *(["unit"] if "unit" in both else []), *dims]
    merged = sides[0].merge(sides[1], on=keys, suffixes=("_a", "_b"))
    return merged.assign(value=merged["value_a"] - merged["value_b"])


def _drawn(both: pd.DataFrame, difference: pd.DataFrame, quantity: str) -> tuple[Any, Any]:
    """Figures of both sides and of their difference: maps for two ordered dims, curves for one, dots for none."""
    dims = [d for d in both.columns if d in DIMS and len(both[d].unique()) > 1]
    ordered = [d for d in figures.X_ORDER if d in dims]
    rest = [d for d in dims if d not in ordered]
    title = f"{quantity}: A − B of the estimates"
    if len(ordered) >= 2:
        x, y = ordered[1], ordered[0]
        facet = ["side", *rest, *ordered[2:]]
        return (
            figures.heatmap(both, x=x, y=y, facet=facet, title=f"{quantity}: A and B, one scale"),
            figures.heatmap(difference, x=x, y=y, facet=facet[1:] or None, signed=True, title=title),
        )
    if ordered:
        return (
            figures.curve(both, x=ordered[0], color="side", dash=rest or None, title=f"{quantity}: A and B"),
            figures.curve(difference, x=ordered[0], color=rest or None, title=title, reference=0.0),
        )
    label = rest or ["quantity"]
    return (
        figures.forest(both, label=label, color="side", reference=None, title=f"{quantity}: A and B"),
        figures.forest(difference, label=label, title=title),
    )


def _paired(first: Entry, first_at: dict[str, Any], second: Entry, second_at: dict[str, Any]) -> None:
    """A - B per item: mean with a bootstrap interval over items, and a sign-flip test."""
    kinds = [table_columns(e.root, e.analysis, e.key) for e in (first, second)]
    numbers = [c for c, k in kinds[0].items() if c in kinds[1] and k.startswith(NUMBERS) and c not in SECONDARY]
    if "item" not in kinds[0] or not numbers:
        st.caption("No statistics paired by item: these results keep no rows per item.")
        return
    st.markdown("##### Paired by item")
    whole = first.analysis in SUMMED
    choices = [
        Value(c, per_token)
        for c in numbers
        for per_token in ((True, False) if whole and c.endswith("_nats") else (False,))
    ]
    column = address.select("Value per item", choices, key="column", name=lambda c: c.name(whole))
    keys = [c for c in PAIRING if c in kinds[0] and c in kinds[1]]
    sides: list[Any] = []
    for entry, at in ((first, first_at), (second, second_at)):
        lists = {k: [v] for k, v in at.items()}
        found, count = rows(entry, where=lists, columns=[*keys, *column.columns], limit=MAX_PAIRS)
        if count > MAX_PAIRS:
            st.caption(f"{count:,} rows are too many to pair in a page; use result.table in a notebook.")
            return
        value = column.of(found)
        sides.append(found.assign(value=value).groupby(keys, as_index=False, dropna=False)["value"].mean())
    lines = paired(sides[0], sides[1], keys, "value")
    if lines.empty:
        st.info("No item was measured on both sides.")
        return
    _draw_paired(lines, column.name(whole))
    st.dataframe(lines, hide_index=True, key="paired", column_config=tables.ROUND)
    st.caption(
        "Mean over items of A − B, 95 % bootstrap interval over items; p: signs of "
        "the differences flipped; p_holm: corrected for the number of lines. Every item counts the same here, "
        "while a quantity above may weigh items by their tokens."
    )


@dataclass(frozen=True)
class Value:
    """A number per item: a column of the rows, or that divided by the item's scored tokens."""

    column: str
    per_token: bool

    def __str__(self) -> str:
        return f"{self.column}/n_tokens" if self.per_token else self.column

    @property
    def columns(self) -> list[str]:
        return [self.column, *(["n_tokens"] if self.per_token else [])]

    def of(self, found: pd.DataFrame) -> pd.Series:
        value = found[self.column].astype(float)
        return value / found["n_tokens"].where(found["n_tokens"] > 0) if self.per_token else value

    def name(self, whole: bool) -> str:
        """With its unit; ``whole``: one row holds all of an item's tokens."""
        named = figures.quantity_name(self.column)
        if not self.column.endswith("_nats"):
            return named
        if self.per_token:
            return f"{named} per token of each item (nats/token)"
        return f"{named} summed over each item's tokens (nats/item)" if whole else f"{named} (nats)"


def _draw_paired(lines: pd.DataFrame, name: str) -> None:
    by = [c for c in parts.FILTERS if c in lines and lines[c].nunique(dropna=False) > 1]
    shown = lines.assign(n=lines["items"], quantity=name)
    figure = figures.forest(shown, label=by or "quantity", title=f"A − B paired by item: {name}", unit="A − B")
    parts.figure(figure, "paired", key="paired_figure", alt=f"{name}: mean over items of A − B with its interval")


def paired(first: pd.DataFrame, second: pd.DataFrame, keys: list[str], column: str) -> pd.DataFrame:
    """One row per category (group, mask ...): mean difference with interval, p, number of items."""
    both = first.merge(second, on=keys, suffixes=("_a", "_b"))
    both["change"] = both[f"{column}_a"].astype(float) - both[f"{column}_b"].astype(float)
    by = [c for c in parts.FILTERS if c in keys]
    told: list[dict[str, Any]] = []
    for values, part in both.groupby(by, sort=False, dropna=False) if by else [((), both)]:
        change = part.groupby("item")["change"].mean().to_numpy()
        found = paired_difference(change, 0 * change, seed=0)
        p = sign_flip(change, draws=1999)
        low, high, n = float(found.ci_low), float(found.ci_high), int(found.n)
        line = {"value": float(found.value), "ci_low": low, "ci_high": high, "p": p, "items": n}
        told.append({**dict(zip(by, values, strict=True)), **line})
    lines = pd.DataFrame(told)
    return lines.assign(p_holm=holm(lines["p"].to_numpy())) if len(lines) else lines
