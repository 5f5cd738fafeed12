"""Segments of responses: checked where a log has them, derived from masks or tags where it has not.

A segment is a stretch of a response's tokens: `segment_starts` names their first places (sorted, the first 0, each
inside the response), `segment_type` what each is, `segment_id` which call a tool's output answers, `segment_outcome`
whether a call succeeded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from probe.errors import InputError
from probe.readers.lists import flat, is_list, lengths

TYPES = ("think", "call", "tool", "answer", "turn")
TAGS: dict[str, str] = {
    "think": "think", "reasoning": "think", "search": "call", "tool_call": "call", "code": "call", "python": "call",
    "query": "call", "information": "tool", "result": "tool", "tool_response": "tool", "observation": "tool",
    "output": "tool", "interpreter": "tool", "answer": "answer",
}  # fmt: skip
"""Tags of common trace formats, and what stands between them."""
PER_SEGMENT = ("segment_type", "segment_id", "segment_outcome")


def check_segments(table: pa.Table, counts: np.ndarray, where: Sequence[str]) -> None:
    """Raise unless segments are sorted stretches of their responses, and what is said of them has their number.

    Args:
        table: a window of the log.
        counts: tokens of each response.
        where: how each row is named in errors.

    Raises:
        InputError: starts that are null, do not begin with 0, are not sorted, repeat or leave the response; lists of
            other lengths; unknown types (each with its row).
    """
    if "segment_starts" not in table.column_names or pa.types.is_null(table["segment_starts"].type):
        return
    if not is_list(table["segment_starts"].type):
        raise InputError(f"{where[0]}: segment_starts is {table['segment_starts'].type}; expected a list of places")
    marks = lengths(table, "segment_starts")
    _refuse(marks < 0, where, "segment_starts is null; give [0] for one segment")
    starts = flat(table, "segment_starts").astype(np.int64)
    row = np.repeat(np.arange(len(marks)), marks)
    begins = np.cumsum(marks) - marks
    _refuse((marks == 0) & (counts > 0), where, "segment_starts is empty; give [0] for one segment")
    some = marks > 0
    _refuse(_any(row[begins[some]], starts[begins[some]] != 0, len(marks)), where, "segment_starts must begin with 0")
    inner = np.flatnonzero(np.diff(row, prepend=-1) == 0)
    falls = starts[inner] <= starts[inner - 1]
    _refuse(_any(row[inner], falls, len(marks)), where, "segment_starts must be sorted, each place once")
    beyond = (starts >= counts[row]) & ~((starts == 0) & (counts[row] == 0))
    _refuse(_any(row, beyond, len(marks)), where, "segment_starts must lie inside the response (an empty segment?)")
    for name in PER_SEGMENT:
        if name in table.column_names and is_list(table[name].type):
            own = lengths(table, name)
            _refuse((own >= 0) & (own != marks), where, f"{name} must have one entry per segment")
    if "segment_type" in table.column_names and is_list(table["segment_type"].type):
        odd = sorted({str(v) for v in flat(table, "segment_type") if v is not None} - set(TYPES))
        if odd:
            raise InputError(f"{where[0]}: segment_type {odd[:5]} is not known; expected {', '.join(TYPES)}")


def _any(rows: np.ndarray, bad: np.ndarray, n: int) -> np.ndarray:
    found = np.zeros(n, bool)
    found[rows[bad]] = True
    return found


def _refuse(bad: np.ndarray, where: Sequence[str], why: str) -> None:
    if bad.any():
        raise InputError(f"{where[int(np.argmax(bad))]}: {why} ({int(bad.sum())} such row(s) near it)")


def segment_numbers(table: pa.Table, counts: np.ndarray) -> np.ndarray:
    """The segment each token of these (checked) responses is in, from 0, response after response."""
    marks = lengths(table, "segment_starts")
    begins = np.cumsum(counts) - counts
    starts = np.repeat(begins, marks) + flat(table, "segment_starts")
    real = np.repeat(counts, marks) > 0
    number = np.zeros(int(counts.sum()), np.int64)
    number[starts[real]] = 1
    running = np.cumsum(number)
    before = np.where(counts > 0, running[np.minimum(begins, max(len(running) - 1, 0))] if len(running) else 0, 0)
    return running - np.repeat(before, counts)


def from_masks(masks: Sequence[Sequence[bool]]) -> tuple[list[list[int]], list[list[str]]]:
    """Starts and types of the runs of each mask: what the policy did not sample is a tool's, the rest its turns."""
    starts: list[list[int]] = []
    types: list[list[str]] = []
    for mask in masks:
        values = np.asarray(mask, bool)
        edges = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist()] if len(values) else []
        starts.append(edges)
        types.append(["turn" if values[e] else "tool" for e in edges])
    return starts, types


