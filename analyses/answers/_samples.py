"""Sampled responses of `evaluate` as counts per item, and the same items at two steps. Never imports torch."""

from __future__ import annotations

import pandas as pd

from probe.errors import InputError

BY = ["group", "answer_kind"]


def sampled(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """The sampled responses whose gold answer could be read, with `right` (1 or 0; unreadable answers are not right).

    Raises:
        InputError: no samples (what to run instead).
    """
    rows = table[(table["decoding"] == "sampled") & (table["status"] != "gold_unparsed")]
    if rows.empty:
        raise InputError(
            f"{by} needs several sampled responses per item: run evaluate with --samples, or give a log of them"
        )
    return rows.assign(right=(rows["status"] == "correct").astype(float))


def counts(rows: pd.DataFrame) -> pd.DataFrame:
    """Samples and right ones (`n`, `c`) of every item, kind of answer and step; clusters where there are any."""
    keys = ["item", *BY, *(c for c in ("step", "cluster") if c in rows)]
    found = rows.groupby(keys, sort=True, dropna=False)["right"].agg(n="size", c="sum").reset_index()
    return found.astype({"n": int, "c": int})


def since_first(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """Counts at every later step beside those at the first (`n_before`, `c_before`), items measured at both.

    Raises:
        InputError: fewer than two steps.
    """
    if "step" not in table or table["step"].nunique() < 2:
        raise InputError(
            f"{by} compares checkpoints: sweep evaluate over them, or give --log a folder with a file for each step "
            "(step-0.jsonl, step-100.jsonl)"
        )
    first = table[table["step"] == table["step"].min()]
    before = first.rename(columns={"n": "n_before", "c": "c_before"})[["item", *BY, "n_before", "c_before"]]
    return table[table["step"] > table["step"].min()].merge(before, on=["item", *BY])
