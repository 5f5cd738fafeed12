"""JSON objects of a JSONL file, line by line, as other programs write them.

Lines end in \\n only: U+2028, U+2029 and U+0085 are characters of a text (a writer with `ensure_ascii=False` leaves
them as they are). A byte-order mark and blank lines are no content.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from probe.errors import InputError


def text_of(file: Path) -> str:
    """A file's text, without a byte-order mark.

    Raises:
        InputError: bytes that are not UTF-8.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 text (byte {error.start}); expected a text file") from error


def json_objects(file: Path, expected: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of every line that is not blank.

    Raises:
        InputError: malformed JSON, something else than an object, or text that no file can hold (a lone half of a
            surrogate pair, as a string cut inside an emoji leaves), each with its line.
    """
    for number, line in enumerate(text_of(file).split("\n"), start=1):
        if not line.strip():
            continue
        row = parsed(line, f"{file}, line {number}")
        if not isinstance(row, dict):
            raise InputError(f"{file}, line {number}: expected {expected}; got {line:.60}")
        yield number, row


def parsed(text: str, where: str) -> Any:
    """The value that a text writes in JSON.

    Raises:
        InputError: malformed JSON, or text that no file can hold (a lone half of a surrogate pair).
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: malformed JSON ({error.msg}); a truncated file?") from error
    except RecursionError as error:
        raise InputError(f"{where}: JSON nested too deeply to be read") from error
    if "\\ud" in text.lower():
        _check_encodable(text, value, where)
    return value


def _check_encodable(text: str, value: object, where: str) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: holds half of a surrogate pair (a text cut inside an emoji?), which is no character; "
            f"mend that line ({text[:40]!r} ...)"
        ) from error
