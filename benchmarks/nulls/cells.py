"""The table of all cells: of every rule and kind of data how often it claims, and how often it gives an answer."""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from analyses.core.claim import UNJUDGED
from benchmarks.nulls.rule import Rule
from benchmarks.nulls.rules import RULES

TABLE = Path(__file__).with_name("rules.json")
LIMITS = ((1000, 0.07), (100, 0.10), (30, 4 / 30))  # of at least so many sets, the share in which a null may be claimed
STREAM = 7  # the random generator of set k is default_rng((k, STREAM))


class Cell(TypedDict):
    """One row of the table: `found` of `sets` data sets (seeds 0 to sets - 1), and any answer in `answered` of them.

    `ms` is the processor's time of a set in milliseconds, making it included, wherever it was measured.
    """

    rule: str
    kind: str
    data: str
    found: float
    answered: float
    sets: int
    ms: NotRequired[float]


def measured(name: str, rule: Rule[Any], kind: str, data: str, sets: int) -> list[Cell]:
    """One cell for everything this rule may claim."""
    make = (rule.nulls if kind == "null" else rule.plants)[data]
    found, answered, began = dict.fromkeys(rule.counts, 0), 0, time.process_time()
    for seed in range(sets):
        if seed == 1:
            gc.freeze()  # all that is loaded by now: a library's Holm collects garbage at every call
        said = rule.ask(make(np.random.default_rng((seed, STREAM))))
        answered += any(c.answer != UNJUDGED for c in said)
        for what, kinds in rule.counts.items():
            found[what] += any(c.is_found and c.kind in kinds for c in said)
    shown = {"answered": answered / sets, "sets": sets, "ms": round(1000 * (time.process_time() - began) / sets, 1)}
    return [Cell(rule=f"{name}: {what}", kind=kind, data=data, found=n / sets, **shown) for what, n in found.items()]


def asked() -> Iterator[tuple[str, Rule[Any], str, str]]:
    """(name, rule, null or plant, data), in the order of the table."""
    for name, rule in RULES.items():
        for kind, makers in (("null", rule.nulls), ("plant", rule.plants)):
            yield from ((name, rule, kind, data) for data in makers)


def limit(sets: int) -> float:
    """The largest share of so many null data sets in which something may be claimed."""
    return next(share for least, share in LIMITS if sets >= least)


def read() -> dict[tuple[str, str, str], Cell]:
    """Cells that were measured, by rule, kind and data."""
    rows: list[Cell] = json.loads(TABLE.read_text()) if TABLE.exists() else []
    return {(r["rule"], r["kind"], r["data"]): r for r in rows}


def order() -> list[tuple[str, str, str]]:
    """Every cell there should be: of a rule all that it may claim, nulls before plants."""
    return [
        (f"{name}: {what}", kind, data)
        for name, rule in RULES.items()
        for what in rule.counts
        for kind, makers in (("null", rule.nulls), ("plant", rule.plants))
        for data in makers
    ]


def table(sets: int, wanted: tuple[str, ...] = ()) -> list[Cell]:
    """All cells, those measured before on as many data sets left as they are; written after each.

    Args:
        sets: at most, of every cell.
        wanted: rules that are measured; all without one.
    """
    for name, rule, kind, data in asked():
        enough = min(sets, rule.sets)
        kept = read()
        there = [kept.get((f"{name}: {what}", kind, data)) for what in rule.counts]
        if (wanted and name not in wanted) or all(c and c["sets"] >= enough for c in there):
            continue
        fresh = measured(name, rule, kind, data, enough)
        kept = read() | {(c["rule"], c["kind"], c["data"]): c for c in fresh}  # others may have written meanwhile
        TABLE.write_text(json.dumps([kept[at] for at in order() if at in kept], indent=1) + "\n")
        print(*fresh, sep="\n", file=sys.stderr, flush=True)
    kept = read()
    return [kept[at] for at in order() if at in kept]
