"""Texts of the items of a result, as they stand in the prompt file it was made from."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from apps.catalog import Entry, located

Written = list[tuple[str, str, str]]  # prompt, answer, whose answer it is


def source(entry: Entry) -> str:
    """The prompt file a result was made from, or the result it was made of; "" where none is named."""
    given = entry.record.get("inputs", {}).get("prompts", {})
    return str(given.get("source") or (source(entry.source) if entry.source else ""))


def of(entry: Entry) -> dict[str, Written]:
    """Texts of the items of an entry; {} where its prompt file is out of reach or in another form."""
    path = located(source(entry), entry.root) if source(entry) else None
    is_read = path is not None and path.suffix == ".jsonl" and path.is_file()
    return _read(str(path), path.stat().st_mtime_ns) if path and is_read else {}


@lru_cache(maxsize=8)
def _read(source: str, modified: int) -> dict[str, Written]:  # noqa: ARG001 (a file written again is read again)
    found: dict[str, Written] = {}
    try:
        with Path(source).open(encoding="utf-8") as lines:
            for row in (json.loads(line) for line in lines if line.strip()):
                if not isinstance(row, dict):
                    return {}
                text = (str(row.get("prompt", "")), str(row.get("answer", "")), str(row.get("answer_kind", "given")))
                found.setdefault(str(row.get("id")), []).append(text)
    except ValueError:
        return {}
    return found
