"""The history of a W&B run from the file it leaves on disk (`run-<id>.wandb`), read without W&B.

The file is a LevelDB log (https://github.com/google/leveldb/blob/main/doc/log_format.md): seven bytes of W&B's own,
then blocks of 32,768 bytes with pieces of records (checksum, length, kind, bytes). A record is a protocol-buffer
`Record`; field 2 is one call of `log`: items (1) with a key (1) or a nested key (2) and the value as JSON (16) or,
since 2026, as itself (4-8), and the number of the call (2).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from probe.errors import InputError
from probe.readers.lines import parsed
from probe.readers.protobuf import fields, real, signed, text

MAGIC = b":W&B"
_BLOCK, _HEAD = 32768, 7
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def history(file: Path) -> Iterator[dict[str, object]]:
    """One dict per call of `log`, in order: scalars by name and `_step`, the number of the call.

    A record that the file ends in (a run that is still going, or was killed) is not there yet.

    Raises:
        InputError: not such a file.
    """
    data = file.read_bytes()
    if not data.startswith(MAGIC):
        raise InputError(f"{file}: not a W&B run file; export the run's history as CSV and give that")
    try:
        for record in _records(data):
            for number, value in fields(record):
                if number == 2:
                    yield _call(value)
    except InputError as error:
        raise InputError(
            f"{file}: damaged, or of a version of W&B that this toolkit does not know ({error}); run `wandb sync` and "
            "export the run's history as CSV"
        ) from error


def _records(data: bytes) -> Iterator[bytes]:
    at, parts = _HEAD, b""
    while at + _HEAD <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEAD:  # padding at the end of a block
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        piece = data[at + _HEAD : at + _HEAD + length]
        if len(piece) < length:
            return
        if kind == 0 and length == 0:
            at += left
            continue
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST):
            raise InputError(f"a piece of kind {kind} at byte {at}")
        parts = piece if kind in (_FULL, _FIRST) else parts + piece
        if kind in (_FULL, _LAST):
            yield parts
        at += _HEAD + length


def _call(data: bytes) -> dict[str, object]:
    row: dict[str, object] = {}
    number: int | None = None
    for field, value in fields(data):
        if field == 1:
            name, found = _item(value)
            row[name] = found
        elif field == 2:
            number = next((signed(v) for f, v in fields(value) if f == 1), 0)
    return row if number is None else {**row, "_step": number}


def _item(data: bytes) -> tuple[str, Any]:
    key, nested = "", []
    value: Any = None
    for field, content in fields(data):
        if field == 1:
            key = text(content)
        elif field == 2:
            nested.append(text(content))
        elif field in (8, 16):
            value = parsed(text(content), "a value")
        elif field == 4:
            value = bool(content)
        elif field == 5:
            value = signed(content)
        elif field == 6:
            value = real(content, "<d")
        elif field == 7:
            value = text(content)
    return key or ".".join(nested), value
