"""Scalars of a TensorBoard event file, read without TensorBoard.

An event file is a row of records (length, checksum, bytes, checksum); the bytes are a protocol-buffer `Event`
of which three fields matter: step (2), summary (5) and in it value (1) with tag (1) and simple_value (2), or a
rank-0 tensor (8) as newer writers put it. https://www.tensorflow.org/tutorials/load_data/tfrecord
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from probe.errors import InputError
from probe.readers.protobuf import fields, real, signed, text


def started(file: Path) -> tuple[float, list[int | str]]:
    """When a writer opened its file (its name says: `events.out.tfevents.<seconds>.<host>.<pid>.<count>`), as a key.

    Names are compared number by number: 999 comes before 1700. A name without a time takes the first record's.
    """
    parts: list[int | str] = [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", file.name)]
    named = re.search(r"tfevents\.(\d+)", file.name)
    return (float(named[1]) if named else _first_time(file)), parts


def _first_time(file: Path) -> float:
    head = file.read_bytes()[12:40]
    return struct.unpack_from("<d", head, 1)[0] if len(head) >= 9 and head[0] == 9 else 0.0


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
    for number, value in fields(data):
        if number == 2:
            step = signed(value)
        elif number == 5:
            summaries.append(value)
    for summary in summaries:
        for number, value in fields(summary):
            if number == 1:
                tag, scalar = _value(value)
                if scalar is not None:
                    yield step, tag, scalar


def _value(data: bytes) -> tuple[str, float | None]:
    tag, scalar = "", None
    for number, value in fields(data):
        if number == 1:
            tag = text(value)
        elif number == 2 and not isinstance(value, int):
            scalar = real(value, "<f")
        elif number == 8:
            scalar = _tensor(value)
    return tag, scalar


def _tensor(data: Any) -> float | None:
    """A float32 or float64 tensor of one element: packed content (4) or float_val (5) / double_val (6)."""
    found = dict(fields(data))
    code = {1: "<f", 2: "<d"}.get(found.get(1, 0))
    if code is None:
        return None
    raw: Any = found.get(4) or found.get(5) or found.get(6)
    if not isinstance(raw, bytes) or len(raw) != struct.calcsize(code):
        return None
    return struct.unpack(code, raw)[0]