def from_tags(
    ids: Sequence[Sequence[int]], texts: Mapping[int, str], tags: Mapping[str, str] = TAGS, pattern: str = ""
) -> tuple[list[list[int]], list[list[str]]]:
    """Starts and types of the stretches between tags, the tags themselves included; what no tag names is a `turn`.

    Args:
        ids: the responses' token ids.
        texts: what each id decodes to by itself.
        tags: tag name to type; a tag that is opened and not closed reaches to the end.
        pattern: a regular expression with groups named after types instead of tags.

    A token on the edge belongs to the stretch its first character is in.
    """
    search = _pattern(tags, pattern)
    starts: list[list[int]] = []
    types: list[list[str]] = []
    for row in ids:
        pieces = [texts[int(i)] for i in row]
        place = np.cumsum([0, *map(len, pieces)])
        edges: dict[int, str] = {0: "turn"} if len(row) else {}
        for match in search.finditer("".join(pieces)):
            kind = next(k for k, v in match.groupdict().items() if v is not None)
            first, end = (int(np.searchsorted(place, at)) for at in match.span())
            edges[first] = kind.rstrip("_0123456789")
            edges.setdefault(end, "turn")
        kept = sorted(e for e in edges if e < len(row))
        starts.append(kept)
        types.append([edges[e] for e in kept])
    return starts, types


def tool_masked(
    masks: Sequence[Sequence[bool]], starts: Sequence[Sequence[int]], types: Sequence[Sequence[str]]
) -> list[list[bool]]:
    """The masks with the tokens of tools' segments taken out.

    Args:
        masks: True at tokens that count, by response.
        starts: first tokens of the segments, by response.
        types: types of the segments, by response.
    """
    out: list[list[bool]] = []
    for mask, begins, kinds in zip(masks, starts, types, strict=True):
        kept = [bool(m) for m in mask]
        for begin, end, kind in zip(begins, [*begins[1:], len(kept)], kinds, strict=True):
            if kind == "tool":
                kept[begin:end] = [False] * (end - begin)
        out.append(kept)
    return out


def segmented(table: pa.Table, tokenizer: Any, pattern: str) -> pa.Table:
    """The table with segments made anew from its masks, or from the tags (or the pattern) in its text.

    What a tag says a tool wrote is masked out.

    Args:
        table: a window of the log.
        tokenizer: the model's, None to go by the masks.
        pattern: regular expression with named groups, "" for the known tags.
    """
    table = table.drop_columns([c for c in table.column_names if c in ("segment_starts", *PER_SEGMENT)])
    ids = table["response_token_ids"].to_pylist()
    masked = "response_mask" in table.column_names
    masks = table["response_mask"].to_pylist() if masked else [[True] * len(i) for i in ids]
    if tokenizer is None:
        starts, types = from_masks(masks)
    else:
        texts = {i: str(tokenizer.decode([i], skip_special_tokens=False)) for i in {i for row in ids for i in row}}
        starts, types = from_tags(ids, texts, pattern=pattern)
        masks = tool_masked(masks, starts, types)
        table = table.drop_columns(["response_mask"] if masked else [])
        table = table.append_column("response_mask", pa.array(masks, pa.list_(pa.bool_())))
    table = table.append_column("segment_starts", pa.array(starts, pa.list_(pa.int32())))
    return table.append_column("segment_type", pa.array(types, pa.list_(pa.string())))


def _pattern(tags: Mapping[str, str], pattern: str) -> re.Pattern[str]:
    if not pattern:
        parts = [f"(?P<{kind}_{n}><{t}>.*?(?:</{t}>|$))" for n, (t, kind) in enumerate(tags.items())]
        return re.compile("|".join(parts), re.DOTALL)
    try:
        made = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise InputError(f"pattern {pattern!r} is no regular expression: {error}") from error
    odd = sorted(set(made.groupindex) - set(TYPES))
    if odd or not made.groupindex:
        raise InputError(
            f"pattern {pattern!r} has groups {odd or 'of no name'}; expected groups named {', '.join(TYPES)}, such as "
            "(?P<call><search>.*?</search>)"
        )
    return made
