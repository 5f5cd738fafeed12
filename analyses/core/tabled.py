"""One quantity of a result as a table: told apart by the dims that vary, one of them across where it is to be read."""

from __future__ import annotations

from collections.abc import Mapping

from analyses.core.lazily import pandas as pd
from probe.errors import InputError

NUMBERS = ("value", "ci_low", "ci_high", "n")


def numbers(summary: pd.DataFrame, quantity: str, wanted: Mapping[str, object]) -> pd.DataFrame:
    """The rows of one quantity at the wanted coordinates, indexed by the dims that still vary.

    Raises:
        InputError: no such quantity, dim or value.
    """
    rows = _among(summary, "quantity", [quantity])
    for dim, value in wanted.items():
        rows = _among(rows, dim, list(value) if isinstance(value, list | tuple) else [value])
    dims = [str(c) for c in rows if c not in ("quantity", "unit", *NUMBERS) and rows[c].nunique(dropna=False) > 1]
    found = rows[[*dims, *NUMBERS]].reset_index(drop=True)
    return found.set_index(dims) if dims else found


def spread(found: pd.DataFrame, across: str) -> pd.DataFrame:
    """What `numbers` gives as text, the dim `across` in columns.

    Raises:
        InputError: it does not tell the numbers apart.
    """
    if across not in found.index.names:
        raise InputError(f"across={across!r}; the numbers are told apart by {[n for n in found.index.names if n]}")
    texts = pd.Series([estimate(row) for _, row in found.iterrows()], found.index)
    return texts.unstack(across).fillna("") if found.index.nlevels > 1 else texts.to_frame("").T


def estimate(row: pd.Series) -> str:
    """A value with its interval."""
    if pd.isna(row["value"]):
        return "not measured"
    said = f"{row['value']:.3g}"
    if "ci_low" in row and pd.notna(row["ci_low"]):
        said += f" [{row['ci_low']:.3g}, {row['ci_high']:.3g}]"
    return said


def _among(rows: pd.DataFrame, dim: str, values: list[object]) -> pd.DataFrame:
    known = list(rows[dim].dropna().unique()) if dim in rows else None
    if known is None:
        dims = [c for c in rows if c not in ("quantity", "unit", *NUMBERS)]
        raise InputError(f"there is no dim {dim!r}; the numbers are told apart by {dims}")
    if lost := [v for v in values if v not in known]:
        raise InputError(f"{dim} {lost[0]!r} is not among {', '.join(map(str, known[:20]))}")
    return rows[rows[dim].isin(values)]
