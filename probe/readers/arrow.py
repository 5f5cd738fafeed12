"""Arrow tables of responses as frames: tokens, the index of responses, content hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute

from probe.errors import InputError
from probe.readers.lists import flat, is_list, lengths
from probe.readers.schema import COLUMNS, FLOATS
from probe.readers.segments import check_segments

Array = np.ndarray
pc: Any = pyarrow.compute  # its functions are made at import: no stub knows them
PLACES = ("step", "item", "group", "group_uid", "sample")


def token_frame(rows: pd.DataFrame, table: pa.Table, columns: Sequence[str]) -> pd.DataFrame:
    """Masked-in response tokens of a window as a long frame; `response` is the row of the window.

    Args:
        rows: the window's rows of the index.
        table: a window of the log.
        columns: columns per token (or per response) that are put beside.
    """
    counts = lengths(table, "response_token_ids")
    response = np.repeat(np.arange(len(rows)), counts)
    out: dict[str, object] = {"response": response}
    for name in PLACES:
        out[name] = rows[name].to_numpy()[response]
    out["pos"] = np.arange(len(response)) - np.repeat(np.cumsum(counts) - counts, counts)
    out["token_id"] = flat(table, "response_token_ids").astype(np.int64)
    for name in columns:
        if name in table.column_names and name not in out:
            out[name] = per_token(table, name, counts)
    frame = pd.DataFrame(out)
    if "response_mask" not in table.column_names:
        return frame
    return frame[per_token(table, "response_mask", counts).astype(bool)].reset_index(drop=True)


def per_token(table: pa.Table, name: str, counts: Array) -> Array:
    """A column's value at every token of responses of these lengths; NaN where a response has none.

    Args:
        table: a window of the log.
        name: the column.
        counts: tokens of each response.
    """
    if not is_list(table[name].type):
        return np.repeat(table[name].to_numpy(), counts)
    own = lengths(table, name)
    if (own == counts).all():
        return flat(table, name)
    out = np.full(int(counts.sum()), np.nan)
    out[np.repeat(own >= 0, counts)] = flat(table, name)
    return out


def index_rows(table: pa.Table, start: int, source: str) -> pd.DataFrame:
    """One row per response: row, step, item, group, group_uid, n_prompt, n_response, n_tokens, digest.

    Args:
        table: a window of the log.
        start: number of its first row in the log.
        source: name of the log, for errors.

    Raises:
        InputError: a row without step or ids, or lists that do not share the response's length (named).
    """
    n, names = table.num_rows, set(table.column_names)
    rows = pd.DataFrame({"row": np.arange(start, start + n), "step": _steps(table, start, source)})
    rows["item"] = _texts(table, "prompt_id", source) if "prompt_id" in names else _named(table, source)
    rows["group_uid"] = _texts(table, "group_uid", source) if "group_uid" in names else rows["item"]
    rows["group"] = _texts(table, "group", source) if "group" in names else rows["group_uid"]
    where = [f"{source}, row {start + i} (prompt_id {p})" for i, p in enumerate(rows["item"])]
    rows["n_prompt"] = _own_lengths(table, "prompt_token_ids", where) if "prompt_token_ids" in names else -1
    rows["n_response"] = -1
    rows["n_tokens"] = -1
    if "response_token_ids" in names:
        counts = _own_lengths(table, "response_token_ids", where)
        _check_lengths(table, counts, where)
        rows["n_response"] = counts
        rows["n_tokens"] = counts
        if "response_mask" in names:
            inside = per_token(table, "response_mask", counts).astype(float)
            rows["n_tokens"] = np.bincount(np.repeat(np.arange(n), counts), inside, n).astype(np.int64)
        check_segments(table, counts, where)
        _check_finite(table, where)
    rows["digest"] = row_digests(table)
    return rows


def _steps(table: pa.Table, start: int, source: str) -> Array:
    column = table["step"]
    if column.null_count:
        gone = (np.flatnonzero(column.is_null().to_numpy())[:5] + start).tolist()
        raise InputError(f"{source}: no step in row(s) {gone}; every response needs the step it was sampled at")
    try:
        return column.cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid as error:
        raise InputError(f"{source}: column 'step' is not whole numbers ({error})") from error


def _texts(table: pa.Table, name: str, source: str) -> list[str]:
    if table[name].null_count:
        gone = np.flatnonzero(table[name].is_null().to_numpy())[:5].tolist()
        raise InputError(f"{source}: {name} is null in row(s) {gone}; every response needs one")
    return [str(v) for v in table[name].to_pylist()]


def _named(table: pa.Table, source: str) -> list[str]:
    """Prompts without an id are named by a hash of their text."""
    if "prompt_text" not in table.column_names:
        raise InputError(f"{source}: no prompt_id and no prompt_text; something must name a response's prompt")
    return [hashlib.sha256(v.encode()).hexdigest()[:12] for v in _texts(table, "prompt_text", source)]


def _own_lengths(table: pa.Table, name: str, where: Sequence[str]) -> Array:
    if not is_list(table[name].type):
        raise InputError(f"{where[0]}: {name} is {table[name].type}; expected a list of token ids")
    counts = lengths(table, name)
    if (counts < 0).any():
        raise InputError(f"{where[int(np.argmax(counts < 0))]}: {name} is null; every response needs its ids")
    return counts


def _check_lengths(table: pa.Table, counts: Array, where: Sequence[str]) -> None:
    for name, shape in COLUMNS.items():
        if name not in table.column_names or name == "response_token_ids":
            continue
        listed = is_list(table[name].type)
        if shape == "token" and not listed and not pa.types.is_null(table[name].type):
            raise InputError(f"{where[0]}: {name} is {table[name].type}; expected a list over the response's tokens")
        if not listed or not (shape == "token" or name == "advantage"):
            continue
        own = lengths(table, name)
        off = np.flatnonzero((own != counts) & ((own >= 0) | (name in ("response_mask", "advantage"))))
        if len(off):
            first = int(off[0])
            raise InputError(
                f"{where[first]}: {name} has {max(0, int(own[first]))} entries for {counts[first]} response tokens "
                f"({len(off)} such row(s) near it); lists must share the response's length"
            )


def _check_finite(table: pa.Table, where: Sequence[str]) -> None:
    """Raise where a number per token is infinite: no sampled token has a log-prob of -inf (NaN is "not measured")."""
    for name in FLOATS:
        if name not in table.column_names or not is_list(table[name].type):
            continue
        endless = np.isinf(flat(table, name).astype(float))
        if endless.any():
            row = np.repeat(np.arange(table.num_rows), np.maximum(lengths(table, name), 0))[endless]
            raise InputError(
                f"{where[int(row[0])]}: {name} is infinite at {int(endless.sum())} token(s) of "
                f"{len(set(row.tolist()))} row(s); what was sampled has a finite log-prob: give NaN where it was not "
                "measured"
            )


def row_digests(table: pa.Table) -> Array:
    """A 64-bit content hash per row over all columns, equal for equal rows wherever they stand."""
    total = np.zeros(table.num_rows, np.uint64)
    for name in sorted(table.column_names):
        column = table[name].combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # zero rows
            return total
        total += _mix(_digests(column) ^ np.uint64(_text_hash(name)))
    return total


def _digests(array: Any) -> Array:
    kind = array.type
    if pa.types.is_null(kind):
        return np.zeros(len(array), np.uint64)
    if is_list(kind) and not pa.types.is_map(kind):
        return _list_digests(array)
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        # A number hashes alike whether it was stored as float32 or float64, int32 or int64.
        numbers = pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        return _mix(np.where(numbers == 0, 0.0, numbers).view(np.uint64))
    return np.array([_text_hash(repr(v)) for v in array.to_pylist()], np.uint64)


def _list_digests(array: Any) -> Array:
    counts = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    values = _digests(array.flatten())
    starts = np.cumsum(counts) - counts
    place = (np.arange(len(values)) - np.repeat(starts, counts)).astype(np.uint64)
    mixed = _mix(values + place * np.uint64(0x9E3779B97F4A7C15))
    running = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)])
    return running[starts + counts] - running[starts] + counts.astype(np.uint64)


def _mix(x: Array) -> Array:
    """SplitMix64's finalizer: a bijection of 64-bit numbers that spreads every bit (arrays wrap silently)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _text_hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
