"""Rows of tables: files, datasets by name, tables in memory. What the columns mean is decided in `prompts`."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from probe.errors import InputError
from probe.readers.lines import json_objects, parsed, text_of

Row = Mapping[str, Any]


class Line(dict[str, Any]):
    """A row that knows its line in the file, for what is said of it later."""

    def __init__(self, row: Mapping[str, object], number: int) -> None:
        super().__init__(row)
        self.number = number


def file_rows(file: Path) -> list[Row]:
    """Rows of a JSONL, JSON, CSV, TSV or Parquet file.

    Blank lines and a byte order mark are passed over; only a line feed ends a line of JSONL, so a text may hold every
    other separator that Unicode knows.

    Raises:
        InputError: a malformed line (its number), a row that is no object, a row with more or fewer fields than the
            header, half a character (a lone surrogate).
    """
    if file.suffix in (".csv", ".tsv"):
        return csv_rows(file, "\t" if file.suffix == ".tsv" else ",")
    if file.suffix == ".parquet":
        return _parquet_rows(file)
    text = text_of(file)
    if file.suffix != ".jsonl" and text.lstrip().startswith("["):
        return _json_list(file, text)
    rows: list[Row] = [Line(row, number) for number, row in json_objects(file, "a JSON object with a prompt")]
    if not rows:
        raise InputError(f"{file}, line 1: empty; expected one JSON object per line")
    return rows


def csv_rows(file: Path, separator: str = ",") -> list[Row]:
    """Rows of a CSV file, every cell as its text: 007 stays 007, 1e3 stays 1e3, an empty cell is "".

    Raises:
        InputError: no header, a column named twice, a row with more or fewer fields than the header (its line).
    """
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text_of(file), newline=""), delimiter=separator, strict=True)
    try:
        header = next(reader, [])
        if not any(header):
            raise InputError(f"{file}: not a readable table (no header); expected the columns' names in its first line")
        twice = [name for name in header if header.count(name) > 1]
        if twice:
            raise InputError(f"{file}: two columns are named {twice[0]!r}; name each once")
        listed = [(_as_wide(row, header, f"{file}, line {reader.line_num}"), reader.line_num) for row in reader if row]
    except csv.Error as error:
        place = f"{file}, line {reader.line_num}"
        raise InputError(f"{place}: not a readable table ({error}; a quote left open?)") from error
    return [Line(dict(zip(header, row, strict=True)), number) for row, number in listed]


def _as_wide(row: list[str], header: list[str], where: str) -> list[str]:
    if len(row) != len(header):
        raise InputError(
            f"{where}: {len(row)} fields, but the header names {len(header)}; put quotes around a text that holds a "
            "separator, and name every column"
        )
    return row


def _parquet_rows(file: Path) -> list[Row]:

    try:
        return memory_rows(pq.read_table(file), str(file))
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not a readable table ({error})") from error


def _json_list(file: Path, text: str) -> list[Row]:
    rows = parsed(text, str(file))
    bad = [n for n, row in enumerate(rows) if not isinstance(row, dict)]
    if bad:
        raise InputError(f"{file}: element {bad[0]} of the list is not an object; expected one per prompt")
    return cast("list[Row]", rows)


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
    return [row if isinstance(row, Line) else {str(k): v for k, v in row.items()} for row in listed]


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
    if (Path(name) / "dataset_dict.json").is_file() or (Path(name) / "state.json").is_file():
        return _from_disk(name, split, text)
    try:
        return memory_rows(load_dataset(name, config, split=split), text)
    except (DatasetNotFoundError, DatasetsError, FileNotFoundError, ConnectionError, ValueError) as error:
        raise InputError(f"{text}: datasets cannot load it: {str(error).splitlines()[0]}") from error


def _from_disk(folder: str, split: str, text: str) -> list[Row]:
    """Rows of what `save_to_disk` wrote: one split, or a dictionary of them."""
    from datasets import DatasetDict, load_from_disk

    saved = load_from_disk(folder)
    if isinstance(saved, DatasetDict):
        if split not in saved:
            raise InputError(f"{text}: no split {split!r} in {folder}; there are: {', '.join(map(str, saved))}")
        saved = saved[split]
    return memory_rows(saved, text)
