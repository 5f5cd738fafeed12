"""Rollout logs as they lie on disk: this toolkit's own Parquet, opened lazily, and what trainers write themselves.

Parquet in the log's own columns is opened lazily; text logs and dumps (`probe.readers.writers`) are small and read
whole. Rows written twice are taken once (`probe.readers.repeats`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from probe.errors import InputError
from probe.readers.areal import areal_rows, dumps_in
from probe.readers.lines import json_objects
from probe.readers.writers import FOLDER_STEP, flat_row, one_type_each, renamed, slime_rows

SUFFIXES = (".parquet", ".jsonl", ".pt", ".txt")
FILE = "log_file"  # a column of rows read into memory that is no part of their content


def open_log(path: str | Path | Sequence[str | Path]) -> tuple[pads.Dataset, str]:
    """The rows at a path (or a list of paths) as one dataset, and the path as text.

    Raises:
        InputError: nothing there, a truncated or foreign file (named), columns that differ in type.
    """
    paths = [Path(p) for p in ([path] if isinstance(path, (str, Path)) else path)]
    files = [f for p in paths for f in _files(p)]
    source = str(paths[0]) if len(paths) == 1 else f"{len(paths)} files from {paths[0]}"
    kinds = {f.suffix for f in files}
    if len(kinds) > 1:
        raise InputError(f"{source}: {' and '.join(sorted(kinds))} files side by side; give the files of one log")
    if kinds == {".jsonl"}:
        return _in_memory([_jsonl(f) for f in files], files), source
    if kinds in ({".pt"}, {".txt"}):
        read = slime_rows if kinds == {".pt"} else areal_rows
        return _in_memory([read(f) for f in files], files), source
    schema = _one_schema(files, source)
    if "response_token_ids" in schema.names or "response_text" in schema.names:
        return pads.dataset([str(f) for f in files], schema=schema, format="parquet"), source
    return _in_memory([renamed(pq.read_table(f), f) for f in files], files), source


def _in_memory(tables: Sequence[pa.Table], files: Sequence[Path]) -> pads.Dataset:
    """One dataset of tables; a column says which file each row is from, as Parquet datasets do by themselves."""
    named = [t.append_column(FILE, pa.array([str(f)] * t.num_rows)) for t, f in zip(tables, files, strict=True)]
    return pads.dataset(pa.concat_tables(named, promote_options="permissive"))


def _files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise InputError(f"{path}: not a rollout log; expected {', '.join(SUFFIXES)}, or a folder of them")
        return [path]
    # A recorder's scratch file starts with a dot: a run that was killed leaves whole files only.
    found = [f for f in path.glob("*") if f.suffix in SUFFIXES[:-1] and not f.name.startswith(".")]
    if not found:
        for inner in ("rollouts", "completions"):
            if (path / inner).is_dir():
                return _files(path / inner)
        found = [
            f
            for folder in path.glob("*")
            if FOLDER_STEP.fullmatch(folder.name)
            for f in folder.glob("*.jsonl")
            if "rollout" in f.name or folder.name.endswith("_evals")
        ] or dumps_in(path)
    if not found:
        raise InputError(f"no rollout log at {path}; expected {', '.join(SUFFIXES)} files, or a folder of them")
    return sorted(found, key=lambda f: (len(f.parent.name), f.parent.name, len(f.stem), f.name))


def _one_schema(files: Sequence[Path], source: str) -> pa.Schema:
    schemas: dict[Path, pa.Schema] = {}
    broken: dict[Path, str] = {}
    for file in files:
        try:
            schemas[file] = pq.read_schema(file)
        except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
            broken[file] = str(error).splitlines()[0]
    if broken:
        named = "; ".join(f"{f.name} ({why})" for f, why in broken.items())
        raise InputError(
            f"{source}: truncated or not Parquet: {named}. The other {len(schemas)} file(s) are whole: remove or "
            "copy the broken one again, or give the whole files as a list (nothing was changed)."
        )
    try:
        return pa.unify_schemas([s.remove_metadata() for s in schemas.values()], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"{source}: files whose columns differ in type cannot be one log: {error}") from error


def _jsonl(file: Path) -> pa.Table:
    found = list(json_objects(file, "one JSON object per response"))
    if not found:
        raise InputError(f"{file}: empty; expected one JSON object per response")
    flat = one_type_each([flat_row(row, f"{file}, line {number}") for number, row in found], file)
    names = list(dict.fromkeys(name for row in flat for name in row))
    try:
        table = pa.table({name: [row.get(name) for row in flat] for name in names})
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise InputError(f"{file}: a column holds values of several kinds: {str(error).splitlines()[0]}") from error
    return renamed(table, file)
