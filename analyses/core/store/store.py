"""Content-addressed store of results: ``<root>/<analysis>/<key>/{table.parquet, arrays.nc, record.json}``.

A reader sees all of a result or nothing, and whoever writes the same key second simply finds it there. Members of
a sweep, and shards of items, live in the same form under ``<root>/.shards`` so that what was interrupted resumes;
views and listings see finished results only. The root is a folder here, or one at an fsspec URL.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

from analyses.core.lazily import pandas as pd
from analyses.core.result import Result
from analyses.core.store.files import (
    ARRAYS,
    FILES,
    KEY,
    NAME,
    RECORD,
    TABLE,
    Stack,
    Stored,
    StoreError,
    is_here,
    listed,
    place,
    read_arrays,
    replaced,
    unreadable,
    written,
)
from analyses.core.store.naming import named, prompts_of
from probe.errors import InputError

Record: TypeAlias = dict[str, Any]
"""A stored record, as JSON gives it."""

__all__ = ["SCHEMA", "Store", "StoreError"]

KINDS: Mapping[str, Any] = {
    "schema": int,
    "kind": str,
    "started": str,
    "inputs": dict,
    "options": dict,
    "warnings": list,
}
"""What parts of a record are, where they are there: a record that says other things is damaged."""

SCHEMA = 1


@dataclass(frozen=True)
class Store:
    """A folder of results."""

    root: Path

    @classmethod
    def at(cls, root: Path | str | None = None) -> Store:
        """The store in ``root`` (a folder or a URL), else in ``$PROBE_RESULTS``, else in ``./results``."""
        return cls(place(root or os.environ.get("PROBE_RESULTS") or "results"))

    @property
    def shards(self) -> Store:
        """Members of sweeps, finished or not."""
        return Store(self.root / ".shards")

    @property
    def place(self) -> str:
        """Where it is, for a command line: the whole path of a folder, a URL as it is."""
        return str(self.root.resolve())

    def state(self) -> tuple[tuple[str, int], ...]:
        """Changes when a result is added or removed.

        In a folder: every analysis with the time its list of results changed, from one look at the root. At a URL,
        where folders have no times: every result with the number of its files.
        """
        if not is_here(self.root):
            cast(Any, self.root).fs.invalidate_cache()  # else listings stay as they were first seen
            return tuple(sorted((f"{name}/{key}", len(files)) for (name, key), files in listed(self.root).items()))
        try:
            with os.scandir(self.root) as found:
                folders = [(f.name, f.stat().st_mtime_ns) for f in found if f.is_dir() and not f.name.startswith(".")]
        except FileNotFoundError:
            return ()
        return tuple(sorted(folders))

    def folder(self, name: str, key: str) -> Path:
        """Where a result lies; names and keys that could leave the store are refused."""
        if not NAME.fullmatch(name) or not KEY.fullmatch(key):
            raise InputError(f"not a result address: {name!r} / {key!r}; expected a name and 16 hex digits")
        return self.root / name / key

    def has(self, name: str, key: str) -> bool:
        """True where a whole result lies under this address."""
        return all((self.folder(name, key) / f).is_file() for f in FILES)

    def put(self, result: Result) -> Path:
        """Write ``result`` under its record's address; the folder it now lies in.

        Raises:
            StoreError: disk full or folder not writable; nothing is left half-written.
        """
        final = self.folder(result.analysis, result.key)
        if self.has(result.analysis, result.key):
            return final
        with written(final) as folder:
            _write(result, folder)
        return final

    def kept(self, result: Result) -> Result:
        """Write ``result`` and give it back as it would be read, its rows in their file; its arrays are not read again.

        Raises:
            StoreError: disk full or folder not writable.
        """
        folder = self.put(result)
        return Result(result.data, Stored(folder / TABLE), self.record(result.analysis, result.key))

    def get(self, name: str, key: str) -> Result:
        """Read a result.

        Raises:
            InputError: no such result, or one written by a newer version.
            StoreError: its files are damaged.
        """
        folder = self.folder(name, key)
        if not self.has(name, key):
            missing = [f for f in FILES if not (folder / f).is_file()]
            raise InputError(f"no whole result at {folder}: missing {', '.join(missing)}. `probe show` lists results.")
        record = self.record(name, key)
        if record.get("schema", 0) > SCHEMA:
            raise InputError(f"{folder} has schema {record['schema']}; this version reads up to {SCHEMA}: upgrade.")
        rows = Stored(folder / TABLE)
        len(rows)  # damaged files are named now, not when the rows are wanted
        return Result(read_arrays(folder / ARRAYS), rows, record)

    def drop(self, name: str, key: str) -> None:
        """Remove a result, whole or not."""
        folder: Any = self.folder(name, key)
        if is_here(folder):
            shutil.rmtree(folder, ignore_errors=True)
        elif folder.exists():
            folder.rmdir(recursive=True)

    def record(self, name: str, key: str) -> Record:
        """Provenance alone, without reading the numbers."""
        path = self.folder(name, key) / RECORD
        try:
            found = json.loads(path.read_text())
            if not isinstance(found, dict) or (found.get("analysis"), found.get("key")) != (name, key):
                raise ValueError("this is not the record of the result in this folder")
            if wrong := [n for n, kind in KINDS.items() if not isinstance(found.get(n, kind()), kind)]:
                raise ValueError(f"its {wrong[0]} is {found[wrong[0]]!r:.60}")
        except (OSError, ValueError) as error:
            raise unreadable(path, error) from error
        return found

    def records(self, name: str | None = None) -> list[Record]:
        """Records of all whole results that can be read, oldest first."""
        return self.read_records(name)[0]

    def read_records(self, name: str | None = None) -> tuple[list[Record], list[str]]:
        """(records of all whole results, oldest first; what cannot be read, a sentence each)."""
        found, problems = list[Record](), list[str]()
        for address in self.addresses():
            if name in (None, address[0]):
                try:
                    found.append(self.record(*address))
                except StoreError as error:
                    problems.append(str(error))
        return sorted(found, key=lambda r: (r.get("started", ""), r["key"])), problems

    def addresses(self) -> Iterator[tuple[str, str]]:
        """(analysis, key) of every whole result."""
        yield from sorted(address for address, files in listed(self.root).items() if files.issuperset(FILES))

    def broken(self) -> list[Path]:
        """Folders that look like results but lack files (an interrupted copy, say)."""
        return [self.folder(*address) for address, files in listed(self.root).items() if not files.issuperset(FILES)]

    def find(self, prefix: str) -> tuple[str, str]:
        """The (analysis, key) whose key, or ``analysis/key``, starts with ``prefix``.

        Raises:
            InputError: none, or more than one.
        """
        hits = [(n, k) for n, k in self.addresses() if k.startswith(prefix) or f"{n}/{k}".startswith(prefix)]
        if len(hits) != 1:
            listed = ", ".join(f"{n}/{k}" for n, k in hits[:8]) or "none"
            raise InputError(f"{prefix!r} names {len(hits)} results in {self.root} ({listed}); give one whole key.")
        return hits[0]

    def named(self, analysis: str, run: str) -> tuple[str, str]:
        """The (analysis, key) of the one result of ``analysis`` about the run of this name; a sweep before single runs.

        Raises:
            InputError: none, or more than one.
        """
        hits = named(self.records(), analysis, run)
        if not hits:
            raise InputError(f"no result of {analysis} about a run {run!r} in {self.root}; `probe show` lists what is")
        if len(hits) > 1:
            told = "; ".join(f"{r['key']} ({prompts_of(r)}) {json.dumps(r.get('options', {}))}" for r in hits)
            raise InputError(f"{len(hits)} results of {analysis} are about {run!r}; name one by its key: {told}")
        return analysis, str(hits[0]["key"])

    def query(self, sql: str) -> pd.DataFrame:
        """Rows of an SQL query: one view per analysis, and `results` and `claims` (`analyses.core.store.sql`).

        Results that are damaged are left out and named in the frame's `attrs["problems"]`.

        Raises:
            InputError: the SQL is wrong (views that exist are listed).
        """
        from analyses.core.store import sql as views

        return views.query(self, sql)

    def announce(self, key: str, state: Mapping[str, object] | None) -> None:
        """Say how far a running sweep is (``None``: it ended); read by ``running``."""
        path = self.root / ".running" / f"{key}.json"
        if state is None:
            path.unlink(missing_ok=True)
            return
        replaced(path, json.dumps({"pid": os.getpid(), "host": platform.node(), **state}))

    def running(self) -> list[Record]:
        """Sweeps under way, with ``done`` and ``total``; one whose process died on this machine is left out."""
        states = [json.loads(p.read_text()) for p in sorted((self.root / ".running").glob("*.json"))]
        return [s for s in states if s["host"] != platform.node() or _alive(s["pid"])]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, but there
        return True
    return True


def _write(result: Result, folder: Path) -> None:
    rows = folder / TABLE
    result.rows.write(rows) if isinstance(result.rows, Stack) else result.table.to_parquet(rows, index=False)
    # Through memory: HDF5 itself crashes the process where the disk is full.
    (folder / ARRAYS).write_bytes(bytes(result.data.to_netcdf(engine="h5netcdf")))
    (folder / RECORD).write_text(json.dumps(result.record, indent=1, sort_keys=True))
