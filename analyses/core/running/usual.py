"""Which of many estimates a log, a line or a table shows: what a reader assumes where nothing else is said."""

from __future__ import annotations

from analyses.core.lazily import pandas as pd

USUAL = {"variant": "micro", "mask": "answer", "decoding": "greedy"}


def usual(rows: pd.DataFrame) -> pd.DataFrame:
    """Of dims with a usual value (perplexity of the answer, pooled over tokens), where that was measured, its rows.

    Rows to which such a dim does not apply stay.
    """
    for dim, value in USUAL.items():
        if dim in rows and (rows[dim] == value).any():
            rows = rows[(rows[dim] == value) | rows[dim].isna()]
    return rows
