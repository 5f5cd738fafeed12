"""Scalars of a TensorBoard event file, read without TensorBoard.

An event file is a row of records (length, checksum, bytes, checksum); the bytes are a protocol-buffer `Event`
of which three fields matter: step (2), summary (5) and in it value (1) with tag (1) and simple_value (2), or a
rank-0 tensor (8) as newer writers put it. https://www.tensorflow.org/tutorials/load_data/tfrecord
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from probe.errors import InputError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def scalars(file: Path) -> Iterator[tuple[int, str, float]]:
    """(step, tag, value) of every scalar, in the order of the file.

    Raises:
        InputError: a record cut short (a truncated file), or not an event file.
    """
    data = file.read_bytes()
    at = 0
    while at < len(data):
        if at + 12 > len(data) or at + 16 + struct.unpack_from("<Q", data, at)[0] > len(data):
            raise InputError(f"{file}: truncated, or not a TensorBoard event file (record at byte {at})")
        (length,) = struct.unpack_from("<Q", data, at)
        yield from _event(data[at + 12 : at + 12 + length])
        at += 16 + length


def _event(data: bytes) -> Iterator[tuple[int, str, float]]:
    step, summaries = 0, []
    for number, value in _fields(data):
        if number == 2:
            step = int(value)
        elif number == 5:
            summaries.append(value)
    for summary in summaries:
        for number, value in _fields(summary):
            if number == 1:
                tag, scalar = _value(value)
                if scalar is not None:
                    yield step, tag, scalar


def _value(data: bytes) -> tuple[str, float | None]:
    tag, scalar = "", None
    for number, value in _fields(data):
        if number == 1:
            tag = bytes(value).decode()
        elif number == 2 and not isinstance(value, int):
            scalar = struct.unpack("<f", value)[0]
        elif number == 8:
            scalar = _tensor(value)
    return tag, scalar


def _tensor(data: Any) -> float | None:
    """A float32 or float64 tensor of one element: packed content (4) or float_val (5) / double_val (6)."""
    fields = dict(_fields(data))
    code = {1: "<f", 2: "<d"}.get(fields.get(1, 0))
    if code is None:
        return None
    raw: Any = fields.get(4) or fields.get(5) or fields.get(6)
    if not isinstance(raw, bytes) or len(raw) != struct.calcsize(code):
        return None
    return struct.unpack(code, raw)[0]


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a message: an int for varints, bytes for the rest."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
        elif kind == _BYTES:
            length, at = _varint(data, at)
            value, at = data[at : at + length], at + length
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
            value, at = data[at : at + size], at + size
        else:
            raise InputError(f"not a TensorBoard event (wire type {kind})")
        yield key >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
