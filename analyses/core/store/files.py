"""Files of one result: in a folder here or at a URL, a table read when it is asked for, tables of a sweep stacked.

A sweep's table is as large as all its members' together. It is stacked from file to file, one member in memory at a
time, and stays in its file until somebody wants the rows.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from analyses.core.lazily import pandas as pd
from analyses.core.lazily import parquet as pq
from analyses.core.lazily import pyarrow as pa
from analyses.core.lazily import xarray as xr
from probe.errors import InputError, ProbeError

TABLE, ARRAYS, RECORD = FILES = ("table.parquet", "arrays.nc", "record.json")  # the last says the others are whole
KEY = re.compile(r"[0-9a-f]{16}")
NAME = re.compile(r"[a-z][a-z0-9_]*")


class StoreError(ProbeError):
    """A result could not be written or read."""


@dataclass(frozen=True)
class Stored:
    """The rows of a stored result, read when called."""

    path: Path

    def __call__(self) -> pd.DataFrame:
        """The frame.

        Raises:
            StoreError: the file is damaged or gone.
        """
        with readable(self.path) as file:
            return pd.read_parquet(file)

    def __len__(self) -> int:
        """Number of rows, from the file's footer (which a file cut short does not have).

        Raises:
            StoreError: the file is damaged or gone.
        """
        with readable(self.path) as file:
            return pq.read_metadata(file).num_rows


@dataclass(frozen=True)
class Stack:
    """Rows of several stored results, each with columns (its steps) put before its own."""

    parts: tuple[tuple[Mapping[str, int], Stored], ...]

    def __call__(self) -> pd.DataFrame:
        """One frame of all."""
        return pd.concat([labelled(part(), at) for at, part in self.parts], ignore_index=True)

    def __len__(self) -> int:
        """Number of rows of all."""
        return sum(len(part) for _, part in self.parts)

    def write(self, path: Path) -> None:
        """The same rows as one Parquet file, one part in memory at a time; a column some part lacks is null there."""
        schema = pa.unify_schemas([_schema(at, part) for at, part in self.parts], promote_options="permissive")
        with pq.ParquetWriter(path, schema) as writer:
            for at, part in self.parts:
                writer.write_table(_cast(_arrow(at, part), schema))


def labelled(frame: pd.DataFrame, at: Mapping[str, int]) -> pd.DataFrame:
    """The rows with their steps as first columns."""
    return frame.assign(**at)[[*at, *[c for c in frame.columns if c not in at]]]


def _arrow(at: Mapping[str, int], part: Stored) -> pa.Table:
    with readable(part.path) as file:
        table = pq.read_table(file).replace_schema_metadata(None)
    for name in (n for n in at if n in table.column_names):
        table = table.drop_columns(name)
    for place, (name, value) in enumerate(at.items()):
        table = table.add_column(place, name, pa.array([value] * len(table), pa.int64()))
    return table


def _schema(at: Mapping[str, int], part: Stored) -> pa.Schema:
    with readable(part.path) as file:
        found = [f for f in pq.read_schema(file).remove_metadata() if f.name not in at]
    plain = [pa.field(f.name, f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in found]
    return pa.schema([pa.field(name, pa.int64()) for name in at] + plain)


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        table[f.name].cast(f.type) if f.name in table.column_names else pa.nulls(len(table), f.type) for f in schema
    ]
    return pa.table(columns, schema=schema)


def place(root: Path | str) -> Path:
    """A folder here, or one at an fsspec URL (`s3://bucket/results`) with the same methods.

    Raises:
        InputError: a URL without the packages that read it.
    """
    if "://" not in str(root):
        return Path(root).expanduser()
    try:
        from upath import UPath

        found: Any = UPath(str(root))
        assert found.fs is not None  # looks up the file system's own package
    except (ImportError, ValueError) as error:
        raise InputError(
            f"results at {root}: {error}. URLs need `pip install 'posttrain-probe[remote]'` and the file system's own "
            "package (s3fs, gcsfs, adlfs ...)."
        ) from error
    return found


def is_here(path: Path) -> bool:
    """True for a folder of this machine's file system."""
    return isinstance(path, Path)


