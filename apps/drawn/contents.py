"""What lies in one stored result, read as far as a page needs it: its claim, its names, rows that match.

Results are content-addressed and never change, so whatever is read once under a key may be kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import pandas as pd
import pyarrow.parquet

from analyses.core import claim
from analyses.core.claim import Claim
from analyses.core.store.store import Store, StoreError
from apps.catalog import AGAIN, Entry
from probe.errors import InputError


@lru_cache(maxsize=20_000)
def claims(root: Path, name: str, key: str) -> tuple[Claim, ...]:
    """What a result claims, as data; read from its record, not from its arrays."""
    try:
        return tuple(claim.from_json(c) for c in Store(root).record(name, key).get("claims", []))
    except InputError as error:
        raise StoreError(str(error)) from error


@lru_cache(maxsize=20_000)
def verdict(root: Path, name: str, key: str) -> str:
    """The claims of a result in words, "" where it makes none; an older result's lie in one attribute."""

    if said := claim.text(claims(root, name, key)):
        return said
    try:
        with h5py.File(Store(root).folder(name, key) / "arrays.nc") as file:
            found = file.attrs.get("verdict", "")
    except OSError as error:
        raise StoreError(
            f"{name}/{key}: arrays.nc cannot be read ({error}); delete its folder and run again."
        ) from error
    return found.decode() if isinstance(found, bytes) else str(found)


@lru_cache(maxsize=20_000)
def array_names(root: Path, name: str, key: str) -> frozenset[str]:
    """Names of a result's variables and dims, without reading its numbers."""

    try:
        with h5py.File(Store(root).folder(name, key) / "arrays.nc") as file:
            return frozenset(map(str, file))
    except OSError as error:
        raise StoreError(f"{name}/{key}: arrays.nc cannot be read ({error}); {AGAIN}.") from error


@lru_cache(maxsize=20_000)
def table_columns(root: Path, name: str, key: str) -> dict[str, str]:
    """Columns of a result's table with their kinds, without reading its rows."""

    try:
        schema = pyarrow.parquet.read_schema(Store(root).folder(name, key) / "table.parquet")
    except (OSError, ValueError) as error:
        raise StoreError(f"{name}/{key}: table.parquet cannot be read ({error}); {AGAIN}.") from error
    return {field.name: str(field.type) for field in schema}


def rows(
    entry: Entry,
    *,
    where: Mapping[str, Sequence[Any]] | None = None,
    search: str = "",
    columns: Sequence[str] | None = None,
    limit: int = 1000,
    distinct: bool = False,
) -> tuple[pd.DataFrame, int]:
    """(the first ``limit`` rows of a table that match, how many match); reads the columns it needs.

    Args:
        entry: the result.
        where: column -> values wanted; columns the table does not have are ignored.
        search: text to be found in any text column, letter case ignored.
        columns: columns to read; all by default.
        limit: rows returned at most.
        distinct: each combination of ``columns`` once (the count stays that of rows).
    """
    path = str(Store(entry.root).folder(entry.analysis, entry.key) / "table.parquet")
    kinds = table_columns(entry.root, entry.analysis, entry.key)
    condition, values = _condition(kinds, where or {}, search)
    wanted = ", ".join(_quoted(c) for c in columns or kinds if c in kinds) or "*"
    read = f"{'DISTINCT ' if distinct else ''}{wanted} FROM read_parquet(?){condition} LIMIT {int(limit)}"
    cursor = _duckdb().cursor()
    count = cursor.execute(f"SELECT count(*) FROM read_parquet(?){condition}", [path, *values]).fetchone()
    frame = cursor.execute(f"SELECT {read}", [path, *values]).df()
    return frame, int(count[0]) if count else 0


@lru_cache(maxsize=1)
def _duckdb() -> Any:
    """One database in memory for the process; every read takes a cursor of its own."""
    import duckdb

    return duckdb.connect(config={"threads": 2, "memory_limit": "200MB"})


def _condition(kinds: Mapping[str, str], where: Mapping[str, Sequence[Any]], search: str) -> tuple[str, list[Any]]:
    parts: list[str] = []
    values: list[Any] = []
    for column, wanted in where.items():
        if column in kinds:
            parts.append(f"{_quoted(column)} IN ({', '.join('?' * len(wanted)) or 'NULL'})")
            values += list(wanted)
    if search:
        texts = [c for c, kind in kinds.items() if kind in ("string", "large_string")]
        parts.append("(" + (" OR ".join(f"contains(lower({_quoted(c)}), lower(?))" for c in texts) or "false") + ")")
        values += [search] * len(texts)
    return (" WHERE " + " AND ".join(parts) if parts else ""), values


def _quoted(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def training_log(run: str) -> pd.DataFrame:
    """Scalars a trainer wrote into the run's checkpoints, long form ``step, quantity, value``; empty if none are there.

    Read from the ``trainer_state.json`` with the longest history, since every checkpoint repeats the earlier ones.
    """
    states = [json.loads(p.read_text()) for p in Path(run).glob("checkpoint-*/trainer_state.json")] if run else []
    history = max((s.get("log_history", []) for s in states), key=len, default=[])
    found = [
        (entry["step"], name, float(value))
        for entry in history
        for name, value in entry.items()
        if name not in ("step", "epoch") and isinstance(value, int | float) and "step" in entry
    ]
    return pd.DataFrame(found, columns=["step", "quantity", "value"])
