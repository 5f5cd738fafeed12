"""Rows of tables: files, datasets by name, tables in memory. What the columns mean is decided in `prompts`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from probe.errors import InputError

Row = Mapping[str, Any]


def file_rows(file: Path) -> list[Row]:
    """Rows of a JSONL, JSON, CSV, TSV or Parquet file.

    Raises:
        InputError: an empty or malformed line (its number), a row that is no object.
    """
    if file.suffix in (".csv", ".tsv", ".parquet"):
        return _table_rows(file)
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 text ({error}); expected JSONL or JSON") from error
    if file.suffix != ".jsonl" and text.lstrip().startswith("["):
        return _json_list(file, text)
    rows: list[Row] = []
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        row = _json(line, f"{file}, line {number}")
        if not isinstance(row, dict):
            raise InputError(f"{file}, line {number}: expected a JSON object with a prompt; got {line[:60]!r}")
        rows.append(cast("dict[str, Any]", row))
    return rows


def _json_list(file: Path, text: str) -> list[Row]:
    rows = _json(text, str(file))
    bad = [n for n, row in enumerate(rows) if not isinstance(row, dict)]
    if bad:
        raise InputError(f"{file}: element {bad[0]} of the list is not an object; expected one per prompt")
    return cast("list[Row]", rows)


def _json(text: str, where: str) -> Any:
    if not text.strip():
        raise InputError(f"{where}: empty; expected one JSON object per line")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: malformed JSON ({error.msg}: column {error.colno}; cut off?)") from error


def _table_rows(file: Path) -> list[Row]:
    import pandas as pd
    import pyarrow as pa

    try:
        if file.suffix == ".parquet":
            return memory_rows(pd.read_parquet(file), str(file))
        # Text stays text: "007" is not 7, and an empty cell is an empty answer, not NaN.
        sep = "\t" if file.suffix == ".tsv" else ","
        return memory_rows(pd.read_csv(file, dtype=str, keep_default_na=False, sep=sep), str(file))
    except (pd.errors.ParserError, pd.errors.EmptyDataError, pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not a readable table ({error})") from error


def memory_rows(rows: Any, source: str) -> list[Row]:
    """Rows of a sequence of mappings, a pandas or polars frame, a pyarrow table or a `datasets` dataset."""
    kind = type(rows).__module__.partition(".")[0]
    if kind == "pandas":
        listed: list[Any] = rows.to_dict("records")
    elif kind == "polars":
        listed = rows.to_dicts()
    elif kind == "pyarrow":
        listed = rows.to_pylist()
    else:
        listed = list(rows)
    bad = next((n for n, row in enumerate(listed) if not isinstance(row, Mapping)), None)
    if bad is not None:
        raise InputError(f"{source}, row {bad + 1}: expected a mapping of columns; got {type(listed[bad]).__name__}")
    return [{str(k): v for k, v in row.items()} for row in listed]


def dataset_rows(text: str) -> list[Row]:
    """Rows of `hf:NAME[:CONFIG]:SPLIT` through the `datasets` library (its cache and offline mode included).

    Raises:
        InputError: no such dataset, configuration or split, or not in the cache while offline.
    """
    parts = text.removeprefix("hf:").split(":")
    if len(parts) not in (2, 3) or not all(parts):
        raise InputError(f"{text!r}; expected hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT, e.g. hf:openai/gsm8k:main:test")
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    name, config, split = parts[0], parts[1] if len(parts) == 3 else None, parts[-1]
    try:
        return memory_rows(load_dataset(name, config, split=split), text)
    except (DatasetNotFoundError, DatasetsError, FileNotFoundError, ConnectionError, ValueError) as error:
        raise InputError(f"{text}: datasets cannot load it: {str(error).splitlines()[0]}") from error
