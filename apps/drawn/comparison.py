"""Two results side by side, and their difference: what the page Compare draws, without a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from analyses.core import figures
from analyses.core.result import COMPANIONS, DIMS
from analyses.core.stats import holm, paired_difference, sign_flip

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

CATEGORIES = ("group", "dataset", "mask", "answer_kind", "variant", "arm", "site", "direction", "token_class")
ORDERED = ("layer", "window", "state", "head", "kv_head", "alpha", "fraction", "k", "source_step", "neuron")
PAIRING = ("item", *CATEGORIES, *ORDERED, "pos", "sample", "target")
MAX_LINES = 64  # tests a reader can look through, and wait for
Views = dict[str, tuple[Any, pd.DataFrame]]


def sides(first: pd.DataFrame, second: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Estimates of one quantity in two summaries; the column side says which (A or B)."""
    both = pd.concat([first.assign(side="A"), second.assign(side="B")], ignore_index=True)
    return both[both["quantity"] == quantity].dropna(axis="columns", how="all")


def estimates(both: pd.DataFrame, chosen: Mapping[str, Sequence[object]] | None = None) -> Views:
    """Name -> (figure, rows): both sides on shared axes, and A - B where both were measured.

    Args:
        both: what ``sides`` gives.
        chosen: dim -> values wanted; all by default.
    """
    both = only(both, chosen or {})
    difference = subtracted(both)
    shown, change = _drawn(both, difference, str(both["quantity"].iloc[0]) if len(both) else "")
    return {"both-sides": (shown, both), "difference": (change, difference)}


def only(rows: pd.DataFrame, chosen: Mapping[str, Sequence[object]]) -> pd.DataFrame:
    """Rows that have the values chosen, of the columns there are."""
    for dim, values in chosen.items():
        rows = rows[rows[dim].isin(list(values))] if dim in rows else rows
    return rows


def subtracted(both: pd.DataFrame) -> pd.DataFrame:
    """A, B and A - B of the estimates measured on both sides."""
    dims = [c for c in both.columns if c in DIMS]
    halves = [both[both["side"] == s].drop(columns=["side", *COMPANIONS], errors="ignore") for s in "AB"]
    keys = ["quantity", *(["unit"] if "unit" in both else []), *dims]
    merged = halves[0].merge(halves[1], on=keys, suffixes=("_a", "_b"))
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


@dataclass(frozen=True)
class Value:
    """A number per item: a column of the rows, or that divided by the item's scored tokens."""

    column: str
    per_token: bool = False
    whole: bool = False  # one row holds all of an item's tokens

    def __str__(self) -> str:
        return f"{self.column}/n_tokens" if self.per_token else self.column

    @property
    def columns(self) -> list[str]:
        """Columns it is read from."""
        return [self.column, *(["n_tokens"] if self.per_token else [])]

    @property
    def name(self) -> str:
        """For people, with its unit."""
        named = figures.quantity_name(self.column)
        if not self.column.endswith("_nats"):
            return named
        if self.per_token:
            return f"{named} per token of each item (nats/token)"
        return f"{named} summed over each item's tokens (nats/item)" if self.whole else f"{named} (nats)"

    def of(self, found: pd.DataFrame) -> pd.Series:
        """The value of every row."""
        value = found[self.column].astype(float)
        return value / found["n_tokens"].where(found["n_tokens"] > 0) if self.per_token else value


def by_item(first: pd.DataFrame, second: pd.DataFrame, value: Value) -> Views:
    """Name -> (figure, rows): A - B of the items measured on both sides, {} where there are none.

    Args:
        first: rows of A's table at one checkpoint.
        second: rows of B's.
        value: the number compared.
    """
    keys = [c for c in PAIRING if c in first and c in second]
    means: list[Any] = [
        side.assign(value=value.of(side)).groupby(keys, as_index=False, dropna=False)["value"].mean()
        for side in (first, second)
    ]
    lines = paired(means[0], means[1], keys, "value")
    if lines.empty:
        return {}
    told = [c for c in keys if c in lines]
    pooled = [c for c in keys if c not in (*told, "item", "target") and means[0][c].nunique() > 1]
    return {"paired-by-item": (_paired_figure(lines, told, pooled, value), lines)}


def _paired_figure(lines: pd.DataFrame, told: list[str], pooled: list[str], value: Value) -> Figure:
    """Dots of the lines; curves where they are along a layer or another ordered dim."""
    by = [c for c in told if lines[c].nunique(dropna=False) > 1]
    shown = lines.assign(n=lines["items"], quantity=value.name)
    title = "A − B paired by item" + (f", mean over {', '.join(map(figures.axis_name, pooled))}" if pooled else "")
    along = next((c for c in by if c in ORDERED), None)
    if along is None:
        return figures.forest(shown, label=by or "quantity", title=title, unit="A − B")
    rest = [c for c in by if c != along] or None
    return figures.curve(shown, x=along, color=rest, title=title, y_title=f"A − B: {value.name}", reference=0.0)


def paired(first: pd.DataFrame, second: pd.DataFrame, keys: list[str], column: str) -> pd.DataFrame:
    """One row per category (group, mask ...) and ordered dim: mean difference with interval, p, number of items.

    An ordered dim with which there would be more than ``MAX_LINES`` rows is averaged over.
    """
    both = first.merge(second, on=keys, suffixes=("_a", "_b"))
    both["change"] = both[f"{column}_a"].astype(float) - both[f"{column}_b"].astype(float)
    by = [c for c in CATEGORIES if c in keys]
    for dim in (c for c in ORDERED if c in keys):
        by = [*by, dim] if len(both[[*by, dim]].drop_duplicates()) <= MAX_LINES else by
    told: list[dict[str, object]] = []
    for values, part in both.groupby(by, sort=False, dropna=False) if by else [((), both)]:
        change = part.groupby("item")["change"].mean().to_numpy()
        found = paired_difference(change, 0 * change, seed=0)
        p = sign_flip(change, draws=1999)
        low, high, n = float(found.ci_low), float(found.ci_high), int(found.n)
        line = {"value": float(found.value), "ci_low": low, "ci_high": high, "p": p, "items": n}
        told.append({**dict(zip(by, values, strict=True)), **line})
    lines = pd.DataFrame(told)
    return lines.assign(p_holm=holm(lines["p"].to_numpy())) if len(lines) else lines
