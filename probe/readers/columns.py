"""Where a field of an item comes from in a row: column names, paths into nested columns, texts built of several."""

from __future__ import annotations

import json
import math
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from probe.errors import InputError

Row = Mapping[str, Any]
Source = str | Sequence[str] | Callable[[Row], Any]
"""A column, a path (`reward_model.ground_truth`, `prompt[0].content`), `#` (row number from 0), `=text` (a constant),
a format string over columns (`{Body} {Question}`, `{choices:A. }` for lettered lines), `column ~ regex` (group 1 of
the last match; `\\boxed{}` reads the last box), several of these with ` || ` between them (the first whose column is
there), or a list of sources (the options of a choice in columns of their own)."""

MISSING = object()
_PATH = re.compile(r"\[(\d+)\]|([^.\[\]]+)")


class _Filler(string.Formatter):
    """Format strings over a row; a list with a format such as `A. ` or `(A) ` becomes lettered lines."""

    def format_field(self, value: object, format_spec: str) -> str:
        value = parsed_list(value)
        if isinstance(value, list) and "A" in format_spec:
            lines = [format_spec.replace("A", letter(n)) + text(v) for n, v in enumerate(cast("list[Any]", value))]
            return "\n".join(lines)
        return text(value) if not format_spec else str(super().format_field(value, format_spec))


def letter(index: int) -> str:
    """A, B, C ... of an option's index."""
    return chr(ord("A") + index)


def is_missing(value: object) -> bool:
    """True for an empty cell: None, NaN, pandas's NA and NaT."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in _NO_VALUES


_NO_VALUES = ("NAType", "NaTType")


def plain(value: Any) -> Any:
    """A cell in Python's own types: arrays as lists, scalars of NumPy unwrapped, all the way down."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in cast("Sequence[Any]", value)]
    if type(value).__module__ == "numpy":
        return plain(value.tolist())
    return value


def text(value: object) -> str:
    """A scalar as text; a whole number stays one however its column was typed (4.0 is 4)."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value)


def value_of(source: Source, row: Row, n: int, where: str) -> Any:
    """What the source says of a row; `MISSING` where its column is absent.

    Args:
        source: column, "#", "=text", pattern, format or function, or a list of them.
        row: the row.
        n: its number.
        where: how the row is named in errors.

    Raises:
        InputError: a pattern that matches nothing, a format string that cannot be filled.
    """
    if callable(source):
        try:
            return source(row)
        except KeyError:
            return MISSING
    if not isinstance(source, str):
        return [value_of(s, row, n, where) for s in source]
    if source in row:
        return row[source]
    if source == "#":
        return str(n)
    if source.startswith("="):
        return source[1:]
    if " || " in source:
        values = (value_of(part, row, n, where) for part in source.split(" || "))
        return next((v for v in values if v is not MISSING and not is_missing(v)), MISSING)
    if " ~ " in source:
        name, _, pattern = source.partition(" ~ ")
        found = value_of(name, row, n, where)
        return found if found is MISSING else extract(pattern, text(found), where)
    if "{" in source:
        return _filled(source, row, where)
    return _walked(source, row)


def _walked(path: str, row: Row) -> Any:
    value: Any = row
    for index, name in _PATH.findall(path):
        if index and isinstance(value, list) and int(index) < len(cast("list[Any]", value)):
            value = cast("list[Any]", value)[int(index)]
        elif name and isinstance(value, Mapping) and name in value:
            value = cast("Mapping[str, Any]", value)[name]
        else:
            return MISSING
    return value


def _filled(source: str, row: Row, where: str) -> str:
    try:
        return _Filler().vformat(source, (), dict(row))
    except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: cannot fill {source!r} from columns {sorted(row)}: {error}") from error


def extract(pattern: str, given: str, where: str) -> str:
    """Group 1 of the last match, or the content of the last box.

    Args:
        pattern: regular expression, or `\boxed{}`.
        given: the text.
        where: how the row is named in errors.

    Raises:
        InputError: nothing matches.
    """
    if pattern == r"\boxed{}":
        return last_box(given, where)
    found = list(re.finditer(pattern, given, re.MULTILINE))
    if not found:
        raise InputError(f"{where}: nothing matches {pattern!r} in {given[-60:]!r}")
    return found[-1].group(1).strip()


def last_box(given: str, where: str) -> str:
    r"""Content of the last `\boxed{...}` or `\fbox{...}` by balanced braces, or of `\boxed 4` up to the next `$`."""
    start = max(given.rfind(r"\boxed"), given.rfind(r"\fbox"))
    after = given[start:].partition("x" if given.startswith(r"\fbox", start) else "d")[2] if start >= 0 else ""
    if after.startswith(" ") and not after.lstrip().startswith("{"):
        return re.split(r"[$\n.]", after.strip(), maxsplit=1)[0].strip()
    depth = 0
    body = after.lstrip()
    for end, sign in enumerate(body if body.startswith("{") else ""):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if depth == 0:
            return body[1:end].strip()
    raise InputError(f"{where}: no complete \\boxed{{...}} in {given[-60:]!r}")


def parsed_list(value: object) -> Any:
    """A list written as JSON in one cell (CSV has no lists), or the value as it is."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value
