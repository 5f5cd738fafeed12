"""What lies in one stored result, read as far as it is asked for: its claim, its names, rows that match.

The only reader of a result's files beside `Store` itself, at a URL as in a folder. Results are content-addressed and
never change, so whatever is read once under a key may be kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, cast

from analyses.core import claim
from analyses.core.claim import Claim
from analyses.core.lazily import duckdb, h5py, parquet
from analyses.core.lazily import pandas as pd
from analyses.core.store.files import ARRAYS, TABLE, StoreError, is_here, readable, unreadable
from analyses.core.store.store import Store
from probe.errors import InputError


class Placed(Protocol):
    """A stored result by its address."""

    @property
    def root(self) -> Path: ...
    @property
    def analysis(self) -> str: ...
    @property
    def key(self) -> str: ...


@lru_cache(maxsize=20_000)
def claims(root: Path, name: str, key: str) -> tuple[Claim, ...]:
    """What a result claims, as data; read from its record, not from its arrays.

    Args:
        root: folder or URL of the store.
        name: the analysis.
        key: the result's key.

    Raises:
        StoreError: the record is damaged or gone.
    """
    try:
        return tuple(claim.from_json(c) for c in Store(root).record(name, key).get("claims", []))
    except InputError as error:
        raise StoreError(str(error)) from error


@lru_cache(maxsize=20_000)
def verdict(root: Path, name: str, key: str) -> str:
    """The claims of a result in words, "" where it makes none; an older result's lie in one attribute.

    Args:
        root: folder or URL of the store.
        name: the analysis.
        key: the result's key.

    Raises:
        StoreError: a file is damaged or gone.
    """
    if said := claim.text(claims(root, name, key)):
        return said
    with _arrays(root, name, key) as file:
        found = file.attrs.get("verdict", "")
    return found.decode() if isinstance(found, bytes) else str(found)


@lru_cache(maxsize=20_000)
def array_names(root: Path, name: str, key: str) -> frozenset[str]:
    """Names of a result's variables and dims, without reading its numbers.

    Args:
        root: folder or URL of the store.
        name: the analysis.
        key: the result's key.

    Raises:
        StoreError: the file is damaged or gone.
    """
    with _arrays(root, name, key) as file:
        return frozenset(map(str, file))


@lru_cache(maxsize=20_000)
def table_columns(root: Path, name: str, key: str) -> dict[str, str]:
    """Columns of a result's table with their kinds, without reading its rows.

    Args:
        root: folder or URL of the store.
        name: the analysis.
        key: the result's key.

    Raises:
        StoreError: the file is damaged or gone.
    """
    with readable(Store(root).folder(name, key) / TABLE) as file:
        schema = parquet.read_schema(file)
    return {field.name: str(field.type) for field in schema}


def table_bytes(of: Placed) -> bytes:
    """A result's table as the Parquet file it is.

    Raises:
        StoreError: the file is damaged or gone.
    """
    with readable(Store(of.root).folder(of.analysis, of.key) / TABLE) as file:
        return file.read_bytes()


@contextmanager
def _arrays(root: Path, name: str, key: str) -> Iterator[Any]:
    with readable(Store(root).folder(name, key) / ARRAYS) as path, h5py.File(path) as file:
        yield file


def rows(
    of: Placed,
    *,
    where: Mapping[str, Sequence[object]] | None = None,
    search: str = "",
    columns: Sequence[str] | None = None,
    limit: int = 1000,
    distinct: bool = False,
) -> tuple[pd.DataFrame, int]:
    """(the first ``limit`` rows of a table that match, how many match); reads the columns it needs.

    Args:
        of: the result.
        where: column -> values wanted; columns the table does not have are ignored.
        search: text to be found in any text column, letter case ignored.
        columns: columns to read; all by default.
        limit: rows returned at most.
        distinct: each combination of ``columns`` once (the count stays that of rows).

    Raises:
        StoreError: the file is damaged or gone.
    """
    path = str(Store(of.root).folder(of.analysis, of.key) / TABLE)
    kinds = table_columns(of.root, of.analysis, of.key)
    condition, values = _condition(kinds, where or {}, search)
    wanted = ", ".join(_quoted(c) for c in columns or kinds if c in kinds) or "*"
    read = f"{'DISTINCT ' if distinct else ''}{wanted} FROM read_parquet(?){condition} LIMIT {int(limit)}"
    cursor = _duckdb(None if is_here(of.root) else cast(Any, of.root).fs).cursor()
    try:
        count = cursor.execute(f"SELECT count(*) FROM read_parquet(?){condition}", [path, *values]).fetchone()
        frame = cursor.execute(f"SELECT {read}", [path, *values]).df()
    except duckdb.Error as error:
        raise unreadable(path, error) from error
    return frame, int(count[0]) if count else 0


@lru_cache(maxsize=8)
def _duckdb(files: Any) -> Any:
    """One database in memory per file system (None: this machine's); every read takes a cursor of its own."""
    made = duckdb.connect(config={"threads": 2, "memory_limit": "200MB"})
    if files is not None:
        made.register_filesystem(files)
    return made


def _condition(kinds: Mapping[str, str], where: Mapping[str, Sequence[object]], search: str) -> tuple[str, list[Any]]:
    parts: list[str] = []
    values: list[object] = []
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