def listed(root: Path) -> dict[tuple[str, str], set[str]]:
    """Names of the files in every folder that looks like a result, by (analysis, key).

    At a URL, where every look is a request, one look at the root and one at each analysis.
    """
    if is_here(root):
        folders = {(p.parent.name, p.name): p for p in root.glob("*/*")}
        return {address: _names_in(p) for address, p in folders.items() if _is_address(*address)}
    found: dict[tuple[str, str], set[str]] = {}
    files, top = cast(Any, root).fs, cast(Any, root).path
    try:
        folders = files.ls(top, detail=False)
    except FileNotFoundError:
        return {}
    for folder in (f for f in folders if NAME.fullmatch(f.rstrip("/").rpartition("/")[2])):
        for path in files.find(folder):
            *_, name, key, file = path.split("/")
            if _is_address(name, key):
                found.setdefault((name, key), set()).add(file)
    return found


def _is_address(name: str, key: str) -> bool:
    return bool(NAME.fullmatch(name) and KEY.fullmatch(key))


def _names_in(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):  # removed by somebody since it was listed
        return set()


@contextmanager
def readable(path: Path) -> Iterator[Path]:
    """A file as one of this machine: itself, or a copy for as long as it is read.

    Raises:
        StoreError: it is damaged or gone.
    """
    try:
        if is_here(path):
            yield path
            return
        with tempfile.NamedTemporaryFile(suffix=path.name) as copy:
            copy.write(path.read_bytes())
            copy.flush()
            yield Path(copy.name)
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path | str, error: Exception) -> StoreError:
    """The error of a file of a result that is damaged or gone, with what to do."""
    return StoreError(f"{path} cannot be read ({error}); delete its folder and run again.")


def read_arrays(path: Path) -> xr.Dataset:
    """The arrays of a result, in memory."""
    with readable(path) as file:
        try:
            with xr.open_dataset(file, engine="h5netcdf") as data:
                return data.load()
        except (KeyError, RuntimeError, TypeError, AttributeError, IndexError, NotImplementedError) as error:
            raise unreadable(path, error) from error  # HDF5 damaged in its middle


@contextmanager
def written(final: Path) -> Iterator[Path]:
    """A folder to write into; afterwards all of it lies at `final`, or nothing does.

    Here it is one rename. At a URL files go up one by one, and one result counts as there with its last file.

    Raises:
        StoreError: disk full or folder not writable; nothing is left half-written.
    """
    with explained(final):
        if is_here(final):
            final.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent if is_here(final) else None))
        temporary.chmod(0o755)  # mkdtemp makes it private; a store is often shared
        try:
            yield temporary
            _publish(temporary, final) if is_here(final) else _send(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary: Path, final: Path) -> None:
    try:
        temporary.rename(final)
    except OSError as error:
        # Somebody else wrote the same content first: theirs is as good as ours.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _send(temporary: Path, final: Path) -> None:
    final.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (final / name).write_bytes((temporary / name).read_bytes())


def replaced(path: Path, text: str) -> None:
    """Write a small file that somebody may be reading: its old text or its new one is found there.

    Raises:
        StoreError: disk full or folder not writable.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not is_here(path):
            path.write_text(text)  # an object is replaced as a whole
            return
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(text)
        temporary.replace(path)


@contextmanager
def explained(target: Path) -> Iterator[None]:
    """Errors of the file system in words, with what to do."""
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOSPC: "the disk is full: free some space and run the same command again; finished parts are kept",
            errno.EACCES: "no write rights: choose another folder with --results",
            errno.EROFS: "the file system is read-only: choose another folder with --results",
        }
        reason = advice.get(error.errno or 0, str(error))
        raise StoreError(f"cannot write {target}: {reason}.") from error
