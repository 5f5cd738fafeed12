"""Results in a dozen lines: a curve over steps is one line with its ends, their intervals and its shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analyses.core.lazily import pandas as pd
from analyses.core.running.usual import usual
from analyses.core.tabled import NUMBERS, estimate

MOST = 12
BLOCKS = "▁▂▃▄▅▆▇█"
GAP = "·"  # a step at which the quantity was not measured


def sparkline(values: Sequence[float]) -> str:
    """The shape of a curve, a character a value: lowest ▁, highest █, all equal ▁; a value that is missing is `·`."""
    known = [v for v in values if pd.notna(v)]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((v - low) * scale)] if pd.notna(v) else GAP for v in values)


def curves(summary: pd.DataFrame, most: int = MOST) -> tuple[pd.DataFrame, int]:
    """(a line for each curve over `step`, how many there are in all); without steps a line for each estimate.

    Of a dim with a usual value (perplexity of the answer, pooled over tokens) only that one is shown. If there are
    more than `most`, those of the first quantity are, and of these the ones that changed most.
    """
    rows = usual(summary)
    dims = [c for c in rows.columns if c not in (*NUMBERS, "unit", "step")]
    dims = [c for c in dims if c == "quantity" or (rows[c].notna().any() and rows[c].nunique(dropna=False) > 1)]
    if rows.empty or "step" not in rows:
        return rows[[*dims, *[c for c in NUMBERS if c in rows]]].head(most), len(summary)
    found = [_line(dims, key, part) for key, part in rows.groupby(dims, dropna=False, sort=False)]
    if len(found) > most:
        first = found[0]["quantity"]
        found = sorted((f for f in found if f["quantity"] == first), key=lambda f: -f["changed"])[:most]
    return pd.DataFrame(found).drop(columns="changed"), summary.groupby(_all(summary), dropna=False).ngroups


def _all(summary: pd.DataFrame) -> list[str]:
    return [c for c in summary.columns if c not in (*NUMBERS, "unit", "step")]


def _line(dims: Sequence[str], key: object, part: pd.DataFrame) -> dict[str, Any]:
    part = part.sort_values("step")
    first, last = part.iloc[0], part.iloc[-1]
    named = dict(zip(dims, key if isinstance(key, tuple) else (key,), strict=True))
    changed = abs(last["value"] - first["value"])
    return {
        **named,
        "over steps": sparkline(list(part["value"])),
        "first": estimate(first),
        "last": estimate(last),
        "n": int(last["n"]) if "n" in part and pd.notna(last["n"]) else "",
        "changed": changed if pd.notna(changed) else -1.0,
    }


def printed(frame: pd.DataFrame) -> str:
    """Lines as text, names to the left."""
    if frame.empty:
        return ""
    texts = frame.map(lambda v: "" if v is None or (isinstance(v, float) and pd.isna(v)) else _text(v)).astype(str)
    return aligned([[str(c) for c in texts], *texts.to_numpy().tolist()])


def aligned(table: Sequence[Sequence[str]]) -> str:
    """Rows of text as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in table)


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
