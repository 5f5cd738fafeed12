"""Content addresses: the digest of a value, and of the code that decides a number."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def digest(value: Any) -> str:
    """16 hex digits of a JSON-serialisable value."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def source_hash(analysis_file: Path) -> str:
    """Hash of the code a number depends on: the analysis's file, its group's helpers, `analyses/core` and `probe`."""
    files = [analysis_file, *sorted(analysis_file.parent.glob("_*.py"))]
    files += sorted((REPOSITORY / "analyses/core").rglob("*.py"))
    files += sorted((REPOSITORY / "probe").rglob("*.py"))
    return hashlib.sha256(b"\0".join(f.read_bytes() for f in files)).hexdigest()[:16]
