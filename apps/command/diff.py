"""`probe diff`: two checkpoints, or two results, paired item by item: what differs, and which items changed most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pandas as pd

import analyses
from analyses.core.result import Result
from analyses.core.store.store import Store
from apps.command import lines
from apps.drawn.comparison import PAIRING, Value, by_item
from probe.errors import InputError

ITEMS = 8  # items shown, those that changed most
NOT_VALUES = (*PAIRING, "step", "seed", "n_tokens", "boxed", "truncated", "tokens", "rank", "ci_low", "ci_high", "p")
FIRST = ("correct", "nll_nats", "logprob_nats")


@dataclass(frozen=True)
class Side:
    """A result at one of its steps, with the words it was named by."""

    named: str
    result: Result
    step: int | None

    @property
    def rows(self) -> pd.DataFrame:
        table = self.result.table
        return table[table["step"] == self.step] if self.step is not None else table


def diff(store: Store, names: tuple[str, str], analysis: str, inputs: Mapping[str, object]) -> None:
    """Print the difference of two sides, B - A.

    Args:
        store: where results are read, and kept.
        names: two folders of checkpoints, or two keys (`KEY@STEP` for one step of a sweep; the last one otherwise).
        analysis: what is asked of two checkpoints.
        inputs: of that analysis: prompts and how models are loaded.

    Raises:
        InputError: two results of different analyses, no rows by item, or no item on both sides.
    """
    are_models = [Path(name).is_dir() for name in names]
    if any(are_models) and not all(are_models):
        raise InputError(f"{names[are_models.index(False)]} is no folder of a checkpoint; compare two of a kind")
    a, b = (_checkpoint(store, n, analysis, inputs) if all(are_models) else _result(store, n) for n in names)
    if a.result.analysis != b.result.analysis:
        raise InputError(f"A is of {a.result.analysis}, B of {b.result.analysis}: only like is compared with like")
    click.echo(f"{a.result.analysis}   A: {_told(a)}   B: {_told(b)}\n")
    one, two = a.rows, b.rows
    for value in _values(one, two, a.result.analysis):
        views = by_item(two, one, value)
        if not views:
            raise InputError("no item was measured on both sides")
        shown = views["paired-by-item"][1].rename(columns={"value": "B - A"})
        click.echo(f"{value.name}, B - A by item")
        click.echo(lines.printed(shown.head(lines.MOST)) + "\n")
        click.echo(lines.printed(changed(one, two, value)) + "\n")


def _checkpoint(store: Store, name: str, analysis: str, inputs: Mapping[str, Any]) -> Side:
    return Side(name, analyses.run(analysis, model=name, store=store, **inputs), None)


def _result(store: Store, name: str) -> Side:
    key, at, step = name.partition("@")
    result = store.get(*store.find(key))
    steps = [int(s) for s in result.data["step"].values] if "step" in result.data.dims else []
    if at and (not step.isdigit() or int(step) not in steps):
        raise InputError(f"{name}: {key} has no step {step!r}; it has {', '.join(map(str, steps)) or 'none'}")
    return Side(key, result, int(step) if at else steps[-1] if steps else None)


def _told(side: Side) -> str:
    return side.named if side.step is None else f"{side.named}, step {side.step}"


def _values(one: pd.DataFrame, two: pd.DataFrame, analysis: str) -> list[Value]:
    """The numbers of an item that are compared: whether it was right, and how likely its answer is; else the first."""
    if "item" not in one or "item" not in two:
        raise InputError(f"results of {analysis} keep no rows by item")
    numbers = [str(c) for c in one if c in two and c not in NOT_VALUES and pd.api.types.is_numeric_dtype(one[c])]
    chosen = [c for c in FIRST if c in numbers] or numbers[:1]
    if not chosen:
        raise InputError(f"results of {analysis} keep no number for each item")
    return [Value(c, per_token=c == "nll_nats" and "n_tokens" in one, whole="n_tokens" in one) for c in chosen]


def changed(one: pd.DataFrame, two: pd.DataFrame, value: Value) -> pd.DataFrame:
    """The items whose number changed most between two tables, with both numbers."""
    keys = [c for c in PAIRING if c in one and c in two]
    sides = [
        t.assign(value=value.of(t)).groupby(keys, as_index=False, dropna=False)["value"].mean() for t in (one, two)
    ]
    both = sides[0].merge(sides[1], on=keys, suffixes=("_a", "_b"))
    both = both.assign(change=both["value_b"] - both["value_a"]).dropna(subset="change")
    told = [c for c in keys if c == "item" or both[c].nunique() > 1]
    order = both["change"].abs().sort_values(ascending=False, kind="stable").index
    return both.loc[order, [*told, "value_a", "value_b", "change"]].head(ITEMS)
