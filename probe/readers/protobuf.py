"""Fields of a protocol-buffer message, read without its schema (https://protobuf.dev/programming-guides/encoding)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from probe.errors import InputError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def fields(data: object) -> Iterator[tuple[int, Any]]:
    """(number, value) of a message: an int for varints, bytes for the rest.

    Raises:
        InputError: bytes that are no message.
    """
    if not isinstance(data, bytes):
        raise InputError(f"a number ({data}) in the place of a message")
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _varint(data, at)
        elif kind == BYTES:
            length, at = _varint(data, at)
            value, at = _piece(data, at, length), at + length
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
            value, at = _piece(data, at, size), at + size
        else:
            raise InputError(f"not a protocol-buffer message (wire type {kind})")
        yield key >> 3, value


def _piece(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise InputError("not a protocol-buffer message (it ends inside a field)")
    return data[at : at + size]


def text(value: object) -> str:
    """A field of text.

    Raises:
        InputError: a number, or bytes that are not UTF-8.
    """
    if not isinstance(value, bytes):
        raise InputError(f"a number ({value}) in the place of a text")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"bytes that are no text ({error})") from error


def real(value: object, code: str) -> float:
    """A field of fixed size, by its code of `struct`.

    Raises:
        InputError: a field of another size.
    """
    if not isinstance(value, bytes) or len(value) != struct.calcsize(code):
        raise InputError("a field of another size than its number's")
    return struct.unpack(code, value)[0]


def signed(value: object) -> int:
    """An int64 as it was meant: a varint holds its two's complement.

    Raises:
        InputError: a field of another kind.
    """
    if not isinstance(value, int):
        raise InputError("bytes in the place of a number")
    return value - (1 << 64) if value >= 1 << 63 else value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        if at >= len(data):
            raise InputError("not a protocol-buffer message (it ends inside a number)")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
